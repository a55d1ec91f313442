"""A request's parameters, wherever they stand: a JSON object, or query string and form together, the former first."""

import json
from collections.abc import Mapping
from typing import Any, Never, TypeVar
from urllib.parse import parse_qsl

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile

from app.api.refusals import MediaTypeError, ParameterError
from app.errors import InputError

Schema = TypeVar("Schema", bound=BaseModel)

_MAX_FIELDS = 100
_JSON = "application/json"
_FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data"


async def read_parameters(request: Request) -> dict[str, Any]:
    """The parameters by name; of a form's repeated ones the first, and line ends as LF.

    Raises: InputError for a body that can not be read, MediaTypeError for one in another form.
    """
    media_type = media_type_of(request)
    if media_type == _JSON:
        return _read_json(await request.body())
    if media_type == MULTIPART:
        pairs = await _read_multipart(request)
    elif media_type == _FORM:
        pairs = _read_pairs(await request.body())
    elif await request.body():
        raise MediaTypeError(
            f"Invalid request: content type {media_type[:80]!r} is not supported; send {_JSON}, {_FORM} or {MULTIPART}"
        )
    else:
        pairs = []
    parameters: dict[str, Any] = {}
    for name, value in [*query_pairs(request), *pairs]:
        parameters.setdefault(name, value.replace("\r\n", "\n").replace("\r", "\n"))
    return parameters


def media_type_of(request: Request) -> str:
    """The body's media type, without its parameters. Raises: MediaTypeError for a body that is compressed."""
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise MediaTypeError(f"Invalid request: content encoding {encoding[:40]!r} is not supported; send it as it is")
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def query_pairs(request: Request) -> list[tuple[str, str]]:
    """The query string's parameters in order. Raises: InputError for too many, or what is not UTF-8."""
    return _read_pairs(request.scope["query_string"])


def require(parameters: Mapping[str, Any], *names: str) -> None:
    """Raises: InputError for the first of `names` that is missing or empty."""
    for name in names:
        if not parameters.get(name):
            raise ParameterError(name, f"missing {name} parameter")


def validate(schema: type[Schema], parameters: Mapping[str, Any]) -> Schema:
    """The parameters as a `schema`; others are passed over. Raises: InputError that names the first wrong one."""
    try:
        return schema.model_validate(parameters)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
    name = str(fault["loc"][0]) if fault["loc"] else "body"
    context = fault.get("ctx", {})
    complaint = fault["msg"][:1].lower() + fault["msg"][1:]
    if fault["type"].startswith(("int_", "float_", "finite_number")):
        complaint = "is not a number"
    elif "ge" in context:
        complaint = f"must be >= {context['ge']}"
    elif "le" in context:
        complaint = f"must be <= {context['le']}"
    raise ParameterError(name, f"{name} parameter {complaint}")


def _read_json(body: bytes) -> dict[str, Any]:
    try:
        parameters = json.loads(body.decode("utf-8-sig"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise InputError(f"Invalid request: the body is not UTF-8, at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise InputError(f"Invalid request: broken JSON, {error.msg} at character {error.pos}") from None
    except RecursionError:
        raise InputError("Invalid request: JSON is nested too deeply") from None
    except ValueError:
        raise InputError("Invalid request: JSON holds a number that can not be read") from None
    if not isinstance(parameters, dict):
        raise InputError("Invalid request: JSON must be an object with the parameters")
    return parameters


def _refuse_constant(name: str) -> Never:
    raise ValueError(f"{name} is not JSON")


def _read_pairs(encoded: bytes) -> list[tuple[str, str]]:
    try:
        text = encoded.decode("utf-8")
        return parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=_MAX_FIELDS)
    except UnicodeDecodeError:
        raise InputError("Invalid request: parameters are not UTF-8") from None
    except ValueError:
        raise InputError(f"Invalid request: more than {_MAX_FIELDS} fields") from None


async def _read_multipart(request: Request) -> list[tuple[str, str]]:
    # The whole body is bounded by the middleware, so a part needs no bound of its own.
    form = await request.form(max_files=0, max_fields=_MAX_FIELDS, max_part_size=1 << 30)
    return [(name, value) for name, value in form.multi_items() if not isinstance(value, UploadFile)]
