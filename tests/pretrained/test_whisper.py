"""Whisper's checkpoints in our own class compute what Whisper computes, and say what they are."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from app.errors import CheckpointError
from app.pretrained.reading import read_pretrained
from app.pretrained.whisper import SUPPRESSION
from tests.pretrained import checkpoint
from tests.pretrained.oracle import Oracle

FEATURES = np.random.default_rng(1).standard_normal((2, checkpoint.MAX_FRAMES, checkpoint.NUM_MELS)).astype(np.float32)
IDS = np.random.default_rng(2).integers(0, 290, (2, 9))
# Float32 in another order, at logits of about 20.
TOLERANCE = 5e-5
# What rounding of the weights to half precision, or to 8 bits, moves such logits.
ROUNDED = {"float32": TOLERANCE, "float16": 0.3, "int8": 6.0}


def logits(folder: Path) -> np.ndarray:
    """[2, T, V]; the suppressed ids' own."""
    imported = read_pretrained(str(folder))
    lengths = torch.tensor([checkpoint.MAX_FRAMES] * 2)
    with torch.inference_mode():
        found = imported.model(torch.from_numpy(FEATURES), lengths, torch.from_numpy(IDS)).numpy()
    found[..., checkpoint.SUPPRESSED] -= SUPPRESSION
    return found


def test_safetensors_checkpoint_gives_whispers_logits(tmp_path: Path) -> None:
    oracle = Oracle(checkpoint.write_huggingface(tmp_path))
    expected = np.stack([oracle.logits(*pair) for pair in zip(FEATURES, IDS, strict=True)])
    assert expected.std() > 3  # else it would prove little
    np.testing.assert_allclose(logits(tmp_path), expected, atol=TOLERANCE)


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_ctranslate2_folder_gives_whispers_logits(tmp_path: Path, precision: str) -> None:
    oracle = Oracle(checkpoint.write_ctranslate2(tmp_path, precision))
    expected = np.stack([oracle.logits(*pair) for pair in zip(FEATURES, IDS, strict=True)])
    difference = np.abs(logits(tmp_path) - expected)
    assert difference.max() < ROUNDED[precision] and difference.mean() < ROUNDED[precision] / 5


def test_weights_in_parts_are_read_by_their_index(tmp_path: Path) -> None:
    tensors = checkpoint.write_huggingface(tmp_path)
    expected = logits(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, chosen in parts.items():
        save_file({name: tensors[name] for name in chosen}, tmp_path / file)
    index = {"weight_map": {name: file for file, chosen in parts.items() for name in chosen}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    np.testing.assert_array_equal(logits(tmp_path), expected)


@pytest.mark.parametrize("write", [checkpoint.write_huggingface, checkpoint.write_ctranslate2])
def test_what_concerns_decoding_is_taken_over(tmp_path: Path, write: type) -> None:
    write(tmp_path)
    imported = read_pretrained(str(tmp_path))
    ids = {piece: imported.bos_id - 1 + place for place, piece in enumerate(checkpoint.CONTROL)}
    speech = imported.speech
    assert imported.eos_id == ids["<|endoftext|>"]
    assert (speech.num_mels, speech.window_frames) == (checkpoint.NUM_MELS, checkpoint.MAX_FRAMES)
    assert speech.languages == ["en", "haw"]
    assert speech.language_ids == {"en": ids["<|en|>"], "haw": ids["<|haw|>"]}
    assert speech.task_ids == {"transcribe": ids["<|transcribe|>"], "translate": ids["<|translate|>"]}
    assert speech.no_speech_id == ids["<|nospeech|>"] and speech.previous_text_id == ids["<|startofprev|>"]
    assert speech.first_timestamp_id == ids["<|notimestamps|>"] + 1
    assert speech.suppressed_ids == checkpoint.SUPPRESSED
    assert speech.suppressed_first_ids == checkpoint.SUPPRESSED_FIRST
    assert speech.alignment_heads == [tuple(pair) for pair in checkpoint.ALIGNMENT_HEADS]
    plain = (ids["<|haw|>"], ids["<|translate|>"], ids["<|notimestamps|>"])
    assert speech.prefix("haw", "translate", has_timestamps=False) == plain
    assert speech.prefix("en", "transcribe", has_timestamps=True) == (ids["<|en|>"], ids["<|transcribe|>"])


def test_suppressed_ids_never_are_candidates_and_their_logits_can_be_told(tmp_path: Path) -> None:
    oracle = Oracle(checkpoint.write_huggingface(tmp_path))
    imported = read_pretrained(str(tmp_path))
    lengths = torch.tensor([checkpoint.MAX_FRAMES] * 2)
    with torch.inference_mode():
        found = imported.model(torch.from_numpy(FEATURES), lengths, torch.from_numpy(IDS))
    assert float(found.softmax(-1)[..., checkpoint.SUPPRESSED].max()) == 0.0
    expected = oracle.logits(FEATURES[0], IDS[0])[:, checkpoint.SUPPRESSED]
    np.testing.assert_allclose(found[0].numpy()[:, checkpoint.SUPPRESSED] - SUPPRESSION, expected, atol=1e-4)


def test_tensors_that_do_not_fit_are_all_named(tmp_path: Path) -> None:
    checkpoint.write_huggingface(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["model.encoder.extra"] = tensors.pop("model.decoder.layers.1.fc1.weight")
    tensors["model.encoder.conv1.bias"] = np.zeros(5, np.float32)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        read_pretrained(str(tmp_path))
    assert "missing: model.decoder.layers.1.fc1.weight" in str(caught.value)
    assert "not known: model.encoder.extra" in str(caught.value)
    assert "shape: convolution_1.bias is [48], model.encoder.conv1.bias [5]" in str(caught.value)


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    checkpoint.write_huggingface(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="pickled weights are refused"):
        read_pretrained(str(tmp_path))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model_type", "wav2vec2", "model_type 'wav2vec2' is not read yet"),
        ("activation_function", "relu", "activation_function is 'relu', only 'gelu' is read"),
        ("decoder_attention_heads", 6, "encoder_attention_heads and decoder_attention_heads differ"),
        ("encoder_layers", 1, "not known: model.encoder.layers.1.fc1.bias"),
    ],
)
def test_other_models_are_refused(tmp_path: Path, key: str, value: object, message: str) -> None:
    checkpoint.write_huggingface(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(CheckpointError, match=message):
        read_pretrained(str(tmp_path))


@pytest.mark.parametrize("missing", ["tokenizer.json", "config.json", "model.safetensors"])
def test_a_missing_file_is_named(tmp_path: Path, missing: str) -> None:
    checkpoint.write_huggingface(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(CheckpointError, match=missing):
        read_pretrained(str(tmp_path))


@pytest.mark.parametrize("reference", ["no-such-folder", "./no/such", "/no/such"])
def test_what_is_neither_folder_nor_hub_name_is_refused(reference: str) -> None:
    with pytest.raises(CheckpointError, match="no such folder; give a folder of Whisper"):
        read_pretrained(reference)


def test_a_hub_name_without_the_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match="pip install huggingface_hub, or give a folder"):
        read_pretrained("openai/whisper-small")
