"""Server-sent events: pieces of text as they become final, then the whole answer.

`event: delta` has {"text": ...}; the deltas of an answer, joined, are its text. `event: done` has the answer as JSON
without streaming would have it, `event: error` {"error": ..., "status": ...} instead of it. Source: the HTML standard,
section 9.2.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, StreamingResponse

from app.api.problems import public_message, status_of
from app.errors import AppError

MEDIA_TYPE = "text/event-stream"
# Keeps proxies from closing a connection on which nothing is said for long.
_KEEP_ALIVE_S = 15.0

Tell = Callable[[str], None]


def wants_events(request: Request) -> bool:
    """Whether the client asks for a stream."""
    return MEDIA_TYPE in request.headers.get("accept", "")


def stream(work: Callable[[Tell], Awaitable[JSONResponse]]) -> StreamingResponse:
    """The events of `work`, which tells every piece of text that is final; a client that goes away cancels it."""
    return StreamingResponse(_events(work), media_type=MEDIA_TYPE)


async def _events(work: Callable[[Tell], Awaitable[JSONResponse]]) -> AsyncIterator[bytes]:
    pieces: asyncio.Queue[str | None] = asyncio.Queue()
    working = asyncio.ensure_future(work(pieces.put_nowait))
    working.add_done_callback(lambda _: pieces.put_nowait(None))
    try:
        while True:
            try:
                piece = await asyncio.wait_for(pieces.get(), _KEEP_ALIVE_S)
            except TimeoutError:
                yield b": still working\n\n"
                continue
            if piece is None:
                break
            if piece:
                yield _event("delta", {"text": piece})
        yield _ending(working)
    finally:
        working.cancel()


def _ending(working: "asyncio.Future[JSONResponse]") -> bytes:
    error = working.exception()
    if isinstance(error, AppError):
        return _event("error", {"error": public_message(error), "status": status_of(error)})
    if error is not None:
        raise error
    answer = working.result()
    content = json.loads(bytes(answer.body))
    return (
        _event("done", content)
        if answer.status_code == 200
        else _event("error", content | {"status": answer.status_code})
    )


def _event(name: str, content: Any) -> bytes:
    return f"event: {name}\ndata: {json.dumps(content, ensure_ascii=False)}\n\n".encode()
