"""Recordings for the service: read beside the event loop, a few at a time, and never more held than memory allows."""

import asyncio
import time
import weakref
from collections.abc import Sequence
from typing import BinaryIO

from app.audio.features import SAMPLE_RATE_HZ
from app.audio.waveform import Waveform, read_waveform
from app.errors import AppError, DeadlineError, InputError, OverloadedError, TooLargeError
from app.telemetry import AUDIO_READ_DURATION_SECONDS, REJECTED_TOTAL

__all__ = ["Recordings", "Waveform"]

# Files that are decoded side by side: more would take the cores from the models.
_NUM_READERS = 2
_RETRY_AFTER_S = 5.0


class Recordings:
    """Reads files to waveforms for one event loop.

    `max_duration_s` is for all files of a request together, `max_held_s` for all waveforms that are in memory.
    """

    def __init__(self, max_duration_s: float, max_held_s: float) -> None:
        self._max_duration_s = max_duration_s
        self._max_held_s = max_held_s
        self._held: list[weakref.ref[Waveform]] = []
        self._readers = asyncio.Semaphore(_NUM_READERS)

    async def read(self, files: Sequence[BinaryIO], deadline_s: float) -> list[Waveform | AppError]:
        """What every file holds, in order, or why it can not be read.

        Raises: OverloadedError where too much is held for others, DeadlineError.
        """
        try:
            async with asyncio.timeout(max(0.0, deadline_s - time.monotonic())), self._readers:
                if self._held_s() >= self._max_held_s:
                    REJECTED_TOTAL.labels("queue_full").inc()
                    raise OverloadedError("too much audio waits to be transcribed; try again later", _RETRY_AFTER_S)
                return await self._read_all(files)
        except TimeoutError:
            raise DeadlineError("the time for this request ran out while its recording was read") from None

    async def _read_all(self, files: Sequence[BinaryIO]) -> list[Waveform | AppError]:
        left_s = self._max_duration_s
        results: list[Waveform | AppError] = []
        for file in files:
            result = await self._read(file, left_s)
            if not isinstance(result, AppError):
                left_s -= _duration_s(result)
                self._held.append(weakref.ref(result))
            results.append(result)
        return results

    async def _read(self, file: BinaryIO, max_duration_s: float) -> Waveform | AppError:
        try:
            with AUDIO_READ_DURATION_SECONDS.time():
                return await asyncio.to_thread(read_waveform, file, max_duration_s)
        except TooLargeError as error:
            REJECTED_TOTAL.labels("too_large").inc()
            if max_duration_s == self._max_duration_s:
                return error
            together = f"the recordings are longer than {self._max_duration_s:g} s together"
            return TooLargeError(f"{together}; send fewer at once")
        except InputError as error:
            return error

    def _held_s(self) -> float:
        """Seconds of audio that somebody still has."""
        self._held = [held for held in self._held if held() is not None]
        waveforms = [waveform for held in self._held if (waveform := held()) is not None]
        return sum(map(_duration_s, waveforms))


def _duration_s(waveform: Waveform) -> float:
    return len(waveform) / SAMPLE_RATE_HZ
