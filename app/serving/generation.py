"""One source's way through the service: submitted, maybe running, ended exactly once."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Literal

from app.decoding.interface import Hypothesis, SearchOptions, Source
from app.decoding.running import positions_of, rows_of
from app.errors import CancelledError, DeadlineError, DrainingError

Ending = Literal["stop", "length", "error", "cancelled", "deadline"]


class Generation:
    """A source, how to search, and until when (`deadline` and `submitted_at` in seconds of `time.monotonic`).

    It ends once, with whichever comes first of `finish`, `fail`, `cancel` and `expire`; each tells whether it was the
    one, and any thread may call any of them. `num_rows` is what it takes of the running batch, `cost` the source and
    target positions that it is expected to take, counting every row.
    """

    def __init__(self, source: Source, options: SearchOptions, deadline: float, submitted_at: float) -> None:
        self.source = source
        self.options = options
        self.deadline = deadline
        self.submitted_at = submitted_at
        self.num_rows = rows_of(options)
        # A target is about as long as its source, where the request does not bound it closer.
        num_positions = positions_of(source)
        self.cost = num_positions + self.num_rows * min(options.max_length, num_positions)
        self.ending: Ending | None = None
        self._outcome: list[Hypothesis] | Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._on_abandoned: Callable[[Generation], None] | None = None
        self._lock = threading.Lock()

    @property
    def has_ended(self) -> bool:
        return self.ending is not None

    def finish(self, hypotheses: list[Hypothesis]) -> bool:
        """End with a result. The caller wakes who waits: see `wake`."""
        return self._end(hypotheses, hypotheses[0].finish_reason)

    def fail(self, error: Exception) -> bool:
        """End with an error. The caller wakes who waits: see `wake`."""
        return self._end(error, "cancelled" if isinstance(error, DrainingError) else "error")

    def cancel(self) -> bool:
        """Call it off; its rows are free within a step."""
        return self._abandon(CancelledError("the generation was cancelled"), "cancelled")

    def expire(self) -> bool:
        """End it for lack of time; its rows are free within a step."""
        return self._abandon(DeadlineError("the time for this request ran out before its answer was ready"), "deadline")

    def watch(self, on_abandoned: Callable[["Generation"], None]) -> None:
        """Have `on_abandoned` told, from any thread, when it is cancelled or expires: at once where it has been."""
        with self._lock:
            self._on_abandoned = on_abandoned
            is_late = self.ending in ("cancelled", "deadline")
        if is_late:
            on_abandoned(self)

    async def result(self) -> list[Hypothesis]:
        """Wait for the end, not longer than the deadline; best hypothesis first.

        Cancelling the task that waits here cancels the generation. Raises: what it failed with, DeadlineError, our
        CancelledError.
        """
        with self._lock:
            assert self._waiter is None, "a generation has one who waits for it"
            if self.ending is None:
                self._waiter = asyncio.get_running_loop().create_future()
        if self._waiter is not None:
            try:
                async with asyncio.timeout(max(0.0, self.deadline - time.monotonic())):
                    await self._waiter
            except TimeoutError:
                self.expire()
            except asyncio.CancelledError:
                self.cancel()
                raise
        if isinstance(self._outcome, Exception):
            raise self._outcome
        assert self._outcome is not None
        return self._outcome

    def _abandon(self, error: Exception, ending: Ending) -> bool:
        with self._lock:
            if self.ending is not None:
                return False
            self._outcome, self.ending = error, ending
            on_abandoned = self._on_abandoned
        wake([self])
        if on_abandoned is not None:
            on_abandoned(self)
        return True

    def _end(self, outcome: list[Hypothesis] | Exception, ending: Ending) -> bool:
        with self._lock:
            if self.ending is not None:
                return False
            self._outcome, self.ending = outcome, ending
            return True


def wake(ended: Iterable[Generation]) -> None:
    """Tell everyone who waits for these generations, with one wake-up of their event loop."""
    waiters: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
    for generation in ended:
        waiter = generation._waiter
        if waiter is not None:
            waiters.setdefault(waiter.get_loop(), []).append(waiter)
    for loop, futures in waiters.items():
        with suppress(RuntimeError):  # the loop was closed, and nobody waits any more
            loop.call_soon_threadsafe(_resolve, futures)


def _resolve(futures: list[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)
