"""`POST /transcribe` as clients see it: a tiny random Whisper for the wire, tiny.en for what is really said."""

import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import srt
import webvtt
from prometheus_client import REGISTRY

from tests.api.conftest import OpenClient
from tests.api.test_events import STREAM, events
from tests.audio.recordings import encoded, silent_film, speech_like, wav

Run = Callable[[Coroutine[Any, Any, None]], None]
File = tuple[str, tuple[str, bytes]]

# Random weights are never sure, and every guard would have them try again.
ONCE = {"temperature": "0", "language": "en"}


def part(content: bytes, name: str = "talk.wav") -> File:
    return "file", (name, content)


TALK = part(wav(speech_like(1.5)))


def test_one_recording_and_several(open_client: OpenClient, tiny_whisper_store: Path, talk: bytes, run: Run) -> None:
    spoken = part(talk)

    async def test() -> None:
        async with open_client(model_store=tiny_whisper_store) as client:
            before = REGISTRY.get_sample_value("seq2serve_audio_seconds_total", {"model": "tiny-whisper"}) or 0.0
            one = await client.post("/transcribe", files=[spoken], data=ONCE)
            assert one.status_code == 200, one.text
            answer = one.json()
            assert set(answer) == {"text", "language", "duration", "segments", "model", "warnings"}
            assert answer["duration"] == 1.5 and answer["language"] == "en" and answer["model"] == "tiny-whisper@1"
            assert "".join(segment["text"] for segment in answer["segments"]) == answer["text"] != ""
            assert all(0 <= segment["confidence"] <= 1 for segment in answer["segments"])
            assert all(0 <= s["start"] <= s["end"] <= 1.5 and "words" not in s for s in answer["segments"])
            many = await client.post("/transcribe", files=[spoken, part(b"text"), spoken], data=ONCE)
            first, bad, last = many.json()["results"]
            assert many.status_code == 200
            assert first == last == answer
            assert "no audio that can be read" in bad["error"]
            after = REGISTRY.get_sample_value("seq2serve_audio_seconds_total", {"model": "tiny-whisper"})
            assert after == before + 4.5
            query = await client.post("/transcribe", files=[spoken], params=ONCE)
            assert query.json() == answer

    run(test())


def test_formats(open_client: OpenClient, tiny_whisper_store: Path, talk: bytes, run: Run) -> None:
    spoken = part(talk)

    async def test() -> None:
        async with open_client(model_store=tiny_whisper_store) as client:

            async def ask(form: str, **more: str) -> Any:
                data = {**ONCE, "response_format": form, **more}
                answer = await client.post("/transcribe", files=[spoken], data=data)
                assert answer.status_code == 200, answer.text
                return answer

            plain = (await ask("json")).json()
            verbose = (await ask("verbose_json", word_timestamps="true")).json()
            assert verbose["task"] == "transcribe" and verbose["text"] == plain["text"]
            [segment, *_] = verbose["segments"]
            assert segment["tokens"] and segment["temperature"] == 0 and segment["avg_logprob"] < 0
            assert {"seek", "compression_ratio", "no_speech_prob"} <= set(segment)
            words = [word for segment in verbose["segments"] for word in segment["words"]]
            assert all(0 <= word["start"] <= word["end"] <= 1.5 for word in words) and words
            text = await ask("text")
            assert text.text == plain["text"] + "\n" and text.headers["content-type"].startswith("text/plain")
            said = [" ".join(s["text"].split()) for s in plain["segments"] if s["text"].strip()]
            assert [cue.content for cue in srt.parse((await ask("srt")).text)] == said
            vtt = await ask("vtt")
            assert vtt.headers["content-type"].startswith("text/vtt") and vtt.text.startswith("WEBVTT")
            assert len(webvtt.from_string(vtt.text)) == len(said)

    run(test())


def test_segments_come_as_events(open_client: OpenClient, tiny_whisper_store: Path, talk: bytes, run: Run) -> None:
    spoken = part(talk)

    async def test() -> None:
        async with open_client(model_store=tiny_whisper_store) as client:
            plain = (await client.post("/transcribe", files=[spoken], data=ONCE)).json()
            answer = await client.post("/transcribe", files=[spoken], data=ONCE, headers=STREAM)
            assert answer.headers["content-type"].startswith("text/event-stream")
            *deltas, (last, done) = events(answer.text)
            assert last == "done" and done == plain
            assert "".join(delta["text"] for _, delta in deltas) == plain["text"]
            bad = await client.post("/transcribe", files=[part(b"text")], data=ONCE, headers=STREAM)
            assert bad.status_code == 400 and "no audio" in bad.json()["error"]

    run(test())


@pytest.mark.parametrize(
    ("files", "data", "status", "message"),
    [
        ([], {"file": "text"}, 400, "missing file parameter"),
        ([("sound", ("a.wav", b"x"))], {}, 400, "recordings go into the field file"),
        ([part(b"")], {}, 400, "the file is empty"),
        ([part(b"This is a text. " * 99)], {}, 400, "no audio that can be read"),
        ([part(silent_film().getvalue(), "film.mp4")], {}, 400, "no audio track"),
        ([TALK] * 17, {}, 400, "Too many files. Maximum number of files is 16."),
        ([TALK], {f"field{n}": "x" for n in range(101)}, 400, "Too many fields"),
        ([TALK], {"prompt": "x" * 200_000}, 400, "Part exceeded maximum size"),
        ([TALK], {"prompt": "x" * 20_000}, 400, "prompt parameter"),
        ([part(bytes(60_000))], {}, 413, "over the limit of 55000 bytes"),
        (
            [part(encoded(np.zeros(144_000, np.float32), "flac", "flac").getvalue())],
            {},
            413,
            "longer than 3 s, the limit",
        ),
        ([TALK], {"language": "xx"}, 400, "language 'xx' is not known; tiny-whisper has en, haw"),
        ([TALK], {"task": "sing"}, 400, "task parameter"),
        ([TALK], {"temperature": "2"}, 400, "temperature parameter must be <= 1"),
        ([TALK], {"temperature": "hot"}, 400, "temperature parameter is not a number"),
        ([TALK], {"temperature": "nan"}, 400, "temperature parameter"),
        ([TALK], {"beam_size": "99"}, 400, "beam_size parameter must be <= 8"),
        ([TALK], {"beam_size": "0"}, 400, "beam_size parameter must be >= 1"),
        ([TALK], {"word_timestamps": "perhaps"}, 400, "word_timestamps parameter"),
        ([TALK], {"response_format": "xml"}, 400, "response_format parameter"),
        ([TALK] * 2, {"response_format": "srt"}, 400, "is for one recording"),
        ([TALK], {"model": "other"}, 404, "there is no model 'other'"),
        ([TALK], {"model": "tiny-whisper@7"}, 404, "serves version 1"),
    ],
)
def test_bad_input_is_told(
    open_client: OpenClient,
    tiny_whisper_store: Path,
    run: Run,
    files: list[File],
    data: dict[str, str],
    status: int,
    message: str,
) -> None:
    limits = {"max_upload_bytes": 55_000 if status == 413 else 2_000_000, "max_audio_s": 3}

    async def test() -> None:
        async with open_client(model_store=tiny_whisper_store, **limits) as client:
            sent = files or [("other", (None, b"x"))]
            answer = await client.post("/transcribe", files=sent, data={**ONCE, **data})
            assert answer.status_code == status, answer.text
            assert message in answer.json()["error"]

    run(test())


@pytest.mark.parametrize(
    ("content", "duration_s"),
    [
        (wav(np.zeros(0, np.float32)), 0.0),
        (wav(np.zeros(1, np.float32)), 0.0),
        (wav(np.zeros(16_000, np.float32)), 1.0),
    ],
    ids=["no sample", "one sample", "silence"],
)
def test_where_nothing_is_said_the_transcript_is_empty(
    open_client: OpenClient, tiny_whisper_store: Path, run: Run, content: bytes, duration_s: float
) -> None:
    async def test() -> None:
        async with open_client(model_store=tiny_whisper_store) as client:
            answer = (await client.post("/transcribe", files=[part(content)])).json()
            assert (answer["text"], answer["segments"]) == ("", [])
            assert answer["duration"] == pytest.approx(duration_s, abs=0.001)
            vtt = await client.post("/transcribe", files=[part(content)], data={"response_format": "vtt"})
            assert vtt.text.startswith("WEBVTT\n")

    run(test())


def test_other_bodies_are_refused(open_client: OpenClient, tiny_whisper_store: Path, run: Run) -> None:
    async def test() -> None:
        async with open_client(model_store=tiny_whisper_store) as client:
            assert (await client.post("/transcribe", json={"file": "x"})).status_code == 415
            assert (await client.post("/transcribe", content=wav(speech_like(0.1)))).status_code == 415
            headers = {"content-type": "multipart/form-data"}
            assert (await client.post("/transcribe", content=b"x", headers=headers)).status_code == 400
            headers = {"content-type": "multipart/form-data; boundary=b"}
            assert (await client.post("/transcribe", content=b"--b\r\nx", headers=headers)).status_code == 400

    run(test())


def test_keys_readiness_and_time_are_checked(open_client: OpenClient, tiny_whisper_store: Path, run: Run) -> None:
    async def test() -> None:
        async with open_client(model_store=tiny_whisper_store, api_keys="right", require_api_key=True) as client:
            assert (await client.post("/transcribe", files=[TALK], data=ONCE)).status_code == 400
            wrong = await client.post("/transcribe", files=[TALK], data={**ONCE, "api_key": "wrong"})
            assert wrong.status_code == 403
            right = await client.post("/transcribe", files=[TALK], data={**ONCE, "api_key": "right"})
            assert right.status_code == 200
            headers = {"authorization": "Bearer right", "x-request-timeout": "0.001"}
            late = await client.post("/transcribe", files=[TALK], data=ONCE, headers=headers)
            assert late.status_code == 504
        async with open_client(model_store=tiny_whisper_store / "none") as client:
            assert (await client.post("/transcribe", files=[TALK])).status_code == 503

    run(test())


def test_text_models_and_speech_models_keep_apart(open_client: OpenClient, run: Run) -> None:
    async def test() -> None:
        async with open_client() as client:
            nobody = await client.post("/transcribe", files=[TALK])
            assert nobody.status_code == 404 and "no model that can transcribe" in nobody.json()["error"]
            wrong = await client.post("/transcribe", files=[TALK], data={"model": "tiny-en-de"})
            assert wrong.status_code == 404 and "does not transcribe" in wrong.json()["error"]

    run(test())


def test_a_speech_model_is_listed_and_speaks_no_text(
    open_client: OpenClient, tiny_whisper_store: Path, run: Run
) -> None:
    async def test() -> None:
        async with open_client(model_store=tiny_whisper_store) as client:
            assert (await client.get("/models")).json()[0]["task"] == "transcribe"
            assert (await client.get("/languages")).json() == []
            asked = {"q": "a", "source": "en", "target": "de", "model": "tiny-whisper"}
            assert (await client.post("/translate", json=asked)).status_code == 404
            schema = (await client.get("/openapi.json")).json()["paths"]["/transcribe"]["post"]["requestBody"]
            assert "multipart/form-data" in schema["content"]

    run(test())


def test_a_real_model_hears_what_was_said(open_client: OpenClient, whisper_store: Path, jfk: Path, run: Run) -> None:
    async def test() -> None:
        async with open_client(model_store=whisper_store, variant="int8", threads=2) as client:
            file = part(jfk.read_bytes(), "jfk.flac")
            data = {"word_timestamps": "true", "model": "whisper-tiny.en"}
            answer = (await client.post("/transcribe", files=[file], data=data)).json()
            assert "ask not what your country can do for you" in answer["text"]
            assert answer["duration"] == 11.0 and answer["language"] == "en"
            words = [word for segment in answer["segments"] for word in segment["words"]]
            assert [word["word"] for word in words] == answer["text"].split()
            country = next(word for word in words if word["word"] == "country")
            assert 4 < country["start"] < country["end"] < 7
            english = await client.post("/transcribe", files=[file], data={**data, "task": "translate"})
            assert english.status_code == 400 and "can not translate" in json.loads(english.text)["error"]

    run(test())
