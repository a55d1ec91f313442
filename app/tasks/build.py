"""From an artifact to the task it was trained for, its model running."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from app.decoding.interface import Hypothesis, Ids, SearchOptions
from app.errors import AppError, ArtifactError
from app.serving.generation import Generation
from app.serving.loading import Placement, start_model
from app.serving.worker import Worker
from app.store.manifest import Manifest
from app.tasks.translate import Decode, Translator
from app.text.tokenizer import SentencePieceTokenizer


@dataclass(frozen=True, slots=True)
class LoadedTranslator:
    """A translator and the model that it runs on; what the catalog keeps."""

    manifest: Manifest
    variant: str
    provider: str
    worker: Worker
    translator: Translator

    def close(self, drain_s: float) -> None:
        """Let its work end for at most `drain_s`, then stop its thread. Blocks."""
        self.worker.close(drain_s)


def build(folder: Path, manifest: Manifest, placement: Placement) -> LoadedTranslator:
    """The task of the artifact in the verified `folder`, with its model started.

    Raises: ArtifactError for a damaged artifact, another task than translate, or a tokenizer that does not fit the
    model; DeviceError.
    """
    if manifest.task != "translate":
        raise ArtifactError(f"{manifest.name}: task {manifest.task!r} is not served by this release, only translate")
    tokenizer = SentencePieceTokenizer(folder / manifest.tokenizer.file)
    if tokenizer.vocabulary_size > manifest.vocabulary_size:
        raise ArtifactError(
            f"{manifest.tokenizer.file}: {tokenizer.vocabulary_size} pieces, the model knows "
            f"{manifest.vocabulary_size}; publish the version again with its own tokenizer"
        )
    model = start_model(folder, manifest, placement)
    translator = Translator(manifest, tokenizer, decode_with(model.worker))
    return LoadedTranslator(manifest, model.variant, model.provider, model.worker, translator)


def decode_with(worker: Worker) -> Decode:
    """`Decode` by generations that are submitted to `worker` together."""

    async def decode(
        sources: Sequence[Ids], options: Sequence[SearchOptions], deadline_s: float
    ) -> list[list[Hypothesis] | AppError]:
        now = time.monotonic()
        generations = [
            Generation(source, search, deadline_s, now) for source, search in zip(sources, options, strict=True)
        ]
        worker.submit(generations)
        try:
            return [await _outcome(generation) for generation in generations]
        finally:
            # None is left unless this call was cancelled.
            for generation in generations:
                generation.cancel()

    return decode


async def _outcome(generation: Generation) -> list[Hypothesis] | AppError:
    try:
        return await generation.result()
    except AppError as error:
        return error
    except Exception as error:  # the worker has logged it; the other sentences may be well
        failure = AppError("the model failed on this text")
        failure.__cause__ = error
        return failure
