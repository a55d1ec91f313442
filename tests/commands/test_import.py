"""`seq2serve import`: a public checkpoint becomes a version that the engine runs as PyTorch does."""

import tomllib
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from app.cli import app
from app.commands.import_ import synthetic_features
from app.decoding.interface import SearchOptions
from app.decoding.running import generate
from app.engine.model import load_model
from app.errors import CheckpointError
from app.models.stepping import TorchModel
from app.pretrained.reading import read_pretrained
from app.store.manifest import Golden, GoldenFeatures
from app.store.registry import Registry
from app.text.tokenizer import open_tokenizer
from tests.pretrained import checkpoint


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The checkpoint's folder and the store that it was imported into."""
    folder, store = tmp_path_factory.mktemp("Tiny Whisper"), tmp_path_factory.mktemp("model_store")
    checkpoint.write_huggingface(folder)
    options = ["--store", str(store), "--name", "tiny-whisper", "--version", "1", "--keep-fp32", "--keep-fp16"]
    result = CliRunner().invoke(app, ["import", str(folder), *options], catch_exceptions=False)
    assert result.exit_code == 0
    return folder, store


def test_what_is_published_is_whole_and_says_what_it_is(imported: tuple[Path, Path]) -> None:
    source, store = imported
    folder, manifest = Registry(store).resolve("tiny-whisper", "1")
    assert Registry.verify(folder) == manifest
    public = read_pretrained(str(source))
    assert manifest.task == "transcribe" and manifest.architecture == "speech"
    assert manifest.speech == public.speech
    assert (manifest.bos_id, manifest.eos_id) == (public.bos_id, public.eos_id)
    assert (manifest.max_source_length, manifest.max_target_length) == (checkpoint.MAX_FRAMES, checkpoint.MAX_LENGTH)
    assert set(manifest.variants) == {"int8", "fp16", "fp32"}
    assert tomllib.loads((folder / "recipe.toml").read_text())["model"]["num_mels"] == checkpoint.NUM_MELS
    tokenizer = open_tokenizer(folder / manifest.tokenizer.file, manifest.tokenizer.kind)
    assert tokenizer.decode(tokenizer.encode("the fox")) == "the fox"


@pytest.mark.parametrize("variant", ["int8", "fp16", "fp32"])
def test_every_variant_starts_as_the_service_starts_it(imported: tuple[Path, Path], variant: str) -> None:
    folder, manifest = Registry(imported[1]).resolve("tiny-whisper", "1")
    golden = Golden.model_validate_json((folder / "golden.json").read_bytes())
    assert manifest.speech is not None
    assert tuple(golden.prefix) == manifest.speech.prefix("en", "transcribe", has_timestamps=False)
    assert all(isinstance(case.source, GoldenFeatures) for case in golden.cases)
    assert all(case.target[: len(golden.prefix)] == golden.prefix for case in golden.cases)
    model = load_model(folder, manifest, variant, "cpu", 1)
    model.warm_up()
    model.check_golden(folder)


def test_the_engine_decodes_what_pytorch_decodes(imported: tuple[Path, Path]) -> None:
    source, store = imported
    public = read_pretrained(str(source))
    folder, manifest = Registry(store).resolve("tiny-whisper", "1")
    prefix = public.speech.prefix("haw", "translate", has_timestamps=True)
    reference = TorchModel(
        public.model, bos_id=public.bos_id, eos_id=public.eos_id, pad_id=public.eos_id, max_target_length=24
    )
    exported = load_model(folder, manifest, "fp32", "cpu", 1)
    windows = synthetic_features(6, checkpoint.MAX_FRAMES, checkpoint.NUM_MELS)
    for beam_size in (1, 3):
        options = SearchOptions(max_length=20, beam_size=beam_size, prefix=prefix)
        results = [generate(model, windows, options) for model in (reference, exported)]
        ids = [[hypotheses[0].ids for hypotheses in result] for result in results]
        assert ids[0] == ids[1]
        assert all(target[: len(prefix)] == prefix for target in ids[0])
        assert len(set(ids[0])) > 3  # the model hears something
        assert not set(np.concatenate(ids[0])) & set(checkpoint.SUPPRESSED)


def test_a_changed_golden_case_is_noticed(imported: tuple[Path, Path]) -> None:
    folder, manifest = Registry(imported[1]).resolve("tiny-whisper", "1")
    golden = Golden.model_validate_json((folder / "golden.json").read_bytes())
    model = load_model(folder, manifest, "fp32", "cpu", 1)
    assert model.find_mismatch(golden) is None
    case = golden.cases[0]
    place = len(golden.prefix)
    wrong = case.model_copy(update={"target": [*case.target[:place], 17, *case.target[place + 1 :]]})
    found = model.find_mismatch(golden.model_copy(update={"cases": [wrong]}))
    assert found is not None and f"position {place}: recorded id 17" in found


def test_synthetic_features_look_like_whispers() -> None:
    windows = synthetic_features(4, 300, 80)
    assert all(window.shape == (300, 80) and window.dtype == np.float32 for window in windows)
    for window in windows:
        assert window.max() - window.min() == pytest.approx(2.0, abs=1e-5)
        assert (window[-1] == window.min()).all() and window[:30].std() > 0.2
    assert not np.array_equal(windows[0], windows[1])
    np.testing.assert_array_equal(windows[0], synthetic_features(1, 300, 80)[0])


def test_a_folder_that_holds_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds neither model.bin nor config.json"):
        CliRunner().invoke(app, ["import", str(tmp_path)], catch_exceptions=False)
