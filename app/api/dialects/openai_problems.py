"""Errors as OpenAI's clients expect them: `{"error": {"message", "type", "param", "code"}}` and their status codes."""

from typing import Any

from app.api.refusals import AccessError, MissingKeyError, ParameterError
from app.errors import UnknownModelError

PREFIX = "/v1/"


def openai_problem(status: int, message: str, error: BaseException | None) -> tuple[int, dict[str, Any]]:
    """The status and the body of an answer that elsewhere is `status` and `{"error": message}`."""
    kind, param, code = "invalid_request_error", None, None
    if isinstance(error, AccessError | MissingKeyError):
        status, code = 401, "invalid_api_key"
    elif isinstance(error, UnknownModelError):
        param, code = "model", "model_not_found"
    elif isinstance(error, ParameterError):
        param = error.name
    elif status == 429:
        kind, code = "requests", "rate_limit_exceeded"
    elif status >= 500:
        kind = "server_error"
    return status, {"error": {"message": message, "type": kind, "param": param, "code": code}}
