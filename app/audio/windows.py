"""Speech in windows that a model can read: cut where nobody speaks, so that no word is lost or said twice."""

import numpy as np
import numpy.typing as npt

from app.audio.features import SAMPLE_RATE_HZ
from app.audio.voice import Span, find_speech, speech_probabilities

Floats = npt.NDArray[np.float32]

# Before and behind speech, where there is room: first and last sounds are soft.
_PADDING = round(0.2 * SAMPLE_RATE_HZ)
# Nothing is gained by reading longer silences, and models invent text in them.
_LONGEST_SILENCE = 5 * SAMPLE_RATE_HZ
# A window is cut in the longest of the silences behind this share of what it may hold.
_WELL_FILLED = 0.6
# Loudness where there is no silence, over so many samples and hops of so many.
_LOUDNESS_SIZE, _LOUDNESS_HOP = 1600, 160


def find_windows(waveform: Floats, longest: int) -> list[Span]:
    """All speech of `waveform` [S] in windows of at most `longest` samples, in order and apart; none for silence."""
    speech = find_speech(speech_probabilities(waveform), len(waveform))
    return cut_windows(waveform, _padded(speech, len(waveform)), longest)


def cut_windows(waveform: Floats, speech: list[Span], longest: int) -> list[Span]:
    """`speech`, whose spans are in order and apart, in windows of at most `longest` samples."""
    windows: list[Span] = []
    rest = list(speech)
    while rest:
        num_joined = _num_joined(rest, longest)
        if num_joined == 0:
            first = rest[0]
            cut = first.start + _quietest(waveform[first.start : first.start + longest])
            windows.append(Span(first.start, cut))
            rest[0] = Span(cut, first.end)
        else:
            windows.append(Span(rest[0].start, rest[num_joined - 1].end))
            del rest[:num_joined]
    return windows


def _num_joined(spans: list[Span], longest: int) -> int:
    """How many of the first spans make a window; 0 where not even one fits."""
    start = spans[0].start
    fitting = 0
    for place, span in enumerate(spans):
        if span.end - start > longest or (place and span.start - spans[place - 1].end > _LONGEST_SILENCE):
            break
        fitting = place + 1
    if fitting in (0, len(spans)):
        return fitting
    filled = [count for count in range(1, fitting + 1) if spans[count - 1].end - start >= _WELL_FILLED * longest]
    # Of silences of the same length the last: the window is fuller.
    return max(filled, key=lambda count: (spans[count].start - spans[count - 1].end, count), default=fitting)


def _padded(spans: list[Span], num_samples: int) -> list[Span]:
    """A little more around every span, of a shorter silence to each side half."""
    padded = []
    for place, span in enumerate(spans):
        before = spans[place - 1].end if place else -span.start
        behind = spans[place + 1].start if place + 1 < len(spans) else 2 * num_samples - span.end
        start = max(span.start - _PADDING, (before + span.start + 1) // 2)
        padded.append(Span(start, min(span.end + _PADDING, (span.end + behind) // 2)))
    return padded


def _quietest(samples: Floats) -> int:
    """The middle of the quietest moment in the second half of `samples`."""
    half = len(samples) // 2
    power = np.concatenate([[0.0], np.cumsum(np.square(samples[half:], dtype=np.float64))])
    starts = np.arange(0, max(len(samples) - half - _LOUDNESS_SIZE, 1), _LOUDNESS_HOP)
    loudness = power[np.minimum(starts + _LOUDNESS_SIZE, len(power) - 1)] - power[starts]
    return max(half + int(starts[np.argmin(loudness)]) + min(_LOUDNESS_SIZE, len(samples) - half) // 2, 1)
