"""The layers around every request: ids, headers, the cap on bytes, and what nobody caught."""

import json
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import httpx
import pytest
from prometheus_client import REGISTRY
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.middleware import BodyLimit, RequestContext
from app.api.problems import problem_response
from app.errors import TooLargeError

Run = Callable[[Coroutine[Any, Any, None]], None]


async def _count_body(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with how many bytes it read."""
    num_bytes, has_more = 0, True
    try:
        while has_more:
            message = await receive()
            num_bytes, has_more = num_bytes + len(message.get("body", b"")), message.get("more_body", False)
    except TooLargeError as error:
        await problem_response(error)(scope, receive, send)
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(num_bytes).encode()})


async def _fail(scope: Scope, receive: Receive, send: Send) -> None:
    raise RuntimeError("canary")


def _client(app: ASGIApp) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service")


async def _chunks(num_chunks: int) -> AsyncIterator[bytes]:
    for _ in range(num_chunks):
        yield b"x" * 10


@pytest.mark.parametrize(("num_chunks", "status"), [(0, 200), (10, 200), (11, 413), (1000, 413)])
def test_bodies_over_the_limit_are_refused_announced_or_not(run: Run, num_chunks: int, status: int) -> None:
    async def test() -> None:
        async with _client(BodyLimit(_count_body, max_bytes=100)) as client:
            announced = await client.post("/", content=b"x" * 10 * num_chunks)
            chunked = await client.post("/", content=_chunks(num_chunks))
        assert [announced.status_code, chunked.status_code] == [status, status]
        if status == 200:
            assert announced.text == chunked.text == str(10 * num_chunks)
        else:
            assert announced.json() == {"error": "Invalid request: the body is over the limit of 100 bytes"}
            assert announced.headers["connection"] == "close"

    run(test())


def test_an_absurd_announced_length_is_refused(run: Run) -> None:
    async def test() -> None:
        async with _client(BodyLimit(_count_body, max_bytes=100)) as client:
            answer = await client.post("/", headers={"content-length": "9" * 500}, content=_chunks(1))
        assert answer.status_code == 413

    run(test())


@pytest.mark.parametrize(("given", "is_kept"), [("abc-1.2_3", True), ("a b", False), ("x" * 65, False), ("", False)])
def test_a_request_id_is_kept_where_it_is_safe_to_log(run: Run, given: str, is_kept: bool) -> None:
    async def test() -> None:
        async with _client(RequestContext(_count_body)) as client:
            found = (await client.get("/", headers={"x-request-id": given})).headers["x-request-id"]
        assert (found == given) == is_kept
        assert 1 <= len(found) <= 64

    run(test())


def test_what_nobody_caught_is_a_500_and_its_message_is_told_to_no_one(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with _client(RequestContext(_fail)) as client:
            answer = await client.get("/canary-path?q=canary")
        assert answer.status_code == 500
        assert set(json.loads(answer.text)) == {"error"}
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "canary" not in answer.text

    with caplog.at_level(logging.DEBUG):
        run(test())
    logged = "".join(str(vars(record)) for record in caplog.records if record.name.startswith("app"))
    assert "RuntimeError at test_middleware.py" in logged and "canary" not in logged


def test_unknown_paths_and_methods_are_counted_under_closed_labels(run: Run) -> None:
    def count() -> float:
        labels = {"route": "unmatched", "method": "OTHER", "code": "200"}
        return REGISTRY.get_sample_value("seq2serve_http_requests_total", labels) or 0.0

    async def test() -> None:
        async with _client(RequestContext(_count_body)) as client:
            await client.request("BREW", "/any/thing")

    before = count()
    run(test())
    assert count() == before + 1


def test_a_path_may_have_a_limit_of_its_own(run: Run) -> None:
    async def test() -> None:
        async with _client(BodyLimit(_count_body, max_bytes=100, by_path={"/large": 1000})) as client:
            assert (await client.post("/large", content=_chunks(100))).text == "1000"
            assert (await client.post("/large", content=_chunks(101))).status_code == 413
            assert (await client.post("/larger", content=_chunks(100))).status_code == 413

    run(test())
