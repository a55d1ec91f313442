"""When each word was said: the cross-attention of alignment heads, warped to the way of the tokens through the sound.

Source: openai/whisper `timing.py` (heads' attention normalised over tokens, smoothed in time, dynamic time warping).
The attention here is that of the decoding itself; nothing is run a second time.
"""

import itertools
import math
import string
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from app.decoding.interface import Floats, Hypothesis
from app.tasks.transcript import Word
from app.text.tokenizer import TextTokenizer

Positions = npt.NDArray[np.int64]

# A position of the memory stands for two frames of 10 ms.
FRAMES_PER_POSITION = 2
POSITION_S = 0.02
_WITHOUT_SPACES = frozenset({"zh", "ja", "th", "lo", "my", "yue"})
_OPENING, _CLOSING = "\"'“¿([{-", "\"'.。,，!！?？:：”)]}、"
_SENTENCE_ENDS = ".。!！?？"
_HALF_FILTER = 3
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_LONGEST_MEDIAN_S = 0.7


@dataclass(slots=True)
class _Piece:
    """Some tokens of the text, those from `first` on to before `end`, and their words."""

    text: str
    first: int
    end: int


def find_words(
    hypothesis: Hypothesis, prefix_length: int, tokenizer: TextTokenizer, language: str, num_frames: int
) -> list[Word]:
    """The words of a window with times relative to it, in the order of the text.

    `hypothesis` comes of a search that needed attention; its first `prefix_length` ids, and those of control pieces
    and time stamps, are no text. `num_frames` of the window are real.
    """
    assert hypothesis.attention is not None, "the search was not asked for attention"
    places = [place for place in range(prefix_length, len(hypothesis.ids)) if tokenizer.decode([hypothesis.ids[place]])]
    num_positions = min(num_frames // FRAMES_PER_POSITION, hypothesis.attention.shape[2])
    if not places or num_positions < 1:
        return []
    follow = followed_attention(hypothesis.attention[:, :, :num_positions])
    has_end = len(follow) > len(hypothesis.ids)
    starts = first_positions(follow[places + [len(hypothesis.ids)] * has_end])
    times = np.append(starts, [] if has_end else [num_positions]) * POSITION_S
    pieces = _split([hypothesis.ids[place] for place in places], tokenizer, language)
    probabilities = np.exp([hypothesis.token_log_probs[place] for place in places])
    words = [
        Word(piece.text, float(times[piece.first]), float(times[piece.end]), float(np.mean(of)))
        for piece in pieces
        for of in [probabilities[piece.first : piece.end]]
    ]
    return _with_punctuation(_without_pauses(words))


def followed_attention(attention: Floats) -> Floats:
    """How much each token follows each position: attention [T, A, S] -> [T, S], larger is more."""
    total = attention.sum(axis=2, keepdims=True)
    weights = attention / np.maximum(total, np.finfo(np.float32).tiny)
    mean, deviation = weights.mean(axis=0), weights.std(axis=0)
    weights = (weights - mean) / np.maximum(deviation, 1e-10)
    # A token at a time: what passes between the operations then stays in the processor's cache.
    follow: Floats = np.stack([_median_of_seven(rows).mean(axis=0) for rows in weights])
    return follow


def _median_of_seven(values: Floats) -> Floats:
    """The median of each value [A, S] and its three neighbours on both sides; ends are mirrored."""
    if values.shape[1] <= _HALF_FILTER:
        return values
    padded = np.pad(values, ((0, 0), (_HALF_FILTER, _HALF_FILTER)), mode="reflect")
    # Every three neighbours in order; of seven, the first and the last three have been sorted so.
    low, high = np.minimum(padded[:, :-1], padded[:, 1:]), np.maximum(padded[:, :-1], padded[:, 1:])
    third = padded[:, 2:]
    middle = np.maximum(low[:, :-1], np.minimum(high[:, :-1], third))
    low, high = np.minimum(low[:, :-1], third), np.maximum(high[:, :-1], third)
    first, last = slice(0, -4), slice(4, None)
    # The smallest and the largest of the six can not be the median of seven; of the other four it is one of the two in
    # the middle, or the value itself if that is between them.
    a, b = np.minimum(middle[:, first], middle[:, last]), np.maximum(middle[:, first], middle[:, last])
    c, d = np.maximum(low[:, first], low[:, last]), np.minimum(high[:, first], high[:, last])
    lower, upper = np.maximum(a, np.minimum(c, d)), np.minimum(b, np.maximum(c, d))
    smaller, larger = np.minimum(lower, upper), np.maximum(lower, upper)
    median: Floats = np.maximum(smaller, np.minimum(larger, values))
    return median


def first_positions(follow: Floats) -> Positions:
    """The position where the best monotonic path through follow [T, S] comes to each token.

    The path begins at the first token and position, ends at the last of both, and goes on by one token, one position
    or both; it is the one with the largest sum (dynamic time warping).
    """
    num_tokens, num_positions = follow.shape
    costs = np.full((num_tokens + 1, num_positions + 1), np.inf)
    costs[0, 0] = 0.0
    for row, values in enumerate(-follow.astype(np.float64), start=1):
        # Staying with a token makes cost[j] = value[j] + min(entered[j], cost[j - 1]): a running minimum, once the sums
        # of the values before are taken off.
        entered = np.minimum(costs[row - 1, :-1], costs[row - 1, 1:])
        sums = np.cumsum(values)
        costs[row, 1:] = sums + np.minimum.accumulate(entered - (sums - values))
    starts = np.zeros(num_tokens, np.int64)
    position = num_positions
    for row in range(num_tokens, 0, -1):
        both, one = costs[row - 1, :position], costs[row - 1, 1 : position + 1]
        is_entered = np.minimum(both, one) <= costs[row, :position]
        at = int(np.flatnonzero(is_entered)[-1]) + 1  # 1 is the first position
        starts[row - 1] = at - 1
        position = at - 1 if both[at - 1] <= one[at - 1] and at > 1 else at
    return starts


def _split(ids: Sequence[int], tokenizer: TextTokenizer, language: str) -> list[_Piece]:
    """Cut at spaces and before punctuation; languages without spaces, at every whole character."""
    words: list[_Piece] = []
    for piece in _whole_characters(ids, tokenizer):
        begins = piece.text.startswith(" ") or piece.text.strip() in string.punctuation
        if begins or not words or language in _WITHOUT_SPACES:
            words.append(piece)
        else:
            words[-1].text += piece.text
            words[-1].end = piece.end
    return words


def _whole_characters(ids: Sequence[int], tokenizer: TextTokenizer) -> list[_Piece]:
    """The fewest tokens each that make whole characters: a token may end inside one."""
    whole = tokenizer.decode(ids)
    pieces: list[_Piece] = []
    first, length = 0, 0
    for end in range(1, len(ids) + 1):
        text = tokenizer.decode(ids[first:end])
        broken = text.find(_REPLACEMENT)
        # The text itself may hold the character that stands for a broken one.
        if broken < 0 or whole[length + broken : length + broken + 1] == _REPLACEMENT or end == len(ids):
            pieces.append(_Piece(text, first, end))
            first, length = end, length + len(text)
    return pieces


def _without_pauses(words: Sequence[Word]) -> list[Word]:
    """Words that meet a sentence's end are at most twice as long as most are: the rest is the pause between."""
    durations = [word.end_s - word.start_s for word in words if word.end_s > word.start_s]
    longest = 2 * min(_LONGEST_MEDIAN_S, float(np.median(durations))) if durations else math.inf
    kept = list(words[:1])
    for before, word in itertools.pairwise(words):
        start_s, end_s = word.start_s, word.end_s
        if end_s - start_s > longest:
            if word.text in _SENTENCE_ENDS:
                end_s = start_s + longest
            elif before.text in _SENTENCE_ENDS:
                start_s = end_s - longest
        kept.append(Word(word.text, start_s, end_s, word.probability))
    return kept


def _with_punctuation(words: Sequence[Word]) -> list[Word]:
    """Punctuation joined to the word that it stands at; the word's times and probability stay."""
    joined: list[Word] = []
    opening = ""
    for word in words:
        mark = word.text.strip()
        if word.text.startswith(" ") and mark and mark in _OPENING:
            opening += word.text
        elif joined and not opening and mark and word.text in _CLOSING:
            last = joined[-1]
            joined[-1] = Word(last.text + word.text, last.start_s, last.end_s, last.probability)
        else:
            joined.append(Word(opening + word.text, word.start_s, word.end_s, word.probability))
            opening = ""
    if opening and joined:
        last = joined[-1]
        joined[-1] = Word(last.text + opening, last.start_s, last.end_s, last.probability)
    return joined
