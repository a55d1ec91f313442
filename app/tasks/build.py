"""From an artifact to the task it was trained for, its model running."""

from dataclasses import dataclass
from pathlib import Path

from app.errors import ArtifactError
from app.serving.loading import Placement, start_model
from app.serving.worker import Worker
from app.store.manifest import Manifest
from app.tasks.decode import decode_with
from app.tasks.summarize import Summarizer
from app.tasks.transcribe import Transcriber
from app.tasks.translate import Translator
from app.text.tokenizer import open_tokenizer


@dataclass(frozen=True, slots=True)
class _LoadedModel:
    manifest: Manifest
    variant: str
    provider: str
    worker: Worker

    def close(self, drain_s: float) -> None:
        """Let its work end for at most `drain_s`, then stop its thread. Blocks."""
        self.worker.close(drain_s)


@dataclass(frozen=True, slots=True)
class LoadedTranslator(_LoadedModel):
    """A translator and the model that it runs on."""

    translator: Translator


@dataclass(frozen=True, slots=True)
class LoadedSummarizer(_LoadedModel):
    """A summarizer and the model that it runs on."""

    summarizer: Summarizer


@dataclass(frozen=True, slots=True)
class LoadedTranscriber(_LoadedModel):
    """A transcriber and the model that it runs on."""

    transcriber: Transcriber


LoadedTask = LoadedTranslator | LoadedSummarizer | LoadedTranscriber  # what the catalog keeps


def build(folder: Path, manifest: Manifest, placement: Placement) -> LoadedTask:
    """The task of the artifact in the verified `folder`, with its model started.

    Raises: ArtifactError for a damaged artifact, a task that is not served, or a tokenizer that does not fit the model;
    DeviceError.
    """
    if (manifest.task == "transcribe") != (manifest.speech is not None):
        raise ArtifactError(f"{manifest.name}: task {manifest.task!r} does not fit what its manifest says of speech")
    tokenizer = open_tokenizer(folder / manifest.tokenizer.file, manifest.tokenizer.kind)
    if tokenizer.vocabulary_size > manifest.vocabulary_size:
        raise ArtifactError(
            f"{manifest.tokenizer.file}: {tokenizer.vocabulary_size} pieces, the model knows "
            f"{manifest.vocabulary_size}; publish the version again with its own tokenizer"
        )
    model = start_model(folder, manifest, placement)
    decode = decode_with(model.worker)
    running = (manifest, model.variant, model.provider, model.worker)
    if manifest.task == "transcribe":
        return LoadedTranscriber(*running, Transcriber(manifest, tokenizer, decode))
    if manifest.task == "summarize":
        return LoadedSummarizer(*running, Summarizer(manifest, tokenizer, decode))
    return LoadedTranslator(*running, Translator(manifest, tokenizer, decode))
