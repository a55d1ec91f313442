"""Reading recordings for the service: limits over all files, and no more held than memory allows."""

import asyncio
import time
from collections.abc import Sequence
from io import BytesIO

import numpy as np
import pytest

from app.errors import AppError, DeadlineError, InputError, OverloadedError, TooLargeError
from app.tasks.recordings import Recordings, Waveform
from tests.audio.recordings import speech_like, wav


def read(recordings: Recordings, *seconds: float, time_s: float = 60) -> Sequence[Waveform | AppError]:
    files = [BytesIO(wav(speech_like(duration_s))) for duration_s in seconds]
    return asyncio.run(recordings.read(files, time.monotonic() + time_s))


def test_a_bad_file_is_an_error_in_its_place() -> None:
    async def test() -> Sequence[Waveform | AppError]:
        files = [BytesIO(b"no audio"), BytesIO(wav(speech_like(0.5))), BytesIO()]
        return await Recordings(10, 100).read(files, time.monotonic() + 60)

    bad, good, empty = asyncio.run(test())
    assert isinstance(bad, InputError) and isinstance(empty, InputError)
    assert isinstance(good, np.ndarray) and len(good) == 8000


def test_the_files_of_a_request_share_its_limit() -> None:
    first, second, third = read(Recordings(2, 100), 1.5, 1, 0.3)
    assert isinstance(first, np.ndarray) and isinstance(third, np.ndarray)
    assert isinstance(second, TooLargeError) and "longer than 2 s together" in str(second)
    [alone] = read(Recordings(2, 100), 3)
    assert isinstance(alone, TooLargeError) and "longer than 2 s, the limit" in str(alone)


def test_what_is_held_is_bounded_and_free_when_it_is_let_go() -> None:
    recordings = Recordings(10, max_held_s=1)
    held = read(recordings, 1.5)
    with pytest.raises(OverloadedError) as caught:
        read(recordings, 0.5)
    assert caught.value.retry_after_s > 0
    part = held[0][:100]  # type: ignore[index]
    del held
    with pytest.raises(OverloadedError):
        read(recordings, 0.5)
    del part
    assert len(read(recordings, 0.5)) == 1


def test_time_that_ran_out_is_told() -> None:
    with pytest.raises(DeadlineError):
        read(Recordings(10, 100), 1, time_s=-1)
