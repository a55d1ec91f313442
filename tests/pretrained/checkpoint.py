"""Tiny random Whisper checkpoints as their makers write them: safetensors folders, and CTranslate2's model.bin."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

Array = npt.NDArray[Any]

WIDTH, HEADS, FEED_FORWARD, ENCODER_LAYERS, DECODER_LAYERS = 48, 3, 80, 2, 3
NUM_MELS, MAX_FRAMES, MAX_LENGTH, NUM_TIMESTAMPS = 10, 36, 24, 7
CONTROL = [
    "<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|haw|>", "<|translate|>", "<|transcribe|>",
    "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>",
]  # fmt: skip
SUPPRESSED, SUPPRESSED_FIRST, ALIGNMENT_HEADS = [1, 5, 9], [7, 11], [[0, 1], [2, 2]]


def write_tokenizer(path: Path) -> Tokenizer:
    """Byte-level BPE with Whisper's control pieces behind the text's; time stamps have none."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    text = ["the quick brown fox jumps over the lazy dog", "she sells sea shells by the sea shore"] * 3
    trainer = BpeTrainer(vocab_size=300, initial_alphabet=ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(text, trainer)
    tokenizer.add_special_tokens(CONTROL)
    tokenizer.save(str(path))
    return tokenizer


def random_tensors(vocabulary_size: int, seed: int = 0) -> dict[str, Array]:
    """Every tensor under its name in transformers; of such a size that what is decoded depends on the source."""
    random = np.random.default_rng(seed)
    tensors: dict[str, Array] = {}

    def put(name: str, *shape: int, scale: float = 1.0, offset: float = 0.0) -> None:
        tensors[f"model.{name}"] = (offset + scale * random.standard_normal(shape)).astype(np.float32)

    def put_linear(name: str, outputs: int, inputs: int, *, has_bias: bool = True) -> None:
        put(f"{name}.weight", outputs, inputs, scale=1.5 * inputs**-0.5)
        if has_bias:
            put(f"{name}.bias", outputs, scale=0.2)

    def put_norm(name: str) -> None:
        put(f"{name}.weight", WIDTH, scale=0.1, offset=1.0)
        put(f"{name}.bias", WIDTH, scale=0.1)

    def put_attention(name: str) -> None:
        for part in "kvq":
            put_linear(f"{name}.{part}_proj", WIDTH, WIDTH, has_bias=part != "k")
        put_linear(f"{name}.out_proj", WIDTH, WIDTH)
        put_norm(f"{name}_layer_norm")

    put("encoder.conv1.weight", WIDTH, NUM_MELS, 3, scale=0.3)
    put("encoder.conv1.bias", WIDTH, scale=0.2)
    put("encoder.conv2.weight", WIDTH, WIDTH, 3, scale=0.15)
    put("encoder.conv2.bias", WIDTH, scale=0.2)
    put("encoder.embed_positions.weight", MAX_FRAMES // 2, WIDTH, scale=0.5)
    put("decoder.embed_positions.weight", MAX_LENGTH, WIDTH, scale=0.5)
    put("decoder.embed_tokens.weight", vocabulary_size, WIDTH, scale=0.8)
    for side, count in (("encoder", ENCODER_LAYERS), ("decoder", DECODER_LAYERS)):
        put_norm(f"{side}.layer_norm")
        for layer in range(count):
            name = f"{side}.layers.{layer}"
            put_attention(f"{name}.self_attn")
            if side == "decoder":
                put_attention(f"{name}.encoder_attn")
            put_linear(f"{name}.fc1", FEED_FORWARD, WIDTH)
            put_linear(f"{name}.fc2", WIDTH, FEED_FORWARD)
            put_norm(f"{name}.final_layer_norm")
    return tensors


def hf_config(vocabulary_size: int) -> dict[str, Any]:
    return {
        "model_type": "whisper",
        "activation_function": "gelu",
        "d_model": WIDTH,
        "num_mel_bins": NUM_MELS,
        "encoder_attention_heads": HEADS,
        "decoder_attention_heads": HEADS,
        "encoder_ffn_dim": FEED_FORWARD,
        "decoder_ffn_dim": FEED_FORWARD,
        "encoder_layers": ENCODER_LAYERS,
        "decoder_layers": DECODER_LAYERS,
        "max_source_positions": MAX_FRAMES // 2,
        "max_target_positions": MAX_LENGTH,
        "scale_embedding": False,
        "vocab_size": vocabulary_size,
    }


def write_huggingface(folder: Path, seed: int = 0) -> dict[str, Array]:
    """A checkpoint folder of transformers; its tensors."""
    folder.mkdir(parents=True, exist_ok=True)
    size = write_tokenizer(folder / "tokenizer.json").get_vocab_size() + NUM_TIMESTAMPS
    tensors = random_tensors(size, seed)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(hf_config(size)))
    decoding = {
        "suppress_tokens": SUPPRESSED,
        "begin_suppress_tokens": SUPPRESSED_FIRST,
        "alignment_heads": ALIGNMENT_HEADS,
    }
    (folder / "generation_config.json").write_text(json.dumps(decoding))
    return tensors


def write_ctranslate2(folder: Path, precision: str = "float32", seed: int = 0) -> dict[str, Array]:
    """The same checkpoint as ctranslate2 converts it; the tensors under their names in transformers."""
    folder.mkdir(parents=True, exist_ok=True)
    size = write_tokenizer(folder / "tokenizer.json").get_vocab_size() + NUM_TIMESTAMPS
    tensors = random_tensors(size, seed)
    write_model_bin(folder / "model.bin", ct2_variables(tensors, precision), PROJECTION_ALIAS)
    decoding = {
        "suppress_ids": SUPPRESSED,
        "suppress_ids_begin": SUPPRESSED_FIRST,
        "alignment_heads": ALIGNMENT_HEADS,
        "lang_ids": [],
    }
    (folder / "config.json").write_text(json.dumps(decoding))
    return tensors


PROJECTION_ALIAS = {"decoder/projection/weight": "decoder/embeddings/weight"}
_TYPES = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4}


def ct2_variables(tensors: Mapping[str, Array], precision: str) -> dict[str, Array]:
    """Tensors of transformers under ctranslate2's names; matrices of int8 have a scale a row."""

    def of(name: str) -> Array:
        return tensors[f"model.{name}"]

    def joined(name: str, parts: str, kind: str) -> Array:
        zeros = np.zeros(WIDTH, np.float32)
        return np.concatenate([tensors.get(f"model.{name}.{part}_proj.{kind}", zeros) for part in parts])

    variables: dict[str, Array] = {
        "decoder/activation": np.array(3, np.int8),
        "decoder/alignment_heads": np.array(1, np.int16),
        "decoder/num_heads": np.array(HEADS, np.int16),
        "decoder/scale_embeddings": np.array(0, np.int8),
        "encoder/num_heads": np.array(HEADS, np.int16),
        "decoder/embeddings/weight": of("decoder.embed_tokens.weight"),
    }
    for side, count in (("encoder", ENCODER_LAYERS), ("decoder", DECODER_LAYERS)):
        variables[f"{side}/position_encodings/encodings"] = of(f"{side}.embed_positions.weight")
        norms = {f"{side}/layer_norm": f"{side}.layer_norm"}
        for layer in range(count):
            ours, theirs = f"{side}/layer_{layer}", f"{side}.layers.{layer}"
            norms[f"{ours}/self_attention/layer_norm"] = f"{theirs}.self_attn_layer_norm"
            norms[f"{ours}/ffn/layer_norm"] = f"{theirs}.final_layer_norm"
            for kind in ("weight", "bias"):
                variables[f"{ours}/self_attention/linear_0/{kind}"] = joined(f"{theirs}.self_attn", "qkv", kind)
                variables[f"{ours}/self_attention/linear_1/{kind}"] = of(f"{theirs}.self_attn.out_proj.{kind}")
                variables[f"{ours}/ffn/linear_0/{kind}"] = of(f"{theirs}.fc1.{kind}")
                variables[f"{ours}/ffn/linear_1/{kind}"] = of(f"{theirs}.fc2.{kind}")
                if side == "decoder":
                    norms[f"{ours}/attention/layer_norm"] = f"{theirs}.encoder_attn_layer_norm"
                    variables[f"{ours}/attention/linear_0/{kind}"] = joined(f"{theirs}.encoder_attn", "q", kind)
                    variables[f"{ours}/attention/linear_1/{kind}"] = joined(f"{theirs}.encoder_attn", "kv", kind)
                    variables[f"{ours}/attention/linear_2/{kind}"] = of(f"{theirs}.encoder_attn.out_proj.{kind}")
        for ours, theirs in norms.items():
            variables[f"{ours}/gamma"], variables[f"{ours}/beta"] = of(f"{theirs}.weight"), of(f"{theirs}.bias")
    for layer in (1, 2):
        for kind in ("weight", "bias"):
            variables[f"encoder/conv{layer}/{kind}"] = of(f"encoder.conv{layer}.{kind}")
    return {name: value for raw in variables.items() for name, value in _in_precision(*raw, precision).items()}


def _in_precision(name: str, value: Array, precision: str) -> dict[str, Array]:
    if not value.ndim:
        return {name: value}
    if precision == "int8" and value.ndim == 2 and name.endswith("weight"):
        scale = (127 / np.abs(value).max(axis=1)).astype(np.float32)
        return {name: np.rint(value * scale[:, None]).astype(np.int8), f"{name}_scale": scale}
    return {name: value.astype(np.float16 if precision == "float16" else np.float32)}


def write_model_bin(
    path: Path, variables: Mapping[str, Array], aliases: Mapping[str, str], kind: str = "WhisperSpec", version: int = 6
) -> None:
    """Source: ctranslate2, `python/ctranslate2/specs/model_spec.py`, Model.save."""

    def text(value: str) -> bytes:
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    content = struct.pack("<I", version) + text(kind) + struct.pack("<II", 3, len(variables))
    for name, value in variables.items():
        content += text(name) + struct.pack(f"<B{value.ndim}I", value.ndim, *value.shape)
        content += struct.pack("<BI", _TYPES[value.dtype.name], value.nbytes) + value.tobytes()
    content += struct.pack("<I", len(aliases))
    for alias, name in aliases.items():
        content += text(alias) + text(name)
    path.write_bytes(content)
