"""Server-sent events: the joined deltas are the text that the plain answer has."""

import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from tests.api.conftest import OpenClient

Run = Callable[[Coroutine[Any, Any, None]], None]
STREAM = {"Accept": "text/event-stream"}


def events(text: str) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for block in text.strip().split("\n\n"):
        name, data = block.split("\n")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


def test_translations_come_sentence_by_sentence(
    open_client: OpenClient, run: Run, sentence_pairs: list[tuple[str, str]]
) -> None:
    text = "  " + "\n".join(source for source, _ in sentence_pairs[:9]) + "\n 123 \n"
    body = {"q": text, "source": "en", "target": "de", "beam_size": 2}

    async def test() -> None:
        async with open_client() as client:
            plain = (await client.post("/translate", json=body)).json()
            answer = await client.post("/translate", json=body, headers=STREAM)
            assert answer.headers["content-type"].startswith("text/event-stream")
            *deltas, (last, done) = events(answer.text)
            assert {name for name, _ in deltas} == {"delta"} and last == "done"
            assert len(deltas) > 5
            assert "".join(delta["text"] for _, delta in deltas) == plain["translatedText"]
            assert done == plain

    run(test())


def test_a_summary_comes_as_events(open_client: OpenClient, tiny_summarizer_store: Path, run: Run) -> None:
    body = {"text": "The cat sat on the mat and looked at the dog. The dog slept all day in the sun."}

    async def test() -> None:
        async with open_client(model_store=tiny_summarizer_store) as client:
            plain = (await client.post("/summarize", json=body)).json()
            *deltas, (last, done) = events((await client.post("/summarize", json=body, headers=STREAM)).text)
            assert last == "done" and done == plain
            assert "".join(delta["text"] for _, delta in deltas) == plain["summary"]

    run(test())


@pytest.mark.parametrize("q", ["a \ud800 b", "Hello."])
def test_an_error_is_an_event(open_client: OpenClient, run: Run, q: str) -> None:
    headers = STREAM | ({"X-Request-Timeout": "0.0001"} if q == "Hello." else {})

    async def test() -> None:
        async with open_client() as client:
            content = json.dumps({"q": q, "source": "en", "target": "de"})
            headers["Content-Type"] = "application/json"
            answer = await client.post("/translate", content=content, headers=headers)
            [(name, error)] = events(answer.text)
            assert name == "error"
            assert error["status"] == (504 if q == "Hello." else 400) and error["error"]

    run(test())
