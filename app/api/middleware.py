"""What every request passes, as plain ASGI: an id, metrics and one log line, security headers, a cap on the bytes."""

import asyncio
import logging
import random
import re
import secrets
import time
from collections.abc import Mapping
from types import MappingProxyType

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.problems import internal_error, problem_response
from app.errors import DrainingError, TooLargeError
from app.logs import request_id
from app.telemetry import HTTP_REQUEST_DURATION_SECONDS, HTTP_REQUESTS_TOTAL, REJECTED_TOTAL

logger = logging.getLogger(__name__)

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
# Not the system's random numbers: each asking gives the interpreter away, and an id is no secret.
_draw = random.Random(secrets.randbits(128))
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_CALLED_OFF = DrainingError("the service stopped before this request was done", retry_after_s=1)
_NO_CONTENT_POLICY = "default-src 'none'; frame-ancestors 'none'"


class RequestContext:
    """The outermost layer: gives the request its id and its headers, counts it, logs it, answers what nobody caught."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start_s, status = time.perf_counter(), 0
        own_id = _request_id(scope)
        token = request_id.set(own_id)

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                _add_headers(MutableHeaders(scope=message), own_id)
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except asyncio.CancelledError:
            # Only a server whose time to drain is up cancels a request; its client shall know that it may ask again.
            if not status:
                await problem_response(_CALLED_OFF, scope["path"])(scope, receive, send_with_headers)
        except Exception as error:
            answer = internal_error(error, scope["path"])
            if not status:
                await answer(scope, receive, send_with_headers)
        finally:
            _record(scope, status or 499, time.perf_counter() - start_s)
            request_id.reset(token)


class BodyLimit:
    """Refuses bodies over `max_bytes` before anything parses them, whether their length is announced or not.

    `by_path` has the limits of paths with one of their own.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, by_path: Mapping[str, int] = MappingProxyType({})) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._by_path = by_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        max_bytes = self._by_path.get(scope["path"], self._max_bytes)
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdecimal() and int(announced[:20]) > max_bytes:
            await problem_response(_too_large(max_bytes), scope["path"])(scope, receive, send)
            return
        num_bytes = 0

        async def receive_counted() -> Message:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > max_bytes:
                raise _too_large(max_bytes)
            return message

        await self._app(scope, receive_counted, send)


def _too_large(max_bytes: int) -> TooLargeError:
    REJECTED_TOTAL.labels("too_large").inc()
    return TooLargeError(f"Invalid request: the body is over the limit of {max_bytes} bytes")


def _request_id(scope: Scope) -> str:
    given = Headers(scope=scope).get("x-request-id", "")
    return given if _REQUEST_ID.match(given) else f"{_draw.getrandbits(128):032x}"


def _add_headers(headers: MutableHeaders, own_id: str) -> None:
    headers["X-Request-Id"] = own_id
    for name, value in _SECURITY_HEADERS.items():
        headers.setdefault(name, value)
    headers.setdefault("Content-Security-Policy", _NO_CONTENT_POLICY)


def _record(scope: Scope, status: int, duration_s: float) -> None:
    # The template, never the path: a path is user input.
    route = getattr(scope.get("route"), "path", "unmatched")
    method = scope["method"] if scope["method"] in _METHODS else "OTHER"
    HTTP_REQUESTS_TOTAL.labels(route, method, str(status)).inc()
    HTTP_REQUEST_DURATION_SECONDS.labels(route, method).observe(duration_s)
    is_probe = route.startswith(("/health", "/metrics"))
    fields = {"method": method, "route": route, "status": status, "duration_ms": round(duration_s * 1000, 1)}
    logger.log(logging.DEBUG if is_probe else logging.INFO, "request", extra=fields)
