"""Parameters: the same whether they come as JSON, as a form or in the query string, and never a crash."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from hypothesis import given, settings
from hypothesis import strategies as st

from app.api.parameters import read_parameters, validate
from app.api.problems import add_problem_handlers
from app.api.schemas import TranslateRequest
from app.errors import InputError

Run = Callable[[Coroutine[Any, Any, None]], None]


def _echo() -> FastAPI:
    app = FastAPI()
    add_problem_handlers(app)

    @app.post("/")
    async def echo(request: Request) -> dict[str, Any]:
        return await read_parameters(request)

    return app


def _send(**request: Any) -> httpx.Response:
    async def send() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(_echo()), base_url="http://service") as client:
            return await client.post(request.pop("url", "/"), **request)

    return asyncio.run(send())


PARAMETERS = {"q": "Grüße, 世界 & +1", "source": "en"}


@pytest.mark.parametrize(
    "request_",
    [
        {"json": PARAMETERS},
        {"data": PARAMETERS},
        {"params": PARAMETERS},
        {"files": {name: (None, value) for name, value in PARAMETERS.items()}},
        {"params": {"q": PARAMETERS["q"]}, "data": {"source": "en"}},
    ],
    ids=["json", "form", "query", "multipart", "query and form"],
)
def test_every_form_gives_the_same_parameters(request_: dict[str, Any]) -> None:
    assert _send(**request_).json() == PARAMETERS


def test_of_repeated_fields_the_first_counts_and_the_query_before_the_form() -> None:
    answer = _send(
        url="/?q=1&q=2", content="q=3&r=4&r=5", headers={"content-type": "application/x-www-form-urlencoded"}
    )
    assert answer.json() == {"q": "1", "r": "4"}


def test_line_ends_of_forms_are_lf() -> None:
    assert _send(data={"q": "a\r\nb\rc\n"}).json() == {"q": "a\nb\nc\n"}


@pytest.mark.parametrize(
    ("content_type", "body", "status", "complaint"),
    [
        ("application/json", b'{"q": "a', 400, "broken JSON, Unterminated string"),
        ("application/json", b"", 400, "broken JSON"),
        ("application/json", b"[]", 400, "must be an object"),
        ("application/json", b'{"q": NaN}', 400, "number that can not be read"),
        ("application/json", b'{"q": ' + b"9" * 5000 + b"}", 400, "number that can not be read"),
        ("application/json", b'{"q": "\xff"}', 400, "not UTF-8, at byte 7"),
        ("application/json", b'{"q":' + b"[" * 100_000, 400, "nested too deeply"),
        ("application/json; charset=utf-8", b'{"q":' * 100_000, 400, "nested too deeply"),
        ("application/x-www-form-urlencoded", b"q=%ff", 400, "not UTF-8"),
        ("application/x-www-form-urlencoded", b"\xff=1", 400, "not UTF-8"),
        ("application/x-www-form-urlencoded", b"a=1&" * 1000, 400, "more than 100 fields"),
        ("multipart/form-data", b"q", 400, "boundary"),
        ("multipart/form-data; boundary=x", b"not a part", 400, ""),
        ("text/plain", b"hello", 415, "content type 'text/plain' is not supported"),
        ("", b"hello", 415, "content type '' is not supported"),
    ],
)
def test_bodies_that_can_not_be_read_say_why(content_type: str, body: bytes, status: int, complaint: str) -> None:
    answer = _send(content=body, headers={"content-type": content_type} if content_type else {})
    assert (answer.status_code, set(answer.json())) == (status, {"error"})
    assert complaint in answer.json()["error"]


def test_compressed_bodies_are_refused() -> None:
    answer = _send(content=b"\x1f\x8b", headers={"content-encoding": "gzip", "content-type": "application/json"})
    assert answer.status_code == 415 and "'gzip' is not supported" in answer.json()["error"]


def test_files_are_refused() -> None:
    assert _send(files={"q": ("a.txt", b"text")}).status_code == 400


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(
        ["application/json", "application/x-www-form-urlencoded", "multipart/form-data; boundary=b", "x/y"]
    ),
    st.one_of(st.binary(max_size=200), st.text(alphabet='{}[]":,\\u0d8%&=-b\r\n1eq', max_size=80).map(str.encode)),
)
def test_no_body_is_a_server_error(content_type: str, body: bytes) -> None:
    assert _send(content=body, headers={"content-type": content_type}).status_code < 500


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"alternatives": "many"}, "alternatives parameter is not a number"),
        ({"alternatives": 1.5}, "alternatives parameter is not a number"),
        ({"alternatives": -1}, "alternatives parameter must be >= 0"),
        ({"beam_size": 0}, "beam_size parameter must be >= 1"),
        ({"length_penalty": "nan"}, "length_penalty parameter is not a number"),
        ({"length_penalty": 11}, "length_penalty parameter must be <= 10"),
        ({"source": ["en"]}, "source parameter"),
        ({"model": 5}, "model parameter"),
    ],
)
def test_a_wrong_parameter_is_named(wrong: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        validate(TranslateRequest, {"q": "a", "source": "en", "target": "de", **wrong})


def test_numbers_may_come_as_text_and_unknown_fields_are_passed_over() -> None:
    asked = validate(
        TranslateRequest,
        {"q": "a", "source": "en", "target": "de", "alternatives": "3", "secret": "s", "beam_size": "2"},
    )
    assert (asked.alternatives, asked.beam_size) == (3, 2)
