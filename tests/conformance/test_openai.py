"""Conformance: the official `openai` package works as it is."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
import srt
import webvtt

from tests.system.conftest import Server, StartServer, start_server  # noqa: F401 (a fixture)

Ask = Callable[..., Any]


@pytest.fixture(scope="module")
def server(start_server: StartServer, tiny_whisper_store: Path) -> Server:  # noqa: F811
    """A tiny random Whisper: English and Hawaiian."""
    return start_server(
        MODEL_STORE=str(tiny_whisper_store),
        VARIANT="fp32",
        API_KEYS="key",
        REQUIRE_API_KEY="true",
        MAX_UPLOAD_BYTES="100000",
    )


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="key", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def ask(client: openai.OpenAI, talk: bytes) -> Ask:
    """Asks for a transcription of `talk`; with the temperature as good as 0, but no other one after it."""
    return lambda **more: _ask(client, talk, **more)


def _ask(client: openai.OpenAI, talk: bytes, **more: Any) -> Any:
    asked = {"model": "whisper-1", "file": ("talk.wav", talk), "language": "en", "temperature": 0.01, **more}
    return client.audio.transcriptions.create(**asked)


def test_json_and_text(ask: Ask) -> None:
    answer = ask()
    assert answer.text and answer.usage.type == "duration" and answer.usage.seconds == 1.5
    assert ask(response_format="text") == answer.text + "\n"
    assert ask(model="tiny-whisper").text == answer.text


def test_subtitles(ask: Ask) -> None:
    assert all(cue.content for cue in srt.parse(ask(response_format="srt")))
    assert len(webvtt.from_string(ask(response_format="vtt"))) > 0


@pytest.mark.parametrize(
    ("granularities", "has_words", "has_segments"),
    [(None, False, True), (["segment"], False, True), (["word"], True, False), (["word", "segment"], True, True)],
)
def test_verbose_json(ask: Ask, granularities: list[str] | None, has_words: bool, has_segments: bool) -> None:
    more = {} if granularities is None else {"timestamp_granularities": granularities}
    answer = ask(response_format="verbose_json", **more)
    assert answer.language == "english" and answer.duration == 1.5 and answer.text
    assert (bool(answer.words), bool(answer.segments)) == (has_words, has_segments)
    for segment in answer.segments or []:
        assert 0 <= segment.start <= segment.end <= 1.5 and segment.tokens and segment.avg_logprob < 0
        assert isinstance(segment.compression_ratio, float) and isinstance(segment.no_speech_prob, float)
    for word in answer.words or []:
        assert 0 <= word.start <= word.end <= 1.5 and word.word == word.word.strip()


def test_a_granularity_without_brackets_is_understood(server: Server, talk: bytes) -> None:
    data = {"model": "whisper-1", "language": "en", "temperature": "0.01", "response_format": "verbose_json"}
    answer = server.client.post(
        "/v1/audio/transcriptions",
        data=data | {"timestamp_granularities": "word"},
        files={"file": ("talk.wav", talk)},
        headers={"authorization": "Bearer key"},
    )
    assert "words" in answer.json() and "segments" not in answer.json()
    assert isinstance(answer.json()["duration"], float)


def test_a_stream_is_deltas_and_one_done(ask: Ask, server: Server, talk: bytes) -> None:
    events = list(ask(stream=True))
    *deltas, done = events
    assert {event.type for event in deltas} == {"transcript.text.delta"} and done.type == "transcript.text.done"
    assert "".join(event.delta for event in deltas) == done.text == ask().text
    raw = server.client.post(
        "/v1/audio/transcriptions",
        data={"model": "whisper-1", "stream": "True"},
        files={"file": ("talk.wav", talk)},
        headers={"authorization": "Bearer key"},
    )
    assert raw.text.endswith("data: [DONE]\n\n") and "event:" not in raw.text


def test_translations(client: openai.OpenAI, talk: bytes) -> None:
    asked: dict[str, Any] = {"model": "whisper-1", "file": ("talk.wav", talk), "temperature": 0.01}
    assert client.audio.translations.create(**asked).text
    verbose = client.audio.translations.create(**asked, response_format="verbose_json")
    assert verbose.language == "english" and verbose.segments and float(verbose.duration) == 1.5
    assert str(client.audio.translations.create(**asked, response_format="vtt")).startswith("WEBVTT")  # type: ignore[call-overload]


def test_models_are_listed(client: openai.OpenAI) -> None:
    [model] = client.models.list().data
    assert (model.id, model.object, model.owned_by) == ("tiny-whisper", "model", "seq2serve") and model.created > 0
    assert client.models.retrieve("tiny-whisper") == model
    assert client.models.retrieve("whisper-1").id == "whisper-1"


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"timestamp_granularities": ["word"]}, "timestamp_granularities"),
        ({"timestamp_granularities": ["page"], "response_format": "verbose_json"}, "timestamp_granularities"),
        ({"response_format": "diarized_json"}, "response_format"),
        ({"response_format": "srt", "stream": True}, "response_format"),
        ({"include": ["logprobs"]}, "include"),
        ({"temperature": 3}, "temperature"),
        ({"language": "xx"}, "language"),
        ({"file": ("a.wav", b"text")}, "file"),
        ({"file": ("a.wav", b"")}, "file"),
        ({"file": ("a.wav", b"text"), "stream": True}, "file"),
    ],
)
def test_a_wrong_parameter_is_a_bad_request(ask: Ask, more: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(**more)
    error = caught.value
    assert error.param == param and error.type == "invalid_request_error" and error.code is None
    assert error.request_id and len(error.body["message"]) > 10  # type: ignore[index, call-overload]


def test_an_unknown_model_is_not_found(ask: Ask, client: openai.OpenAI) -> None:
    for call in (lambda: ask(model="gpt-x"), lambda: client.models.retrieve("gpt-x")):
        with pytest.raises(openai.NotFoundError) as caught:
            call()
        assert caught.value.code == "model_not_found"


@pytest.mark.parametrize("key", ["wrong", ""])
def test_the_key_is_required(server: Server, talk: bytes, key: str) -> None:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    for answer in (
        server.client.get("/v1/models", headers=headers),
        server.client.post("/v1/audio/transcriptions", files={"file": ("talk.wav", talk)}, headers=headers),
    ):
        assert answer.status_code == 401 and answer.json()["error"]["code"] == "invalid_api_key"
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0).models.list()


def test_errors_of_every_layer_have_the_same_shape(server: Server) -> None:
    headers = {"authorization": "Bearer key"}
    answers = {
        404: server.client.get("/v1/nothing"),
        405: server.client.get("/v1/audio/transcriptions"),
        415: server.client.post("/v1/audio/transcriptions", json={}, headers=headers),
        413: server.client.post("/v1/audio/transcriptions", content=bytes(200_000), headers=headers),
    }
    for status, answer in answers.items():
        assert answer.status_code == status
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
        assert answer.headers["x-request-id"]


def test_who_comes_to_a_full_house_is_told_when_to_come_back(
    start_server: StartServer,  # noqa: F811
    tiny_whisper_store: Path,
    jfk: Path,
) -> None:
    server = start_server(MODEL_STORE=str(tiny_whisper_store), AUDIO_QUEUE_S="1")
    refusals = []

    def ask() -> None:
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            try:
                assert client.audio.transcriptions.create(model="whisper-1", file=jfk).text
            except openai.RateLimitError as error:
                refusals.append(error)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: ask(), range(8)))
    assert 0 < len(refusals) < 8
    for refusal in refusals:
        assert refusal.code == "rate_limit_exceeded" and float(refusal.response.headers["retry-after"]) > 0


def test_an_english_only_model_does_not_translate(
    start_server: StartServer,  # noqa: F811
    whisper_store: Path,
    jfk: Path,
) -> None:
    server = start_server(MODEL_STORE=str(whisper_store), THREADS="2", VARIANT="int8")
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        assert (
            "ask not what your country can do"
            in client.audio.transcriptions.create(model="whisper-tiny.en", file=jfk).text
        )
        with pytest.raises(openai.BadRequestError, match="can not translate speech"):
            client.audio.translations.create(model="whisper-tiny.en", file=jfk)
