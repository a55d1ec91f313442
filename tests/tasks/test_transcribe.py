"""Transcription by real models: a tiny random Whisper for the laws, tiny.en for what is really said."""

import asyncio
import os
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from app.audio.features import SAMPLE_RATE_HZ
from app.audio.waveform import read_waveform
from app.cli import app
from app.commands.translate import decode_with_model
from app.engine.model import load_model
from app.errors import AppError, DeadlineError, InputError
from app.serving.loading import Placement
from app.serving.scheduler import Limits
from app.store.registry import Registry
from app.tasks.build import LoadedTranscriber, build
from app.tasks.transcribe import Transcriber
from app.tasks.transcript import Segment, TranscribeOptions, Transcript
from app.text.tokenizer import open_tokenizer
from tests.audio.recordings import Floats
from tests.pretrained import checkpoint

PLAIN = TranscribeOptions()
# Random weights are never sure, and every guard would have them try again.
ONCE = TranscribeOptions(temperature=0.0, language="haw")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with `tiny-whisper`, current: two languages, windows of 0.36 s, random weights."""
    folder, store = tmp_path_factory.mktemp("whisper"), tmp_path_factory.mktemp("store")
    checkpoint.write_huggingface(folder)
    options = ["--store", str(store), "--name", "tiny-whisper", "--version", "1", "--keep-fp32"]
    assert CliRunner().invoke(app, ["import", str(folder), *options], catch_exceptions=False).exit_code == 0
    Registry(store).promote("tiny-whisper", "1")
    return store


@pytest.fixture(scope="module")
def tiny(store: Path, placement: Placement) -> Iterator[LoadedTranscriber]:
    yield from _loaded(store, "tiny-whisper", placement)


@pytest.fixture(scope="module")
def whisper() -> Iterator[LoadedTranscriber]:
    """The published tiny.en, int8."""
    store = Path(os.environ.get("SEQ2SERVE_MODEL_STORE", Path(__file__).parents[2] / "model_store"))
    if not (store / "whisper-tiny.en" / "aliases.json").exists():
        pytest.skip("needs whisper-tiny.en in model_store/, or in the store that SEQ2SERVE_MODEL_STORE names")
    yield from _loaded(store, "whisper-tiny.en", Placement("cpu", "int8", 1, 2, Limits()))


def _loaded(store: Path, name: str, placement: Placement) -> Iterator[LoadedTranscriber]:
    loaded = build(*Registry(store).resolve(name), placement)
    assert isinstance(loaded, LoadedTranscriber)
    yield loaded
    loaded.close(drain_s=1)


@pytest.fixture(scope="module")
def jfk(data_folder: Path) -> Floats:
    return read_waveform(data_folder / "speech" / "read_en" / "audio" / "smoke" / "jfk.flac", 60)


def transcribe(
    loaded: LoadedTranscriber | Transcriber,
    *recordings: Floats,
    options: TranscribeOptions = PLAIN,
    time_s: float = 120,
) -> list[Transcript | AppError]:
    transcriber = loaded if isinstance(loaded, Transcriber) else loaded.transcriber
    return asyncio.run(transcriber.transcribe(recordings, options, time.monotonic() + time_s))


def transcript_of(
    loaded: LoadedTranscriber | Transcriber, recording: Floats, options: TranscribeOptions = PLAIN
) -> Transcript:
    [result] = transcribe(loaded, recording, options=options)
    assert isinstance(result, Transcript), result
    return result


def check(transcript: Transcript) -> None:
    """What holds of every transcript."""
    segments = transcript.segments
    assert transcript.text == "".join(segment.text for segment in segments)
    assert all(0 <= one.start_s <= one.end_s <= transcript.duration_s for one in segments)
    assert all(one.end_s <= other.start_s + 0.02 for one, other in pairwise(segments))


def test_silence_is_an_empty_transcript(tiny: LoadedTranscriber) -> None:
    for num_samples in (0, 1, 10 * SAMPLE_RATE_HZ):
        transcript = transcript_of(tiny, np.zeros(num_samples, np.float32))
        assert (transcript.text, transcript.segments) == ("", ())
        assert transcript.duration_s == num_samples / SAMPLE_RATE_HZ


def test_recordings_together_are_what_they_are_alone(tiny: LoadedTranscriber, jfk: Floats) -> None:
    recordings = [jfk, np.zeros(16_000, np.float32), jfk[: 3 * SAMPLE_RATE_HZ], jfk[5 * SAMPLE_RATE_HZ :]]
    together = transcribe(tiny, *recordings, options=ONCE)
    assert together == [transcript_of(tiny, recording, ONCE) for recording in recordings]
    for transcript in together:
        assert isinstance(transcript, Transcript)
        check(transcript)
    assert isinstance(together[0], Transcript) and len(together[0].segments) > 16  # more windows than run together


def test_segments_are_told_in_order_and_make_the_transcript(tiny: LoadedTranscriber, jfk: Floats) -> None:
    told: list[Segment] = []
    options = TranscribeOptions(language="en")
    [result] = asyncio.run(tiny.transcriber.transcribe([jfk], options, time.monotonic() + 120, told.append))
    assert isinstance(result, Transcript)
    assert tuple(told) == result.segments
    assert "".join(segment.text for segment in told) == result.text


def test_the_language_is_the_vote_of_the_first_windows(tiny: LoadedTranscriber, jfk: Floats) -> None:
    heard = transcript_of(tiny, jfk, TranscribeOptions(temperature=0.0))
    assert heard.language in ("en", "haw")
    named = transcript_of(tiny, jfk, TranscribeOptions(temperature=0.0, language=heard.language))
    assert heard == named


def test_windows_that_fail_a_guard_are_decoded_again(tiny: LoadedTranscriber, jfk: Floats) -> None:
    transcript = transcript_of(tiny, jfk[: 2 * SAMPLE_RATE_HZ], TranscribeOptions(language="en"))
    assert any(warning.startswith("unsure: from ") for warning in transcript.warnings)
    fixed = transcript_of(tiny, jfk[: 2 * SAMPLE_RATE_HZ], TranscribeOptions(language="en", temperature=0.4))
    assert {segment.temperature for segment in fixed.segments} == {0.4}


def test_a_prompt_and_the_task_change_what_is_written(tiny: LoadedTranscriber, jfk: Floats) -> None:
    clip = jfk[: 3 * SAMPLE_RATE_HZ]
    plain = transcript_of(tiny, clip, ONCE)
    for options in (
        TranscribeOptions(temperature=0.0, language="haw", prompt="the lazy dog sells sea shells"),
        TranscribeOptions(temperature=0.0, language="haw", task="translate"),
    ):
        assert transcript_of(tiny, clip, options).text != plain.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (TranscribeOptions(language="xx"), "language 'xx' is not known; tiny-whisper has en, haw"),
        (TranscribeOptions(temperature=1.5), "temperature is 1.5, must be from 0 to 1"),
        (TranscribeOptions(prompt="a \ud800 b"), "lone surrogate"),
    ],
)
def test_options_that_can_not_be_honoured_are_refused(
    tiny: LoadedTranscriber, options: TranscribeOptions, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        transcribe(tiny, np.zeros(16_000, np.float32), options=options)


def test_a_deadline_that_passes_is_an_error(tiny: LoadedTranscriber, jfk: Floats) -> None:
    with pytest.raises(DeadlineError):
        transcribe(tiny, jfk, time_s=-1)


def test_it_works_without_a_worker(store: Path, tiny: LoadedTranscriber, jfk: Floats) -> None:
    folder, manifest = Registry(store).resolve("tiny-whisper")
    tokenizer = open_tokenizer(folder / manifest.tokenizer.file, manifest.tokenizer.kind)
    model = load_model(folder, manifest, "fp32", "cpu", 1)
    alone = Transcriber(manifest, tokenizer, decode_with_model(model))
    assert transcript_of(alone, jfk, ONCE) == transcript_of(tiny, jfk, ONCE)


def test_real_speech_is_written_down(whisper: LoadedTranscriber, jfk: Floats) -> None:
    transcript = transcript_of(whisper, jfk)
    check(transcript)
    assert transcript.language == "en" and not transcript.warnings
    words = "".join(letter for letter in transcript.text.lower() if letter.isalpha() or letter == " ").split()
    assert " ".join(words) == (
        "and so my fellow americans ask not what your country can do for you ask what you can do for your country"
    )


def test_a_translation_by_an_english_model_is_refused(whisper: LoadedTranscriber) -> None:
    with pytest.raises(InputError, match="can not translate"):
        transcribe(whisper, np.zeros(16_000, np.float32), options=TranscribeOptions(task="translate"))
