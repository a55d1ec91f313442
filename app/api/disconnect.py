"""A client that goes away calls its work off."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request

from app.errors import CancelledError

Result = TypeVar("Result")


async def unless_disconnected(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of `work`, which is cancelled when the client closes the connection; the body must have been read.

    Raises: CancelledError (ours) if the client went away first.
    """
    own_task = asyncio.current_task()
    assert own_task is not None
    has_left = is_over = False

    def call_off(watching: asyncio.Task[None]) -> None:
        nonlocal has_left
        if not (is_over or watching.cancelled()):
            has_left = True
            own_task.cancel()

    watching = asyncio.create_task(_disconnected(request))
    watching.add_done_callback(call_off)
    try:
        return await work
    except asyncio.CancelledError:
        if has_left and not own_task.uncancel():
            raise CancelledError("the client went away") from None
        raise
    finally:
        is_over = True  # a callback that has been scheduled can not be taken back
        watching.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
