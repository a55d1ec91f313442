"""A model to evaluate or translate with, from a run's folder (PyTorch) or from the store (ONNX Runtime)."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from app.audio.features import log_mel
from app.audio.waveform import Waveform
from app.decoding.interface import Source, StepModel
from app.engine.session import Device
from app.errors import InputError
from app.evaluation.evaluate import Beginning
from app.store.manifest import Manifest, Speech, Task
from app.store.registry import Registry
from app.text.cleaning import CleaningOptions
from app.text.tokenizer import SentencePieceTokenizer, TextTokenizer, open_tokenizer
from app.training.corpus import language_ids, source_ids
from app.training.recipe import Recipe, read_recipe
from app.training.recordings import speech_of
from app.training.run import Run, step_model
from app.training.vocabulary import beginning_of


@dataclass(frozen=True, slots=True)
class OpenModel:
    """A searchable model with what it needs around it.

    `made_by` is its recipe; an imported model has none. `language_ids` are those of models that read text, `speech`
    is of models that read sound.
    """

    name: str
    task: Task
    model: StepModel
    tokenizer: TextTokenizer
    search: Mapping[str, float]
    max_source_length: int
    language_ids: Mapping[str, int]
    made_by: Recipe | None
    speech: Speech | None = None

    @property
    def recipe(self) -> Recipe:
        """Raises: InputError for an imported model."""
        if self.made_by is None:
            raise InputError(f"{self.name} was imported and has no recipe; name what to evaluate it on with --file")
        return self.made_by

    @property
    def cleaning(self) -> CleaningOptions:
        return CleaningOptions() if self.made_by is None else self.made_by.cleaning

    def beginning(self, language: str) -> Beginning:
        """How a target in `language` is made to begin."""
        return beginning_of(self.speech, language)

    def sources(self, texts: Sequence[str], target_language: str) -> list[Source]:
        """Texts as the encoder reads them. What is longer than the model reads is cut here; the service splits it."""
        if target_language not in self.language_ids:
            known = ", ".join(sorted(self.language_ids))
            raise InputError(f"{self.name} does not know the language {target_language!r}; it knows {known}")
        token = self.language_ids[target_language]
        longest = self.max_source_length - 2  # beside the language token and the end of sentence
        return [source_ids(ids[:longest], token) for ids in self.tokenizer.encode_batch(list(texts))]

    def features(self, waveforms: Sequence[Waveform]) -> list[Source]:
        """Recordings as the encoder reads them, cut likewise."""
        if self.speech is None:
            raise InputError(f"{self.name} reads text, not sound")
        mels, window = self.speech.num_mels, self.speech.window_frames
        return [log_mel(waveform, mels, window)[: self.max_source_length] for waveform in waveforms]


def open_run(folder: Path, device: Device) -> OpenModel:
    """The best weights of a run's folder, in PyTorch."""
    run = Run(folder)
    vocabulary, recipe = run.vocabulary(), run.recipe()
    is_speech, tokenizer = recipe.task == "transcribe", vocabulary.tokenizer
    tokens = language_ids(tokenizer, recipe.languages) if isinstance(tokenizer, SentencePieceTokenizer) else {}
    return OpenModel(
        str(folder),
        recipe.task,
        step_model(run.load_model(), vocabulary, recipe, device),
        tokenizer,
        recipe.search.model_dump(),
        recipe.max_source_length,
        {} if is_speech else tokens,
        recipe,
        speech_of(recipe, vocabulary) if is_speech else None,
    )


def open_published(
    folder: Path, manifest: Manifest, variant: str | None, device: Device, num_threads: int
) -> OpenModel:
    """A published version, in ONNX Runtime."""
    from app.engine.model import load_model

    model = load_model(folder, manifest, variant, device, num_threads)
    return OpenModel(
        f"{manifest.name}@{manifest.version} {model.variant}",
        manifest.task,
        model,
        open_tokenizer(folder / manifest.tokenizer.file, manifest.tokenizer.kind),
        manifest.default_search,
        manifest.max_source_length,
        manifest.tokenizer.language_ids,
        _recipe_in(folder),
        manifest.speech,
    )


def _recipe_in(folder: Path) -> Recipe | None:
    """What an artifact was made by; None where it was imported."""
    path = folder / "recipe.toml"
    is_imported = "imported_from" in tomllib.loads(path.read_text("utf-8"))
    return None if is_imported else read_recipe(path)


def open_model(reference: str, store: Path, variant: str | None, device: Device, num_threads: int) -> OpenModel:
    """`reference` is a run's folder, or NAME or NAME@VERSION in the store."""
    if (Path(reference) / "recipe.toml").exists() and (Path(reference) / "checkpoints").exists():
        return open_run(Path(reference), device)
    name, _, version = reference.partition("@")
    folder, manifest = Registry(store).resolve(name, version or "current")
    return open_published(folder, manifest, variant, device, num_threads)
