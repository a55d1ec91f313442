"""Who goes away calls the work off; who stays gets its result or its error."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from fastapi import Request
from starlette.types import Message

from app.api.disconnect import unless_disconnected
from app.errors import CancelledError, InputError

Run = Callable[[Coroutine[Any, Any, None]], None]


def _request(leaves_after_s: float) -> Request:
    async def receive() -> Message:
        await asyncio.sleep(leaves_after_s)
        return {"type": "http.disconnect"}

    return Request({"type": "http"}, receive)


async def _work(ends: list[str], duration_s: float, error: Exception | None = None) -> str:
    try:
        await asyncio.sleep(duration_s)
    except asyncio.CancelledError:
        ends.append("cancelled")
        raise
    if error is not None:
        raise error
    ends.append("done")
    return "result"


def test_the_result_of_who_stays(run: Run) -> None:
    async def test() -> None:
        ends: list[str] = []
        assert await unless_disconnected(_request(leaves_after_s=60), _work(ends, 0.001)) == "result"
        assert ends == ["done"]
        with pytest.raises(InputError):
            await unless_disconnected(_request(leaves_after_s=60), _work(ends, 0, InputError("x")))

    run(test())


def test_the_work_of_who_leaves_is_cancelled(run: Run) -> None:
    async def test() -> None:
        ends: list[str] = []
        with pytest.raises(CancelledError):
            await unless_disconnected(_request(leaves_after_s=0.001), _work(ends, 60))
        assert ends == ["cancelled"]

    run(test())


def test_who_leaves_just_as_the_result_comes_is_not_cancelled_later(run: Run) -> None:
    async def test() -> None:
        both = asyncio.Event()

        async def receive() -> Message:
            await both.wait()
            return {"type": "http.disconnect"}

        async def work() -> str:
            await asyncio.sleep(0)  # the watcher is to wait first, and so to wake first
            asyncio.get_running_loop().call_later(0.001, both.set)
            await both.wait()
            return "result"

        assert await unless_disconnected(Request({"type": "http"}, receive), work()) == "result"
        await asyncio.sleep(0.001)  # where a late cancellation would strike

    run(test())


def test_cancelling_the_wait_cancels_the_work(run: Run) -> None:
    async def test() -> None:
        ends: list[str] = []
        waiting = asyncio.create_task(unless_disconnected(_request(leaves_after_s=60), _work(ends, 60)))
        await asyncio.sleep(0.001)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert ends == ["cancelled"]

    run(test())
