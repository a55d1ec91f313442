"""Our post-norm Transformer as Hugging Face's `MarianMTModel`, weight for weight."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, MarianConfig, MarianMTModel

from app.models.transformer import DecoderLayer, EncoderLayer, FeedForward, Residual, Transformer
from app.text.tokenizer import BOS_ID, EOS_ID, PAD_ID


def convert(model: Transformer, vocabulary_size: int) -> MarianMTModel:
    """Raises: ValueError for a pre-norm model, which Marian has no form for."""
    config = model.config
    if config.norm != "post":
        raise ValueError("a pre-norm model has no form as MarianMTModel")
    marian = MarianMTModel(
        MarianConfig(
            vocab_size=vocabulary_size, d_model=config.width, max_position_embeddings=config.max_length,
            encoder_layers=config.encoder_layers, decoder_layers=config.decoder_layers,
            encoder_attention_heads=config.num_heads, decoder_attention_heads=config.num_heads,
            encoder_ffn_dim=config.feed_forward_width, decoder_ffn_dim=config.feed_forward_width,
            activation_function=config.activation, scale_embedding=True, dropout=0.0,
            pad_token_id=PAD_ID, eos_token_id=EOS_ID, bos_token_id=BOS_ID, decoder_start_token_id=BOS_ID,
            forced_eos_token_id=None,
        )
    ).eval()  # fmt: skip
    with torch.no_grad():
        marian.get_input_embeddings().weight.copy_(model.embedding.weight)
        marian.lm_head.weight.copy_(model.output.weight)
        marian.final_logits_bias.copy_(model.output.bias)
        for stack, layers in (("encoder", model.encoder_layers), ("decoder", model.decoder_layers)):
            into = getattr(marian.model, stack)
            into.embed_positions.weight.copy_(model.position_table)
            for target, layer in zip(into.layers, layers, strict=True):
                assert isinstance(layer, EncoderLayer | DecoderLayer)
                _layer(target, layer)
    return marian


def generate(marian: MarianMTModel, sources: Tensor, mask: Tensor, beam_size: int, limits: tuple[int, int]) -> Tensor:
    """Ids [B, T] after the begin of sentence; `limits` are the fewest and the most tokens."""
    config = GenerationConfig(
        num_beams=beam_size, do_sample=False, min_new_tokens=limits[0], max_new_tokens=limits[1], length_penalty=1.0,
        pad_token_id=PAD_ID, eos_token_id=EOS_ID, bos_token_id=BOS_ID, decoder_start_token_id=BOS_ID,
    )  # fmt: skip
    with torch.inference_mode():
        found: Tensor = marian.generate(sources, attention_mask=mask, generation_config=config)
    return found[:, 1:]


def _layer(into: Any, layer: EncoderLayer | DecoderLayer) -> None:
    attention = layer.self_attention
    _attention(into.self_attn, attention.query_key_value, attention.output)
    _norm(into.self_attn_layer_norm, layer.self_attention_residual)
    if isinstance(layer, DecoderLayer):
        cross = layer.cross_attention
        joined = nn.Linear(1, 1)
        joined.weight = nn.Parameter(torch.cat([cross.query.weight, cross.key_value.weight]))
        joined.bias = nn.Parameter(torch.cat([cross.query.bias, cross.key_value.bias]))
        _attention(into.encoder_attn, joined, cross.output)
        _norm(into.encoder_attn_layer_norm, layer.cross_attention_residual)
    feed_forward: FeedForward = layer.feed_forward
    _linear(into.fc1, feed_forward.up.weight, feed_forward.up.bias)
    _linear(into.fc2, feed_forward.down.weight, feed_forward.down.bias)
    _norm(into.final_layer_norm, layer.feed_forward_residual)


def _attention(into: Any, query_key_value: nn.Linear, output: nn.Linear) -> None:
    projections = (into.q_proj, into.k_proj, into.v_proj)
    for target, weight, bias in zip(
        projections, query_key_value.weight.chunk(3), query_key_value.bias.chunk(3), strict=True
    ):
        _linear(target, weight, bias)
    _linear(into.out_proj, output.weight, output.bias)


def _linear(into: Any, weight: Tensor, bias: Tensor) -> None:
    into.weight.copy_(weight)
    into.bias.copy_(bias)


def _norm(into: Any, residual: Residual) -> None:
    _linear(into, residual.norm.weight, residual.norm.bias)
