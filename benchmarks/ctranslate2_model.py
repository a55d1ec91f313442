"""Our Transformer as a CTranslate2 model, weight for weight, through CTranslate2's own specification and converter."""

from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
from ctranslate2.specs import TransformerSpec, common_spec
from torch import nn

from app.models.transformer import DecoderLayer, EncoderLayer, FeedForward, Residual, Transformer
from app.text.tokenizer import BOS_ID, EOS_ID, UNK_ID

ACTIVATIONS = {
    "relu": common_spec.Activation.RELU,
    "gelu": common_spec.Activation.GELU,
    "swish": common_spec.Activation.SWISH,
}


def token(number: int) -> str:
    """CTranslate2 takes and gives pieces; here a piece is its id."""
    return str(number)


def id_tokens(vocabulary_size: int) -> list[str]:
    """The vocabulary of a model whose tokens are its ids."""
    return [token(number) for number in range(vocabulary_size)]


def convert(model: Transformer, tokens: list[str], folder: Path, adds_end: bool = False) -> None:
    """Write the model in float32 into the new folder; it is quantized when it is loaded.

    `adds_end`: the translator puts the end of sentence behind every source itself.
    """
    config = model.config
    spec = TransformerSpec.from_config(
        (config.encoder_layers, config.decoder_layers),
        config.num_heads,
        pre_norm=config.norm == "pre",
        activation=ACTIVATIONS[config.activation],
    )
    positions = model.position_table.detach().numpy()
    embedding = model.embedding.weight.detach().numpy()
    spec.encoder.embeddings[0].weight = embedding
    spec.decoder.embeddings.weight = embedding
    spec.encoder.position_encodings.encodings = positions
    spec.decoder.position_encodings.encodings = positions
    if config.norm == "pre":
        _norm(spec.encoder.layer_norm, model.encoder_norm)
        _norm(spec.decoder.layer_norm, model.decoder_norm)
    for into, layer in zip(spec.encoder.layer, model.encoder_layers, strict=True):
        assert isinstance(layer, EncoderLayer)
        _self_attention(into.self_attention, layer)
        _feed_forward(into.ffn, layer.feed_forward, layer.feed_forward_residual)
    for into, layer in zip(spec.decoder.layer, model.decoder_layers, strict=True):
        assert isinstance(layer, DecoderLayer)
        _self_attention(into.self_attention, layer)
        cross = layer.cross_attention
        for target, linear in zip(into.attention.linear, (cross.query, cross.key_value, cross.output), strict=True):
            _linear(target, linear)
        _norm(into.attention.layer_norm, layer.cross_attention_residual.norm)
        _feed_forward(into.ffn, layer.feed_forward, layer.feed_forward_residual)
    _linear(spec.decoder.projection, model.output)
    spec.register_source_vocabulary(tokens)
    spec.register_target_vocabulary(tokens)
    spec.config.bos_token = spec.config.decoder_start_token = tokens[BOS_ID]
    spec.config.eos_token, spec.config.unk_token = tokens[EOS_ID], tokens[UNK_ID]
    spec.config.add_source_eos = adds_end
    spec.validate()
    folder.mkdir(parents=True)
    spec.save(str(folder))


def load(folder: Path, compute_type: str, inter_threads: int, intra_threads: int, device: str = "cpu") -> Any:
    """A `ctranslate2.Translator`."""
    return ctranslate2.Translator(
        str(folder),
        device=device,
        compute_type=compute_type,
        inter_threads=inter_threads,
        intra_threads=intra_threads,
    )


def _self_attention(into: Any, layer: EncoderLayer | DecoderLayer) -> None:
    for target, linear in zip(
        into.linear, (layer.self_attention.query_key_value, layer.self_attention.output), strict=True
    ):
        _linear(target, linear)
    _norm(into.layer_norm, layer.self_attention_residual.norm)


def _feed_forward(into: Any, layer: FeedForward, residual: Residual) -> None:
    _linear(into.linear_0, layer.up)
    _linear(into.linear_1, layer.down)
    _norm(into.layer_norm, residual.norm)


def _linear(into: Any, linear: nn.Linear) -> None:
    into.weight, into.bias = linear.weight.detach().numpy(), linear.bias.detach().numpy()


def _norm(into: Any, norm: nn.Module) -> None:
    assert isinstance(norm, nn.LayerNorm)
    into.gamma, into.beta = norm.weight.detach().numpy(), np.asarray(norm.bias.detach().numpy())
