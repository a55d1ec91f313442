"""Exceptions to HTTP answers: the one table. Every error body is `{"error": "..."}`, but for dialects' own shapes."""

import logging
import math
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from app.api.dialects import openai_problems
from app.api.refusals import AccessError, MediaTypeError, NotReadyError
from app.api.schemas import Problem
from app.errors import (
    AppError,
    ArtifactError,
    CancelledError,
    DeadlineError,
    DeviceError,
    DrainingError,
    InputError,
    OverloadedError,
    TooLargeError,
    UnknownModelError,
)
from app.logs import describe_exception

logger = logging.getLogger(__name__)


_INTERNAL = "Internal error; quote the X-Request-Id header when you report it"

# The first class that fits decides; subclasses come before their bases.
_STATUS: tuple[tuple[type[AppError], int], ...] = (
    (AccessError, 403),
    (MediaTypeError, 415),
    (TooLargeError, 413),
    (InputError, 400),
    (UnknownModelError, 404),
    (DrainingError, 503),
    (NotReadyError, 503),
    (OverloadedError, 429),
    (DeadlineError, 504),
    (CancelledError, 499),
    (ArtifactError, 503),
    (DeviceError, 503),
)

# For the OpenAPI page of routes that do work.
PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": description}
    for status, description in {
        400: "A parameter is missing or wrong.",
        403: "The API key is wrong.",
        404: "No such model.",
        413: "The body is too large.",
        415: "The content type or encoding is not supported.",
        429: "The queue is full; see Retry-After.",
        503: "Shutting down, or no model is loaded; see Retry-After.",
        504: "The request's time ran out.",
    }.items()
}


def status_of(error: AppError) -> int:
    """The HTTP status of an error of ours; 500 for one that is not the client's business."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def public_message(error: AppError) -> str:
    """What the client is told of an error of ours."""
    return str(error) if status_of(error) != 500 else _INTERNAL


def problem_response(error: AppError, path: str = "") -> JSONResponse:
    """The answer to an error of ours, in the shape that clients of `path` expect."""
    status = status_of(error)
    if status == 500:
        return internal_error(error, path)
    headers = {}
    if isinstance(error, OverloadedError):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    if isinstance(error, TooLargeError):
        # The rest of the body stays unread.
        headers["Connection"] = "close"
    return _answer(path, status, public_message(error), headers, error)


def internal_error(error: BaseException, path: str = "") -> JSONResponse:
    """The answer to what should not have happened; the log has the place, the client only the request's id."""
    logger.error("request failed", extra={"exception": describe_exception(error)})
    return _answer(path, 500, _INTERNAL)


def problem_body(error: AppError, path: str) -> dict[str, Any]:
    """What `problem_response` says, where the status has gone out already."""
    return _shape(path, status_of(error), public_message(error), error)[1]


def add_problem_handlers(app: FastAPI) -> None:
    """Let `app` answer its exceptions by the table."""

    async def on_app_error(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, AppError)
        return problem_response(error, request.url.path)

    async def on_http_error(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        return _answer(request.url.path, error.status_code, str(error.detail), error.headers)

    async def on_invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        places = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        return _answer(request.url.path, 400, f"Invalid request: {places}")

    app.add_exception_handler(AppError, on_app_error)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(RequestValidationError, on_invalid)


def _answer(
    path: str,
    status: int,
    message: str,
    headers: Mapping[str, str] | None = None,
    error: AppError | None = None,
) -> JSONResponse:
    status, body = _shape(path, status, message, error)
    return JSONResponse(body, status, headers)


def _shape(path: str, status: int, message: str, error: AppError | None) -> tuple[int, dict[str, Any]]:
    if path.startswith(openai_problems.PREFIX):
        return openai_problems.openai_problem(status, message, error)
    return status, {"error": message}
