"""`POST /translate` and `/detect`: LibreTranslate's shapes and messages, our fields beside them."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import httpx
import pytest

from tests.api.conftest import OpenClient

Run = Callable[[Coroutine[Any, Any, None]], None]
ASKED = {"q": "The cat sleeps on the warm stove.", "source": "en", "target": "de"}
OWN_FIELDS = {"model", "truncated", "finish_reason"}


def test_a_text_gets_librettranslates_shape_and_our_fields(open_client: OpenClient, run: Run) -> None:
    async def test() -> None:
        async with open_client() as client:
            answer = (await client.post("/translate", json=ASKED)).json()
        assert set(answer) == {"translatedText"} | OWN_FIELDS
        assert isinstance(answer["translatedText"], str) and answer["translatedText"] != ASKED["q"]
        assert (answer["model"], answer["truncated"], answer["finish_reason"]) == ("tiny-en-de@1", False, "stop")

    run(test())


def test_every_form_of_request_gets_the_same_answer(open_client: OpenClient, run: Run) -> None:
    async def test() -> None:
        async with open_client() as client:
            answers = [
                await client.post("/translate", json=ASKED),
                await client.post("/translate", data=ASKED),
                await client.post("/translate", params=ASKED),
                await client.post("/translate", files={name: (None, value) for name, value in ASKED.items()}),
            ]
        assert [answer.status_code for answer in answers] == [200] * 4
        assert len({answer.text for answer in answers}) == 1

    run(test())


def test_a_list_is_answered_in_order_and_each_item_as_if_alone(
    open_client: OpenClient, run: Run, sentence_pairs: list[tuple[str, str]]
) -> None:
    texts = [english for english, _ in sentence_pairs[:6]]

    async def test() -> None:
        async with open_client() as client:
            together = (await client.post("/translate", json={**ASKED, "q": texts, "alternatives": 2})).json()
            alone = [
                (await client.post("/translate", json={**ASKED, "q": text, "alternatives": 2})).json() for text in texts
            ]
        assert "errors" not in together
        for name in {"translatedText", "alternatives"} | OWN_FIELDS:
            assert together[name] == [one[name] for one in alone]

    run(test())


def test_an_item_that_fails_is_null_and_says_why(open_client: OpenClient, run: Run) -> None:
    async def test() -> None:
        async with open_client() as client:
            body = b'{"q": ["Hello.", "a\\ud800"], "source": "en", "target": "de", "alternatives": 1}'
            answer = (
                await client.post("/translate", content=body, headers={"content-type": "application/json"})
            ).json()
        for name in {"translatedText", "alternatives"} | OWN_FIELDS:
            assert answer[name][0] is not None and answer[name][1] is None
        assert answer["errors"][0] is None and "lone surrogate" in answer["errors"][1]

    run(test())


def test_alternatives_are_there_only_if_asked_for_and_unlike_the_text(open_client: OpenClient, run: Run) -> None:
    async def test() -> None:
        async with open_client() as client:
            answer = (await client.post("/translate", json={**ASKED, "alternatives": 3})).json()
        assert 1 <= len(answer["alternatives"]) <= 3
        assert len({answer["translatedText"], *answer["alternatives"]}) == 1 + len(answer["alternatives"])

    run(test())


def test_auto_detects_each_item(open_client: OpenClient, run: Run) -> None:
    pytest.importorskip("py3langid")
    texts = ["Where did you put my blue umbrella?", "Wo hast du meinen blauen Regenschirm hingestellt?", "😀"]

    async def test() -> None:
        async with open_client() as client:
            listed = (await client.post("/translate", json={"q": texts, "source": "auto", "target": "de"})).json()
            single = (await client.post("/translate", json={"q": texts[1], "source": "auto", "target": "en"})).json()
            detected = (await client.post("/detect", data={"q": texts[1]})).json()
        assert [one["language"] for one in listed["detectedLanguage"]] == ["en", "de", "en"]
        assert listed["detectedLanguage"][2]["confidence"] == 0
        assert listed["translatedText"][1:] == texts[1:], "German into German, and nothing to translate"
        assert single["detectedLanguage"] == detected[0]
        assert 50 < detected[0]["confidence"] <= 100
        assert [one["language"] for one in detected] == ["de", "en"]

    run(test())


def test_our_own_fields_reach_the_search(open_client: OpenClient, run: Run) -> None:
    async def test() -> None:
        async with open_client() as client:
            plain = (await client.post("/translate", json=ASKED)).json()
            short = (
                await client.post(
                    "/translate", json={**ASKED, "max_length": 1, "beam_size": 1, "model": plain["model"]}
                )
            ).json()
            greedy = (await client.post("/translate", json={**ASKED, "beam_size": 1, "length_penalty": 0})).json()
            unknown = await client.post("/translate", json={**ASKED, "model": "tiny-en-de@2"})
        assert (short["truncated"], short["finish_reason"]) == (True, "length")
        assert len(short["translatedText"]) < len(plain["translatedText"])
        assert greedy["translatedText"]
        assert unknown.status_code == 404 and "serves version 1, not '2'" in unknown.json()["error"]

    run(test())


@pytest.mark.parametrize(
    ("wrong", "status", "message"),
    [
        ({"q": None}, 400, "Invalid request: missing q parameter"),
        ({"q": ""}, 400, "Invalid request: missing q parameter"),
        ({"q": []}, 400, "Invalid request: missing q parameter"),
        ({"source": None}, 400, "Invalid request: missing source parameter"),
        ({"target": ""}, 400, "Invalid request: missing target parameter"),
        ({"q": 5}, 400, "Invalid request: q parameter must be a string or a list of strings"),
        ({"q": {"a": 1}}, 400, "Invalid request: q parameter must be a string or a list of strings"),
        ({"q": [["a"]]}, 400, "Invalid request: q parameter must be a string or a list of strings"),
        ({"q": ["a", 1]}, 400, "Invalid request: q parameter must be a string or a list of strings"),
        ({"q": ["a"] * 257}, 400, "Invalid request: request (257) exceeds text limit (256)"),
        ({"q": "a" * 100_001}, 400, "Invalid request: request (100001) exceeds text limit (100000)"),
        ({"q": ["a" * 50_001] * 2}, 400, "Invalid request: request (100002) exceeds text limit (100000)"),
        ({"source": "xx"}, 400, "xx is not supported; available: de, en"),
        ({"target": "klingon" * 9}, 400, "klingonklingonkl is not supported; available: de, en"),
        ({"source": "xx", "q": ["a", "b"]}, 400, "xx is not supported; available: de, en"),
        ({"target": "auto"}, 400, "auto is not supported; available: de, en"),
        ({"format": "html"}, 400, "html format is not supported"),
        ({"alternatives": -1}, 400, "Invalid request: alternatives parameter must be >= 0"),
        ({"alternatives": "x"}, 400, "Invalid request: alternatives parameter is not a number"),
        ({"alternatives": 8}, 400, "Invalid request: alternatives parameter must be <= 7"),
        ({"beam_size": 1000}, 400, "Invalid request: beam_size parameter must be <= 8"),
        ({"max_length": 0}, 400, "Invalid request: max_length parameter must be >= 1"),
        ({"model": "nothing"}, 404, "there is no model 'nothing'; loaded are: tiny-en-de"),
    ],
    ids=lambda value: None if isinstance(value, dict) else str(value)[:60],
)
def test_what_is_wrong_is_said(
    open_client: OpenClient, run: Run, wrong: dict[str, Any], status: int, message: str
) -> None:
    async def test() -> None:
        async with open_client() as client:
            answer = await client.post("/translate", json={**ASKED, **wrong})
        assert (answer.status_code, answer.json()) == (status, {"error": message})

    run(test())


def test_a_request_may_shorten_its_time_and_is_told_when_it_is_up(open_client: OpenClient, run: Run) -> None:
    async def test() -> None:
        async with open_client() as client:

            async def post(timeout: str) -> httpx.Response:
                return await client.post("/translate", json=ASKED, headers={"x-request-timeout": timeout})

            statuses = [(await post(timeout)).status_code for timeout in ("1e-9", "60", "1e9", "soon", "-1", "nan")]
        assert statuses == [504, 200, 200, 400, 400, 400]

    run(test())


def test_a_full_queue_is_429_with_retry_after(open_client: OpenClient, run: Run) -> None:
    lines = {**ASKED, "q": "Hello.\n" * 64}

    async def test() -> None:
        async with open_client(queue_limit=64, max_rows=8) as client:
            answers = await asyncio.gather(*(client.post("/translate", json=lines) for _ in range(8)))
        statuses = {answer.status_code for answer in answers}
        assert statuses == {200, 429}
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert int(refused.headers["retry-after"]) >= 1 and "too many requests" in refused.json()["error"]

    run(test())


def test_without_a_model_the_service_is_alive_and_says_what_is_missing(
    open_client: OpenClient, run: Run, tmp_path: Any
) -> None:
    async def test() -> None:
        async with open_client(model_store=tmp_path) as client:
            assert (await client.get("/health/live")).status_code == 200
            ready = await client.get("/health/ready")
            answer = await client.post("/translate", json=ASKED)
            assert (await client.get("/languages")).json() == (await client.get("/models")).json() == []
        assert ready.status_code == answer.status_code == 503
        assert ready.json() == answer.json()
        assert "the store has no current version of any model" in ready.json()["error"]
        assert int(answer.headers["retry-after"]) >= 1

    run(test())
