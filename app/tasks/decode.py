"""How a task has its sources decoded: all together, each with an ending of its own."""

import time
from collections.abc import Sequence
from typing import Protocol

from app.decoding.interface import Hypothesis, SearchOptions, Source
from app.errors import AppError
from app.serving.generation import Generation
from app.serving.worker import Worker


class Decode(Protocol):
    """Run all sources together; each ends with its hypotheses, best first, or with the error that it met.

    `deadline_s` is a time of `time.monotonic`. If the caller is cancelled, so are its generations.
    """

    async def __call__(
        self, sources: Sequence[Source], options: Sequence[SearchOptions], deadline_s: float
    ) -> Sequence[list[Hypothesis] | AppError]: ...


def decode_with(worker: Worker) -> Decode:
    """`Decode` by generations that are submitted to `worker` together."""

    async def decode(
        sources: Sequence[Source], options: Sequence[SearchOptions], deadline_s: float
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
    except Exception as error:  # the worker has logged it; the others may be well
        failure = AppError("the model failed on this part")
        failure.__cause__ = error
        return failure
