"""Transcription by real models: a tiny random Whisper for the laws, tiny.en for what is really said."""

import asyncio
import difflib
import json
import os
import re
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from app.audio.features import SAMPLE_RATE_HZ
from app.audio.waveform import read_waveform
from app.commands.translate import decode_with_model
from app.engine.model import load_model
from app.errors import AppError, DeadlineError, InputError
from app.export.artifact import Description, Gates, export_artifact
from app.models.speech import Speech, SpeechConfig
from app.serving.loading import Placement
from app.serving.scheduler import Limits
from app.store import manifest as store_manifest
from app.store.registry import Registry
from app.tasks.build import LoadedTranscriber, build
from app.tasks.transcribe import Transcriber
from app.tasks.transcript import Segment, TranscribeOptions, Transcript
from app.text.tokenizer import (
    BOS_ID,
    EOS_ID,
    PAD_ID,
    UNK_ID,
    SentencePieceTokenizer,
    TokenizerOptions,
    learn_tokenizer,
    open_tokenizer,
)
from tests.audio.recordings import Floats
from tests.conftest import RECIPE, sharpen

PLAIN = TranscribeOptions()
# Random weights are never sure, and every guard would have them try again.
ONCE = TranscribeOptions(temperature=0.0, language="haw")


@pytest.fixture(scope="module")
def tiny(tiny_whisper_store: Path, placement: Placement) -> Iterator[LoadedTranscriber]:
    yield from _loaded(tiny_whisper_store, "tiny-whisper", placement)


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


def test_it_works_without_a_worker(tiny_whisper_store: Path, tiny: LoadedTranscriber, jfk: Floats) -> None:
    folder, manifest = Registry(tiny_whisper_store).resolve("tiny-whisper")
    tokenizer = open_tokenizer(folder / manifest.tokenizer.file, manifest.tokenizer.kind)
    model = load_model(folder, manifest, "fp32", "cpu", 1)
    alone = Transcriber(manifest, tokenizer, decode_with_model(model))
    assert transcript_of(alone, jfk, ONCE) == transcript_of(tiny, jfk, ONCE)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, placement: Placement) -> Iterator[LoadedTranscriber]:
    """A model of our own kind: no window, no tokens for languages or tasks, SentencePiece; it reads up to 1.2 s."""
    folder = tmp_path_factory.mktemp("own")
    sentences = ["zero one two three four five six seven eight nine", "nine eight seven six"] * 5
    learn_tokenizer(sentences, TokenizerOptions(vocabulary_size=60), [], folder / "tokenizer.model")
    tokenizer = SentencePieceTokenizer(folder / "tokenizer.model")
    config = SpeechConfig(
        width=48, num_heads=3, feed_forward_width=80, encoder_layers=2, decoder_layers=2, num_mels=20,
        max_frames=120, max_length=32, positions="learned", tied_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(0)
    model = sharpen(Speech(config, tokenizer.vocabulary_size), gain=1.2, embedding_gain=1.0, eos_bias=-4.0)
    description = Description(
        name="own-speech", version="1", task="transcribe", architecture="speech", directions=[],
        tokenizer_file=tokenizer.path, language_ids={}, lower_case=True, pad_id=PAD_ID, unk_id=UNK_ID, bos_id=BOS_ID,
        eos_id=EOS_ID, max_source_length=120, max_target_length=32, recipe_text=RECIPE,
        card=lambda evaluation: "# own-speech\n", speech=store_manifest.Speech(num_mels=20, languages=["en"]),
    )  # fmt: skip
    random = np.random.default_rng(0)
    sources = [random.standard_normal((length, 20)).astype(np.float32) for length in range(40, 120, 2)]
    registry = Registry(folder / "store")
    export_artifact(model, description, Gates(sources, max_length=12), registry, keep=("fp32",), num_threads=1)
    registry.promote("own-speech", "1")
    yield from _loaded(folder / "store", "own-speech", placement)


def test_a_model_of_our_own_reads_windows_of_their_own_length(own: LoadedTranscriber, jfk: Floats) -> None:
    options = TranscribeOptions(temperature=0.0, prompt="digits")
    transcript = transcript_of(own, jfk, options)
    check(transcript)
    assert transcript.language == "en" and len(transcript.segments) > 8
    assert all(segment.end_s - segment.start_s <= 1.2 for segment in transcript.segments)
    assert transcript.text.split() == " ".join(segment.text for segment in transcript.segments).split()
    assert transcript.warnings[0].startswith("prompt: own-speech takes none")
    with pytest.raises(InputError, match="has no alignment heads"):
        transcribe(own, jfk, options=TranscribeOptions(has_word_times=True))


def test_real_speech_is_written_down(whisper: LoadedTranscriber, jfk: Floats) -> None:
    transcript = transcript_of(whisper, jfk)
    check(transcript)
    assert transcript.language == "en" and not transcript.warnings
    words = "".join(letter for letter in transcript.text.lower() if letter.isalpha() or letter == " ").split()
    assert " ".join(words) == (
        "and so my fellow americans ask not what your country can do for you ask what you can do for your country"
    )


def test_words_have_times_of_the_recording(whisper: LoadedTranscriber, jfk: Floats) -> None:
    shifted = np.concatenate([np.zeros(25 * SAMPLE_RATE_HZ, np.float32), jfk])
    plain, timed = (transcript_of(whisper, shifted, TranscribeOptions(has_word_times=has)) for has in (False, True))
    check(timed)
    assert plain.text == timed.text and not any(segment.words for segment in plain.segments)
    words = [word for segment in timed.segments for word in segment.words]
    assert "".join(word.text for word in words).strip() == timed.text
    assert all(25.0 <= one.start_s <= one.end_s <= 36.0 for one in words)
    assert [one.start_s for one in words] == sorted(one.start_s for one in words)
    [ask, *_] = [word for word in words if word.text.strip().lower().startswith("ask")]
    assert ask.end_s == pytest.approx(25 + 3.7, abs=0.5)  # as one hears it; the pause before counts as its beginning
    ids = tuple(token for segment in timed.segments for token in segment.ids)
    assert whisper.transcriber._tokenizer.decode(ids).strip() == timed.text


def test_no_word_is_lost_or_doubled_where_a_long_recording_is_cut(
    whisper: LoadedTranscriber, data_folder: Path
) -> None:
    folder = data_folder / "speech" / "read_en"
    records = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    records = [record for record in records if "ljspeech" in record["audio"]]
    long = np.concatenate([read_waveform(folder / record["audio"], 60) for record in records])
    transcript = transcript_of(whisper, long, TranscribeOptions(language="en"))
    check(transcript)
    said = " ".join(record["text"] for record in records).split()
    heard = re.sub(r"[^a-z' ]", " ", transcript.text.lower()).split()
    matches = difflib.SequenceMatcher(None, said, heard, autojunk=False).get_matching_blocks()
    assert sum(match.size for match in matches) > 0.93 * len(said)  # numbers are written in figures
    assert len(heard) < 1.03 * len(said)


def test_a_translation_by_an_english_model_is_refused(whisper: LoadedTranscriber) -> None:
    with pytest.raises(InputError, match="can not translate"):
        transcribe(whisper, np.zeros(16_000, np.float32), options=TranscribeOptions(task="translate"))
