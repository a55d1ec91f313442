"""Speech is found and cut into windows: all of it, none of it twice, none too long."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.audio.features import SAMPLE_RATE_HZ
from app.audio.voice import FRAME_SAMPLES, Span, find_speech, speech_probabilities
from app.audio.waveform import read_waveform
from app.audio.windows import cut_windows, find_windows
from tests.audio.recordings import Floats

LONGEST = 30 * SAMPLE_RATE_HZ


@pytest.fixture(scope="module")
def voice(data_folder: Path) -> Floats:
    return read_waveform(data_folder / "speech" / "read_en" / "audio" / "smoke" / "jfk.flac", 60)


def silence(duration_s: float) -> Floats:
    return np.zeros(int(duration_s * SAMPLE_RATE_HZ), np.float32)


def test_speech_is_found_between_silences(voice: Floats) -> None:
    [window] = find_windows(np.concatenate([silence(4), voice, silence(6)]), LONGEST)
    assert window.start / SAMPLE_RATE_HZ == pytest.approx(4.2, abs=0.3)
    assert window.end / SAMPLE_RATE_HZ == pytest.approx(15.2, abs=0.4)


def test_neither_silence_nor_noise_is_speech() -> None:
    noise = 0.05 * np.random.default_rng(0).standard_normal(10 * SAMPLE_RATE_HZ).astype(np.float32)
    hum = 0.3 * np.sin(2 * np.pi * 50 * np.arange(10 * SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ).astype(np.float32)
    for sound in (silence(10), noise, hum, silence(0), np.ones(1, np.float32)):
        assert find_windows(sound, LONGEST) == []


def test_probabilities_do_not_depend_on_where_the_runs_are_cut(voice: Floats) -> None:
    long = np.tile(voice, 3)
    together = speech_probabilities(long)
    assert len(together) == -(-len(long) // FRAME_SAMPLES)
    np.testing.assert_allclose(speech_probabilities(long[: 20 * SAMPLE_RATE_HZ]), together[:625], atol=1e-4)


def test_a_long_silence_parts_windows_and_a_short_one_does_not(voice: Floats) -> None:
    word = voice[: 2 * SAMPLE_RATE_HZ]
    assert len(find_windows(np.concatenate([word, silence(2), word]), LONGEST)) == 1
    assert len(find_windows(np.concatenate([word, silence(8), word]), LONGEST)) == 2


def test_windows_are_cut_in_silence_where_there_is_one(voice: Floats) -> None:
    long = np.tile(np.concatenate([voice, silence(0.5)]), 6)
    windows = find_windows(long, LONGEST)
    speech = find_speech(speech_probabilities(long), len(long))
    assert len(windows) <= 4
    for window in windows[:-1]:
        assert not any(span.start < window.end < span.end for span in speech)


def test_without_silence_the_cut_is_at_the_quietest_moment() -> None:
    loud = np.random.default_rng(0).standard_normal(5 * LONGEST).astype(np.float32)
    quiet_from = int(0.8 * LONGEST)
    loud[quiet_from : quiet_from + 3000] *= 0.1
    first = cut_windows(loud, [Span(0, len(loud))], LONGEST)[0]
    assert quiet_from < first.end < quiet_from + 3000


spans = st.lists(st.tuples(st.integers(1, 400), st.integers(1, 900)), max_size=20)


@settings(max_examples=300, deadline=None)
@given(lengths=spans, longest=st.integers(2, 300))
def test_windows_hold_all_speech_once_and_are_never_too_long(lengths: list[tuple[int, int]], longest: int) -> None:
    speech, place = [], 0
    for gap, length in lengths:
        speech.append(Span(place + gap, place + gap + length))
        place += gap + length
    waveform = np.random.default_rng(0).standard_normal(place + 1).astype(np.float32)
    windows = cut_windows(waveform, speech, longest)
    assert all(0 < len(window) <= longest for window in windows)
    assert all(one.end <= other.start for one, other in pairwise(windows))
    covered = np.zeros(place + 1, np.int64)
    for window in windows:
        covered[window.start : window.end] += 1
    assert all((covered[span.start : span.end] == 1).all() for span in speech)


@settings(max_examples=100, deadline=None)
@given(probabilities=st.lists(st.floats(0, 1), max_size=200))
def test_spans_are_in_order_apart_and_inside(probabilities: list[float]) -> None:
    num_samples = max(len(probabilities) * FRAME_SAMPLES - 100, 0)
    found = find_speech(np.array(probabilities, np.float32), num_samples)
    edges = [edge for span in found for edge in (span.start, span.end)]
    assert edges == sorted(set(edges)) and all(0 <= edge <= num_samples for edge in edges)
