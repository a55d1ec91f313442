"""Whisper (Radford 2022) as our `Speech`, from a folder of CTranslate2 or of Hugging Face's transformers."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy.typing as npt
import torch

from app.errors import CheckpointError
from app.models.speech import SUBSAMPLING, Speech, SpeechConfig
from app.pretrained import ctranslate2
from app.pretrained.huggingface import read_json, read_tensors
from app.pretrained.mapping import fill
from app.store import manifest
from app.text.bpe import BpeTokenizer

Array = npt.NDArray[Any]

TOKENIZER_FILE = "tokenizer.json"
# Far enough that a softmax gives exactly 0, and near enough that float32 keeps the logit: its share of silence
# (no_speech_id) is asked for.
SUPPRESSION = -200.0
# English-only models have GPT-2's vocabulary, where this is the end of text; the multilingual one has one piece more.
_ENGLISH_ONLY_EOS_ID = 50_256
_LANGUAGE = re.compile(r"<\|([a-z]{2,3})\|>")
_CT2_GELU = 3
_CT2_PROJECTION = "decoder/projection/weight"
_HF_PROJECTION = "proj_out.weight"


@dataclass(frozen=True, slots=True)
class Imported:
    """A public model in our own class, and what an artifact has to know of it."""

    model: Speech
    tokenizer_file: Path
    bos_id: int
    eos_id: int
    speech: manifest.Speech


def read_ctranslate2(folder: Path) -> Imported:
    """Whisper as ctranslate2 converts it, in any of its precisions. Raises: CheckpointError."""
    variables = ctranslate2.read_variables(folder / "model.bin")
    if variables.kind != "WhisperSpec":
        raise CheckpointError(f"{folder / 'model.bin'}: is a {variables.kind}, of CTranslate2 only WhisperSpec is read")
    try:
        config = _ct2_config(variables)
    except (KeyError, ValueError, IndexError) as error:
        raise CheckpointError(f"{folder / 'model.bin'}: describes no Whisper model ({error})") from error
    model = Speech(config, len(variables.weights["decoder/embeddings/weight"]))
    fill(model, variables.weights, _ct2_rules(config), {_CT2_PROJECTION})
    settings = read_json(folder / "config.json")
    return _imported(
        folder, model, settings.get("suppress_ids"), settings.get("suppress_ids_begin"), settings.get("alignment_heads")
    )


def read_huggingface(folder: Path) -> Imported:
    """Whisper as transformers saves it, in safetensors. Raises: CheckpointError."""
    settings, tensors = read_json(folder / "config.json"), read_tensors(folder)
    try:
        config = _hf_config(settings)
        model = Speech(config, int(settings["vocab_size"]))
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{folder / 'config.json'}: describes no Whisper model ({error})") from error
    fill(model, tensors, _hf_rules(config), {_HF_PROJECTION})
    # Newer checkpoints keep what concerns decoding in a file of its own.
    path = folder / "generation_config.json"
    decoding = settings | (read_json(path) if path.exists() else {})
    return _imported(
        folder,
        model,
        decoding.get("suppress_tokens"),
        decoding.get("begin_suppress_tokens"),
        decoding.get("alignment_heads"),
    )


def _imported(
    folder: Path,
    model: Speech,
    suppressed_ids: list[int] | None,
    suppressed_first_ids: list[int] | None,
    alignment_heads: list[list[int]] | None,
) -> Imported:
    tokenizer_file = folder / TOKENIZER_FILE
    if not tokenizer_file.exists():
        raise CheckpointError(f"{tokenizer_file}: is missing; take it from the model's page on the Hugging Face Hub")
    control = BpeTokenizer(tokenizer_file).control_pieces
    missing = [piece for piece in ("<|startoftranscript|>", "<|endoftext|>") if piece not in control]
    if missing:
        raise CheckpointError(f"{tokenizer_file}: has no {', '.join(missing)}; it is not Whisper's tokenizer")
    suppressed = sorted(index for index in suppressed_ids or [] if index >= 0)
    with torch.no_grad():
        model.output.bias[suppressed] = SUPPRESSION
    is_multilingual = control["<|endoftext|>"] != _ENGLISH_ONLY_EOS_ID
    no_timestamps_id = control.get("<|notimestamps|>")
    tasks: dict[Literal["transcribe", "translate"], int] = {}
    for task in ("transcribe", "translate"):
        if is_multilingual and f"<|{task}|>" in control:
            tasks[task] = control[f"<|{task}|>"]
    languages = _language_ids(control) if is_multilingual else {}
    no_speech_id = control.get("<|nospeech|>", control.get("<|nocaptions|>"))
    config = model.config
    speech = manifest.Speech(
        num_mels=config.num_mels,
        window_frames=config.max_frames,
        languages=sorted(languages) if is_multilingual else ["en"],
        language_ids=languages,
        task_ids=tasks,
        no_timestamps_id=no_timestamps_id,
        # Not in every tokenizer.json: time stamps are the ids behind.
        first_timestamp_id=None if no_timestamps_id is None else no_timestamps_id + 1,
        no_speech_id=no_speech_id,
        previous_text_id=control.get("<|startofprev|>"),
        suppressed_ids=suppressed,
        suppressed_first_ids=suppressed_first_ids or [],
        suppression=SUPPRESSION,
        probe_ids=[*([] if no_speech_id is None else [no_speech_id]), *languages.values()],
        alignment_heads=sorted((layer, head) for layer, head in alignment_heads or []),
    )
    return Imported(model.eval(), tokenizer_file, control["<|startoftranscript|>"], control["<|endoftext|>"], speech)


def _language_ids(control: Mapping[str, int]) -> dict[str, int]:
    """Language tokens follow the start of the transcript; what follows them are the tasks."""
    first, last = control["<|startoftranscript|>"], control.get("<|translate|>", len(control) + 10**6)
    matches = ((_LANGUAGE.fullmatch(piece), index) for piece, index in control.items())
    return {match[1]: index for match, index in matches if match and first < index < last}


def _config(**sizes: int) -> SpeechConfig:
    """What all Whisper models have in common, and this one's sizes."""
    return SpeechConfig.model_validate(
        {
            "activation": "gelu",
            "norm": "pre",
            "positions": "learned",
            "source_positions": "learned",  # sines, but of other frequencies than ours
            "has_fixed_window": True,
            "scaled_embeddings": False,
            "tied_embeddings": True,
            "dropout": 0.0,
            **sizes,
        }
    )


def _ct2_config(variables: ctranslate2.Variables) -> SpeechConfig:
    weights, settings = variables.weights, variables.settings
    if settings["decoder/activation"] != _CT2_GELU or settings["encoder/num_heads"] != settings["decoder/num_heads"]:
        raise ValueError("another activation than GELU, or other heads in the decoder than in the encoder")
    width, num_mels, _ = weights["encoder/conv1/weight"].shape
    layers = {
        side: len({name.split("/")[1] for name in weights if name.startswith(f"{side}/layer_") and name.count("/") > 2})
        for side in ("encoder", "decoder")
    }
    return _config(
        width=width,
        num_mels=num_mels,
        num_heads=int(settings["encoder/num_heads"]),
        feed_forward_width=len(weights["encoder/layer_0/ffn/linear_0/weight"]),
        encoder_layers=layers["encoder"],
        decoder_layers=layers["decoder"],
        max_frames=SUBSAMPLING * len(weights["encoder/position_encodings/encodings"]),
        max_length=len(weights["decoder/position_encodings/encodings"]),
    )


def _hf_config(settings: Mapping[str, Any]) -> SpeechConfig:
    for name, needed in (("activation_function", "gelu"), ("scale_embedding", False)):
        if settings.get(name, needed) != needed:
            raise ValueError(f"{name} is {settings[name]!r}, only {needed!r} is read")
    for name in ("attention_heads", "ffn_dim"):
        if settings[f"encoder_{name}"] != settings[f"decoder_{name}"]:
            raise ValueError(f"encoder_{name} and decoder_{name} differ")
    return _config(
        width=settings["d_model"],
        num_mels=settings["num_mel_bins"],
        num_heads=settings["encoder_attention_heads"],
        feed_forward_width=settings["encoder_ffn_dim"],
        encoder_layers=settings["encoder_layers"],
        decoder_layers=settings["decoder_layers"],
        max_frames=SUBSAMPLING * settings["max_source_positions"],
        max_length=settings["max_target_positions"],
    )


def _hf_rules(config: SpeechConfig) -> dict[str, list[str | None]]:
    rules: dict[str, list[str | None]] = {
        "embedding.weight": ["model.decoder.embed_tokens.weight"],
        "position_table": ["model.decoder.embed_positions.weight"],
        "source_position_table": ["model.encoder.embed_positions.weight"],
        "output.bias": [None],
    }

    def put(ours: str, *public: str) -> None:
        rules[f"{ours}.weight"] = [f"model.{name}.weight" for name in public]
        rules[f"{ours}.bias"] = [None if name.endswith("k_proj") else f"model.{name}.bias" for name in public]

    put("convolution_1", "encoder.conv1")
    put("convolution_2", "encoder.conv2")
    for side, count in (("encoder", config.encoder_layers), ("decoder", config.decoder_layers)):
        put(f"{side}_norm", f"{side}.layer_norm")
        for index in range(count):
            ours, public = f"{side}_layers.{index}", f"{side}.layers.{index}"
            put(f"{ours}.self_attention.query_key_value", *(f"{public}.self_attn.{part}_proj" for part in "qkv"))
            put(f"{ours}.self_attention.output", f"{public}.self_attn.out_proj")
            put(f"{ours}.self_attention_residual.norm", f"{public}.self_attn_layer_norm")
            put(f"{ours}.feed_forward.up", f"{public}.fc1")
            put(f"{ours}.feed_forward.down", f"{public}.fc2")
            put(f"{ours}.feed_forward_residual.norm", f"{public}.final_layer_norm")
            if side == "decoder":
                put(f"{ours}.cross_attention.query", f"{public}.encoder_attn.q_proj")
                put(f"{ours}.cross_attention.key_value", *(f"{public}.encoder_attn.{part}_proj" for part in "kv"))
                put(f"{ours}.cross_attention.output", f"{public}.encoder_attn.out_proj")
                put(f"{ours}.cross_attention_residual.norm", f"{public}.encoder_attn_layer_norm")
    return rules


def _ct2_rules(config: SpeechConfig) -> dict[str, list[str | None]]:
    rules: dict[str, list[str | None]] = {
        "embedding.weight": ["decoder/embeddings/weight"],
        "position_table": ["decoder/position_encodings/encodings"],
        "source_position_table": ["encoder/position_encodings/encodings"],
        "output.bias": [None],
    }

    def put(ours: str, public: str, parts: tuple[str, str] = ("weight", "bias")) -> None:
        rules[f"{ours}.weight"], rules[f"{ours}.bias"] = [f"{public}/{parts[0]}"], [f"{public}/{parts[1]}"]

    def put_norm(ours: str, public: str) -> None:
        put(ours, public, ("gamma", "beta"))

    put("convolution_1", "encoder/conv1")
    put("convolution_2", "encoder/conv2")
    for side, count in (("encoder", config.encoder_layers), ("decoder", config.decoder_layers)):
        put_norm(f"{side}_norm", f"{side}/layer_norm")
        for index in range(count):
            ours, public = f"{side}_layers.{index}", f"{side}/layer_{index}"
            put(f"{ours}.self_attention.query_key_value", f"{public}/self_attention/linear_0")
            put(f"{ours}.self_attention.output", f"{public}/self_attention/linear_1")
            put_norm(f"{ours}.self_attention_residual.norm", f"{public}/self_attention/layer_norm")
            put(f"{ours}.feed_forward.up", f"{public}/ffn/linear_0")
            put(f"{ours}.feed_forward.down", f"{public}/ffn/linear_1")
            put_norm(f"{ours}.feed_forward_residual.norm", f"{public}/ffn/layer_norm")
            if side == "decoder":
                put(f"{ours}.cross_attention.query", f"{public}/attention/linear_0")
                put(f"{ours}.cross_attention.key_value", f"{public}/attention/linear_1")
                put(f"{ours}.cross_attention.output", f"{public}/attention/linear_2")
                put_norm(f"{ours}.cross_attention_residual.norm", f"{public}/attention/layer_norm")
    return rules
