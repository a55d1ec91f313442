"""`POST /summarize` as clients see it."""

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from tests.api.conftest import OpenClient

Run = Callable[[Coroutine[Any, Any, None]], None]

TEXT = "The cat sat on the mat and looked at the dog. The dog slept all day in the warm sun of the garden."


def test_one_text_and_a_list(open_client: OpenClient, tiny_summarizer_store: Path, run: Run) -> None:
    async def test() -> None:
        async with open_client(model_store=tiny_summarizer_store) as client:
            one = await client.post("/summarize", json={"text": TEXT, "num_summaries": 2})
            assert one.status_code == 200
            answer = one.json()
            assert answer["summary"] and answer["model"] == "tiny-summary@1" and answer["kind"] == "tldr"
            assert answer["parts"] >= 1 and answer["finish_reason"] in ("stop", "length")
            assert answer["truncated"] is (answer["finish_reason"] == "length")
            assert len(answer["alternatives"]) == 1 and isinstance(answer["warnings"], list)
            many = await client.post("/summarize", json={"texts": [TEXT, " ", TEXT], "kind": "title"})
            first, bad, last = many.json()["results"]
            assert many.status_code == 200
            assert first == last and first["kind"] == "title" and "alternatives" not in first
            assert "no letters" in bad["error"]
            form = await client.post("/summarize", data={"text": TEXT})
            assert form.json()["summary"] == answer["summary"]
            assert (await client.get("/languages")).json() == []
            refused = await client.post("/translate", json={"q": "a", "source": "en", "target": "tldr"})
            assert refused.status_code == 400

    run(test())


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({}, 400, "missing text parameter"),
        ({"text": ""}, 400, "missing text parameter"),
        ({"text": " \n"}, 400, "no letters"),
        ({"text": "\x00\x01 1234 !?"}, 400, "no letters"),
        ({"text": 5}, 400, "text parameter must be a string"),
        ({"text": TEXT, "texts": [TEXT]}, 400, "text or texts, not both"),
        ({"texts": []}, 400, "at least one"),
        ({"texts": [TEXT, 5]}, 400, "list of strings"),
        ({"texts": TEXT}, 400, "must be a list"),
        ({"texts": ["a b"] * 300}, 400, "300 documents are over the limit of 256"),
        ({"text": "word " * 50_000}, 400, "250000 characters are over the limit of 200000"),
        ({"text": "word " * 1_000_000}, 413, "over the limit of 2000000 bytes"),
        ({"text": TEXT, "min_length": 9, "max_length": 3}, 400, "min_length parameter must be <= max_length = 3"),
        ({"text": TEXT, "min_tokens": 9, "max_tokens": 3}, 400, "min_tokens parameter must be <= max_tokens = 3"),
        ({"text": TEXT, "max_tokens": 5000}, 400, "writes 64 at the most"),
        ({"text": TEXT, "max_length": 0}, 400, "max_length parameter must be >= 1"),
        ({"text": TEXT, "max_length": "ten"}, 400, "max_length parameter is not a number"),
        ({"text": TEXT, "num_summaries": 3, "beam_size": 2}, 400, "num_summaries parameter must be <= beam_size = 2"),
        ({"text": TEXT, "num_summaries": 99}, 400, "num_summaries parameter must be <= 8"),
        ({"text": TEXT, "kind": "poem"}, 400, "kind 'poem' is not known; tiny-summary has tldr, title"),
        ({"text": TEXT, "model": "other"}, 404, "there is no model 'other'"),
        ({"text": TEXT, "model": "tiny-summary@7"}, 404, "serves version 1"),
    ],
)
def test_bad_input_is_told(
    open_client: OpenClient, tiny_summarizer_store: Path, run: Run, body: dict[str, Any], status: int, message: str
) -> None:
    async def test() -> None:
        async with open_client(model_store=tiny_summarizer_store) as client:
            answer = await client.post("/summarize", json=body)
            assert answer.status_code == status
            assert message in answer.json()["error"]

    run(test())


def test_a_translator_does_not_summarize(open_client: OpenClient, run: Run) -> None:
    async def test() -> None:
        async with open_client() as client:
            nobody = await client.post("/summarize", json={"text": TEXT})
            assert nobody.status_code == 404 and "no model that can summarize" in nobody.json()["error"]
            wrong = await client.post("/summarize", json={"text": TEXT, "model": "tiny-en-de"})
            assert wrong.status_code == 404 and "does not summarize" in wrong.json()["error"]

    run(test())
