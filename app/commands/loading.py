"""A model to evaluate or translate with, from a run's folder (PyTorch) or from the store (ONNX Runtime)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from app.decoding.interface import Source, StepModel
from app.engine.session import Device
from app.errors import InputError
from app.store.manifest import Manifest
from app.store.registry import Registry
from app.text.tokenizer import SentencePieceTokenizer
from app.training.corpus import language_ids, source_ids
from app.training.recipe import Recipe, read_recipe
from app.training.run import Run, step_model


@dataclass(frozen=True, slots=True)
class OpenModel:
    """A searchable model with what it needs around it, and the recipe that it was made by."""

    name: str
    model: StepModel
    tokenizer: SentencePieceTokenizer
    language_ids: dict[str, int]
    recipe: Recipe

    def sources(self, texts: Sequence[str], target_language: str) -> list[Source]:
        """Texts as the encoder reads them. What is longer than the model reads is cut here; the service splits it."""
        if target_language not in self.language_ids:
            known = ", ".join(sorted(self.language_ids))
            raise InputError(f"{self.name} does not know the language {target_language!r}; it knows {known}")
        token = self.language_ids[target_language]
        longest = self.recipe.max_source_length - 2  # beside the language token and the end of sentence
        return [source_ids(ids[:longest], token) for ids in self.tokenizer.encode_batch(list(texts))]


def open_run(folder: Path, device: Device) -> OpenModel:
    """The best weights of a run's folder, in PyTorch."""
    run = Run(folder)
    tokenizer, recipe = run.tokenizer(), run.recipe()
    model = step_model(run.load_model(), recipe, device)
    return OpenModel(str(folder), model, tokenizer, language_ids(tokenizer, recipe.languages), recipe)


def open_published(
    folder: Path, manifest: Manifest, variant: str | None, device: Device, num_threads: int
) -> OpenModel:
    """A published version, in ONNX Runtime."""
    from app.engine.model import load_model

    model = load_model(folder, manifest, variant, device, num_threads)
    tokenizer = SentencePieceTokenizer(folder / manifest.tokenizer.file)
    name = f"{manifest.name}@{manifest.version} {model.variant}"
    return OpenModel(name, model, tokenizer, dict(manifest.tokenizer.language_ids), read_recipe(folder / "recipe.toml"))


def open_model(reference: str, store: Path, variant: str | None, device: Device, num_threads: int) -> OpenModel:
    """`reference` is a run's folder, or NAME or NAME@VERSION in the store."""
    if (Path(reference) / "recipe.toml").exists() and (Path(reference) / "checkpoints").exists():
        return open_run(Path(reference), device)
    name, _, version = reference.partition("@")
    folder, manifest = Registry(store).resolve(name, version or "current")
    return open_published(folder, manifest, variant, device, num_threads)
