"""The routes that tell: languages, models, health, metrics, and the form of every refusal."""

import json
import shutil
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from tests.api.conftest import OpenClient

Run = Callable[[Coroutine[Any, Any, None]], None]


def test_languages_are_as_libretranslate_lists_them(open_client: OpenClient, run: Run) -> None:
    async def test() -> None:
        async with open_client() as client:
            answer = await client.request("GET", "/languages", data={"api_key": "ignored"})
        assert answer.json() == [
            {"code": "de", "name": "German", "targets": ["en"]},
            {"code": "en", "name": "English", "targets": ["de"]},
        ]

    run(test())


def test_models_say_what_runs_and_what_does_not_and_why(
    open_client: OpenClient, run: Run, tiny_store: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    shutil.copytree(tiny_store, store)
    shutil.copytree(tiny_store / "tiny-en-de", store / "broken")

    async def test() -> None:
        async with open_client(model_store=store) as client:
            models = {model["name"]: model for model in (await client.get("/models")).json()}
            ready = await client.get("/health/ready")
        assert ready.status_code == 200
        assert models["tiny-en-de"] == {
            "name": "tiny-en-de",
            "version": "1",
            "task": "translate",
            "directions": [["en", "de"], ["de", "en"]],
            "variant": "fp32",
            "provider": "CPUExecutionProvider",
            "state": "ready",
            "reason": None,
            "is_current": True,
        }
        assert models["broken"]["state"] == "failed" and "tiny-en-de" in models["broken"]["reason"]

    run(test())


def test_frontend_settings_have_libretranslates_fields(open_client: OpenClient, run: Run) -> None:
    async def test() -> None:
        async with open_client() as client:
            answer = (await client.get("/frontend/settings")).json()
        assert answer["charLimit"] == 100_000 and answer["apiKeys"] is answer["keyRequired"] is False
        assert answer["language"] == {
            "source": {"code": "en", "name": "English"},
            "target": {"code": "de", "name": "German"},
        }

    run(test())


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/health", 200),
        ("HEAD", "/health", 200),
        ("GET", "/health/live", 200),
        ("GET", "/health/ready", 200),
        ("GET", "/nothing", 404),
        ("GET", "/translate", 405),
        ("HEAD", "/translate", 405),
        ("PUT", "/translate", 405),
        ("POST", "/languages", 405),
        ("POST", "/health", 405),
        ("DELETE", "/models", 405),
        ("GET", "/health/", 404),
    ],
)
def test_refusals_are_an_error_object_and_every_answer_is_guarded(
    open_client: OpenClient, run: Run, method: str, path: str, status: int
) -> None:
    async def test() -> None:
        async with open_client() as client:
            answer = await client.request(method, path)
        assert answer.status_code == status
        if method != "HEAD":
            assert set(json.loads(answer.text)) == ({"error"} if status >= 400 else {"status"})
        assert answer.headers["x-request-id"] and answer.headers["x-content-type-options"] == "nosniff"

    run(test())


def test_web_pages_of_other_origins_may_call(open_client: OpenClient, run: Run) -> None:
    async def test() -> None:
        async with open_client() as client:
            asks = {"origin": "https://a.example", "access-control-request-method": "POST"}
            preflight = await client.options(
                "/translate", headers={**asks, "access-control-request-headers": "authorization,content-type"}
            )
            answer = await client.post("/translate", headers={"origin": "https://a.example"})
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == "*"
        assert answer.headers["access-control-allow-origin"] == "*", "errors can be read too"

    run(test())


def test_metrics_count_by_template_and_task(open_client: OpenClient, run: Run) -> None:
    async def test() -> None:
        async with open_client() as client:
            await client.post("/translate?q=canary", json={"q": "Hello.", "source": "en", "target": "de"})
            await client.get("/canary")
            metrics = (await client.get("/metrics")).text
        assert 'seq2serve_http_requests_total{code="200",method="POST",route="/translate"}' in metrics
        assert 'seq2serve_requests_finished_total{model="tiny-en-de",reason="stop"}' in metrics
        assert 'seq2serve_stage_duration_seconds_count{model="tiny-en-de",stage="tokenize"}' in metrics
        assert 'seq2serve_model_state{model="tiny-en-de",state="ready",version="1"} 1.0' in metrics
        assert "canary" not in metrics

    run(test())


def test_the_description_of_the_api_names_every_route_and_form(open_client: OpenClient, run: Run) -> None:
    async def test() -> None:
        async with open_client() as client:
            description = (await client.get("/openapi.json")).json()
            page = await client.get("/docs")
        assert page.status_code == 200 and "text/html" in page.headers["content-type"]
        assert "sha256-" in page.headers["content-security-policy"] and "://" not in page.text, "nothing from elsewhere"
        assert {"/translate", "/detect", "/languages", "/models", "/health/ready", "/metrics"} <= set(
            description["paths"]
        )
        body = description["paths"]["/translate"]["post"]["requestBody"]["content"]
        assert set(body) == {"application/json", "application/x-www-form-urlencoded", "multipart/form-data"}
        assert {"q", "source", "target", "beam_size"} <= set(body["application/json"]["schema"]["properties"])

    run(test())
