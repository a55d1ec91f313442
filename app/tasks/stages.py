"""What all text tasks do around their generations: measured, and where it takes long beside the event loop."""

import asyncio
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from app.errors import InputError
from app.telemetry import STAGE_DURATION_SECONDS

Result = TypeVar("Result")

# Above this many characters the text work would be felt by others on the event loop; a thread takes it.
_MAX_INLINE_CHARACTERS = 4000
_SURROGATE = re.compile("[\ud800-\udfff]")


async def apart_if_long(num_characters: int, work: Callable[[], Result]) -> Result:
    """The result of `work` on so many characters."""
    if num_characters <= _MAX_INLINE_CHARACTERS:
        return work()
    return await asyncio.to_thread(work)


@contextmanager
def timed(model: str, stage: str) -> Iterator[None]:
    """Count the time of a stage for the metrics."""
    start_s = time.perf_counter()
    yield
    STAGE_DURATION_SECONDS.labels(model, stage).observe(time.perf_counter() - start_s)


def check_unicode(text: str) -> None:
    """Raises: InputError for a lone surrogate."""
    if surrogate := _SURROGATE.search(text):
        raise InputError(
            f"the text holds a lone surrogate, U+{ord(surrogate[0]):04X}, at character {surrogate.start()}; "
            "send Unicode text"
        )
