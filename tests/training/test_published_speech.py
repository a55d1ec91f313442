"""A speech recipe becomes a published model; an imported Whisper is trained further and published again."""

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from app.audio.features import log_mel
from app.audio.waveform import read_waveform
from app.cli import app
from app.decoding.interface import SearchOptions
from app.decoding.running import generate
from app.engine.model import load_model
from app.store.manifest import WEIGHTS_FILE, Golden, GoldenFeatures
from app.store.registry import Registry
from app.text.tokenizer import open_tokenizer
from app.training.progress import read_metrics
from app.training.recipe import read_recipe
from app.training.recordings import SpeechBatches, SpeechCorpus
from app.training.run import Run
from tests.pretrained import checkpoint
from tests.training import tones


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    tones.write(folder / "tones")
    return folder


def seq2serve(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("architecture", ["speech", "speech-rnn"])
def test_a_speech_recipe_becomes_a_model_that_hears(architecture: str, data: Path, tmp_path: Path) -> None:
    text = tones.RECIPE.replace("max_steps = 12", "max_steps = 120").replace(
        "evaluate_every = 6", "evaluate_every = 60"
    )
    if architecture == "speech-rnn":
        sizes = text[text.index('architecture = "speech"') : text.index("dropout = 0.1")]
        text = text.replace(sizes, 'architecture = "speech-rnn"\nnum_mels = 12\nmax_frames = 400\nwidth = 32\n')
    recipe, store = tmp_path / "tones.toml", tmp_path / "store"
    recipe.write_text(text)
    seq2serve("train", recipe, "--data", data, "--output", tmp_path / "run", "--store", store, "--device", "cpu")
    (version,) = (path.name for path in (store / "tones" / "versions").iterdir())
    seq2serve("promote", "tones", version, "--store", store)
    folder, manifest = Registry(store).resolve("tones", "current")
    assert (manifest.task, manifest.architecture, manifest.max_source_length) == ("transcribe", architecture, 400)
    assert set(manifest.variants) == {"int8", "fp16"} and manifest.speech is not None
    assert (manifest.speech.num_mels, manifest.speech.window_frames, manifest.speech.languages) == (12, None, ["en"])
    assert manifest.speech.prefix("en", "transcribe", has_timestamps=False) == ()

    golden = Golden.model_validate_json((folder / "golden.json").read_bytes())
    assert all(isinstance(case.source, GoldenFeatures) for case in golden.cases)
    measured = json.loads((folder / "evaluation.json").read_text())
    assert measured["export"]["dev_score"].keys() == {"fp32", "int8", "fp16"}
    assert {record["set"] for record in measured["test"]["int8"]} == {"tones: ann's room", "tones: bob's room"}
    card = (folder / "README.md").read_text()
    assert "Task: transcribe, en\n" in card and "WER / CER" in card

    scores = tmp_path / "scores.json"
    seq2serve("evaluate", "tones", "--data", data, "--store", store, "--output", scores)
    for record in json.loads(scores.read_text()):
        rates = {score["name"]: score["value"] for score in record["scores"]}
        assert record["sentences"] == 24 and rates["WER"] < 40
    # As a server hears it, from the file.
    model = load_model(folder, manifest, "int8", "cpu", 1)
    tokenizer = open_tokenizer(folder / manifest.tokenizer.file, manifest.tokenizer.kind)
    words = []
    for word in tones.WORDS:
        features = log_mel(read_waveform(data / "tones" / f"ann-{word}-3.wav", 30.0), 12)
        (best,) = generate(model, [features], SearchOptions(max_length=8))
        words.append(tokenizer.decode(best[0].ids))
    assert len(set(words)) > 1 and set(words) <= set(tones.WORDS)


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A store with a tiny random Whisper that has its weights, and the [model] of a recipe that goes on from it."""
    folder, store = tmp_path_factory.mktemp("whisper"), tmp_path_factory.mktemp("model_store")
    checkpoint.write_huggingface(folder)
    seq2serve("import", folder, "--name", "tiny-whisper", "--version", "1", "--with-weights", "--store", store)
    imported = (store / "tiny-whisper" / "versions" / "1" / "recipe.toml").read_text()
    return store, imported[imported.index("[model]") :]


def further(whisper: tuple[Path, str], folder: Path) -> Path:
    """A recipe for words of their own, one a window."""
    text = tones.RECIPE[: tones.RECIPE.index("[tokenizer]")]
    text = text.replace('name = "tones"', 'name = "tiny-further"').replace("tilt_db = 1.0\n", "")
    joined = text.index('[[data.train]]\nfiles = ["tones/train.jsonl"]\nlanguages = ["en", "en"]\njoin')
    text = text[:joined] + text[text.index("[[data.dev]]") :].replace("join = { count = [2, 3] }\n", "")
    schedule = tones.RECIPE[tones.RECIPE.index("[training]") :].replace("max_steps = 12", "max_steps = 60")
    schedule = schedule.replace("evaluate_every = 6", "evaluate_every = 30").replace(
        "batch_tokens = 600", "batch_tokens = 800"
    )
    path = folder / "tiny-further.toml"
    path.write_text(
        f"{text}\n{whisper[1]}\n[optimization]\nlearning_rate = 2e-3\nwarmup_steps = 5\nlabel_smoothing = 0.0\n\n"
        f"{schedule}\n[search]\nbeam_size = 1\nmax_length = 20\n"
    )
    return path


def test_targets_of_an_imported_model_begin_as_it_is_asked_and_the_beginning_is_not_learned(
    whisper: tuple[Path, str], data: Path, tmp_path: Path
) -> None:
    recipe = further(whisper, tmp_path)
    recipe.write_text(recipe.read_text().replace("max_steps = 60", "max_steps = 1"))
    start = whisper[0] / "tiny-whisper" / "versions" / "1"
    seq2serve("train", recipe, "--from", start, "--data", data, "--output", tmp_path / "run", "--no-publish")
    manifest = Registry.verify(start)
    vocabulary, read = Run(tmp_path / "run").vocabulary(), read_recipe(recipe)
    assert manifest.speech is not None and vocabulary.size == manifest.vocabulary_size
    corpus = SpeechCorpus(read, data)
    batch = SpeechBatches(corpus.dev, vocabulary, read, max_length=24, seed=0, is_varied=False).build(
        np.array([0, 30]), 0, 0
    )
    prefix = manifest.speech.prefix("en", "transcribe", has_timestamps=False)
    assert len(prefix) == 3
    words = [corpus.dev[0].recordings[row].text for row in (0, 30)]
    for target, gold, word in zip(batch.target.tolist(), batch.gold.tolist(), words, strict=True):
        assert target[:4] == [manifest.bos_id, *prefix]
        learned = [token for token in gold if token != batch.pad_id]
        assert gold[:3] == [batch.pad_id] * 3 and learned[-1] == manifest.eos_id
        assert vocabulary.tokenizer.decode(learned) == f" {word}"
    # All of a window is read, silence too.
    assert batch.source.shape == (2, checkpoint.MAX_FRAMES, checkpoint.NUM_MELS)
    assert batch.lengths.tolist() == [checkpoint.MAX_FRAMES] * 2


def test_an_imported_model_learns_further_and_is_published_again(
    whisper: tuple[Path, str], data: Path, tmp_path: Path
) -> None:
    store, start = whisper[0], whisper[0] / "tiny-whisper" / "versions" / "1"
    assert (start / WEIGHTS_FILE).exists()
    arguments = ["--from", start, "--data", data, "--output", tmp_path / "run", "--store", store, "--device", "cpu"]
    seq2serve("train", further(whisper, tmp_path), *arguments)
    losses = [loss for _, loss in read_metrics(tmp_path / "run")["train/loss"]]
    assert losses[-1] < losses[0] / 2
    (version,) = (path.name for path in (store / "tiny-further" / "versions").iterdir())
    folder, manifest = Registry(store).resolve("tiny-further", version)
    before = Registry.verify(start)
    assert manifest.speech == before.speech and manifest.tokenizer == before.tokenizer
    assert (manifest.bos_id, manifest.eos_id) == (before.bos_id, before.eos_id)
    golden = Golden.model_validate_json((folder / "golden.json").read_bytes())
    assert manifest.speech is not None
    assert tuple(golden.prefix) == manifest.speech.prefix("en", "transcribe", has_timestamps=False)
    assert tomllib.loads((folder / "recipe.toml").read_text())["name"] == "tiny-further"


def test_an_imported_model_is_evaluated_on_a_manifest(whisper: tuple[Path, str], data: Path, tmp_path: Path) -> None:
    output, manifest = tmp_path / "scores.json", data / "tones" / "train.jsonl"
    seq2serve("evaluate", "tiny-whisper@1", "--file", manifest, "--store", whisper[0], "--output", output)
    records = json.loads(output.read_text())
    assert {record["set"] for record in records} == {"ann's room", "bob's room"}
    assert {score["name"] for score in records[0]["scores"]} == {"WER", "CER"}
    refused = CliRunner().invoke(app, ["evaluate", "tiny-whisper@1", "--store", str(whisper[0])])
    assert refused.exit_code != 0 and "--file" in str(refused.exception)
