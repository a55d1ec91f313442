"""Server-sent events: pieces of text as they become final, then the whole answer.

`event: delta` has {"text": ...}; the deltas of an answer, joined, are its text. `event: done` has the answer as JSON
without streaming would have it, `event: error` {"error": ..., "status": ...} instead of it. Source: the HTML standard,
section 9.2.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from app.api.problems import problem_body, status_of
from app.errors import AppError

MEDIA_TYPE = "text/event-stream"
# Keeps proxies from closing a connection on which nothing is said for long.
_KEEP_ALIVE_S = 15.0

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Frames:
    """How a stream says what it has to say: a piece of text, the whole answer, an error and its status."""

    delta: Callable[[str], bytes]
    done: Callable[[Any], bytes]
    failed: Callable[[dict[str, Any], int], bytes]


def wants_events(request: Request) -> bool:
    """Whether the client asks for a stream."""
    return MEDIA_TYPE in request.headers.get("accept", "")


def _event(name: str, content: Any) -> bytes:
    return f"event: {name}\ndata: {json.dumps(content, ensure_ascii=False)}\n\n".encode()


OURS = Frames(
    delta=lambda text: _event("delta", {"text": text}),
    done=lambda content: _event("done", content),
    failed=lambda content, status: _event("error", content | {"status": status}),
)


def stream(work: Callable[[Tell], Awaitable[Response]], frames: Frames = OURS, path: str = "") -> StreamingResponse:
    """The events of `work`, which tells every piece of text that is final; a client that goes away cancels it.

    Errors have the shape that clients of `path` expect.
    """
    return StreamingResponse(_events(work, frames, path), media_type=MEDIA_TYPE)


async def _events(work: Callable[[Tell], Awaitable[Response]], frames: Frames, path: str) -> AsyncIterator[bytes]:
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
                yield frames.delta(piece)
        yield _ending(working, frames, path)
    finally:
        working.cancel()


def _ending(working: "asyncio.Future[Response]", frames: Frames, path: str) -> bytes:
    error = working.exception()
    if isinstance(error, AppError):
        return frames.failed(problem_body(error, path), status_of(error))
    if error is not None:
        raise error
    answer = working.result()
    content = json.loads(bytes(answer.body))
    return frames.done(content) if answer.status_code == 200 else frames.failed(content, answer.status_code)
