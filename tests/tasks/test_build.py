"""From an artifact to a task: what does not fit together is refused with its reason."""

import shutil
from pathlib import Path

import pytest

from app.errors import ArtifactError
from app.serving.loading import Placement
from app.store.registry import Registry
from app.tasks.build import LoadedTranslator, build
from app.text.tokenizer import TokenizerOptions, learn_tokenizer


def test_what_is_loaded_says_what_it_runs_as(loaded: LoadedTranslator) -> None:
    assert (loaded.variant, loaded.provider) == ("fp32", "CPUExecutionProvider")
    assert loaded.translator.directions == {("en", "de"), ("de", "en")}


def test_a_task_that_does_not_fit_the_model_is_refused(tiny_store: Path, placement: Placement) -> None:
    folder, manifest = Registry(tiny_store).resolve("tiny-en-de")
    with pytest.raises(ArtifactError, match="task 'transcribe' does not fit"):
        build(folder, manifest.model_copy(update={"task": "transcribe"}), placement)


def test_a_tokenizer_with_more_pieces_than_the_model_is_refused(
    tiny_store: Path, placement: Placement, tmp_path: Path, sentence_pairs: list[tuple[str, str]]
) -> None:
    folder, manifest = Registry(tiny_store).resolve("tiny-en-de")
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    sentences = [sentence for pair in sentence_pairs for sentence in pair]
    learn_tokenizer(sentences, TokenizerOptions(vocabulary_size=300), ["en", "de"], copy / manifest.tokenizer.file)
    with pytest.raises(ArtifactError, match="300 pieces, the model knows 241"):
        build(copy, manifest, placement)
