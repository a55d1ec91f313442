"""Times of words: the warped path against the plain definition, words against a tokenizer that cuts characters."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from app.decoding.interface import Hypothesis
from app.tasks.words import find_words, first_positions, followed_attention
from app.text.bpe import BpeTokenizer

pytest.importorskip("safetensors", reason="needs the train extra")

from tests.pretrained.checkpoint import write_tokenizer


def plain_path(follow: np.ndarray) -> list[int]:
    """openai/whisper's `dtw`, cell by cell: where each token begins."""
    num_tokens, num_positions = follow.shape
    costs = np.full((num_tokens + 1, num_positions + 1), np.inf)
    costs[0, 0] = 0
    for i in range(1, num_tokens + 1):
        for j in range(1, num_positions + 1):
            before = min(costs[i - 1, j - 1], costs[i - 1, j], costs[i, j - 1])
            costs[i, j] = -follow[i - 1, j - 1] + before
    i, j, starts = num_tokens, num_positions, {}
    while i > 0:
        starts[i - 1] = j - 1
        ways = {(i - 1, j - 1): costs[i - 1, j - 1], (i - 1, j): costs[i - 1, j], (i, j - 1): costs[i, j - 1]}
        i, j = min(ways, key=lambda way: ways[way])
    return [starts[token] for token in range(num_tokens)]


@pytest.mark.parametrize("seed", range(30))
def test_the_path_is_that_of_the_definition(seed: int) -> None:
    random = np.random.default_rng(seed)
    follow = random.normal(size=(random.integers(1, 9), random.integers(9, 40))).astype(np.float32)
    assert first_positions(follow).tolist() == plain_path(follow.astype(np.float64))


def test_more_tokens_than_positions_still_have_a_path() -> None:
    follow = np.random.default_rng(1).normal(size=(9, 4)).astype(np.float32)
    assert first_positions(follow).tolist() == plain_path(follow.astype(np.float64))


def test_attention_is_normalised_over_tokens_and_smoothed_in_time() -> None:
    random = np.random.default_rng(2)
    attention = random.dirichlet(np.ones(31), size=(7, 3)).astype(np.float32)  # [T, A, S]
    normal = (attention - attention.mean(axis=0)) / attention.std(axis=0)
    padded = np.pad(normal, ((0, 0), (0, 0), (3, 3)), mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, 7, axis=2)
    np.testing.assert_allclose(followed_attention(attention), np.median(windows, axis=3).mean(axis=1), atol=1e-4)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> BpeTokenizer:
    path = Path(tmp_path_factory.mktemp("tokenizer")) / "tokenizer.json"
    write_tokenizer(path)
    return BpeTokenizer(path)


def spoken(ids: list[int], first: int, step: int, size: int, *, has_end: bool = True) -> Hypothesis:
    """A hypothesis whose id at place t was chosen with attention around position first + step x t."""
    rows = len(ids) + has_end
    centres = first + step * np.arange(rows)[:, None, None]
    attention = np.exp(-0.5 * ((np.arange(size) - centres) / (step / 3)) ** 2).repeat(2, axis=1) + 1e-6
    attention = (attention / attention.sum(axis=2, keepdims=True)).astype(np.float32)
    log_probs = tuple(np.log(0.9) - 0.01 * place for place in range(len(ids)))
    return Hypothesis(tuple(ids), -1.0, -1.0, "stop" if has_end else "length", log_probs, attention)


@pytest.mark.parametrize("has_end", [True, False])
def test_words_stand_where_their_tokens_attend(tokenizer: BpeTokenizer, has_end: bool) -> None:
    text = " the quick, “brown” fox"
    control = tokenizer.id_of("<|transcribe|>")
    ids = [control, *tokenizer.encode(text).tolist(), control]
    hypothesis = spoken(ids, first=4, step=6, size=6 * len(ids) + 20, has_end=has_end)
    words = find_words(hypothesis, 1, tokenizer, "en", 2 * (6 * len(ids) + 20))
    assert "".join(word.text for word in words) == text
    assert [word.text for word in words] == [" the", " quick,", " “brown”", " fox"]
    lengths = [len(tokenizer.encode(part)) for part in (" the", " quick")]
    assert words[1].start_s == pytest.approx(0.02 * (4 + 6 * (1 + lengths[0])), abs=0.08)
    assert words[1].end_s == pytest.approx(0.02 * (4 + 6 * (1 + sum(lengths))), abs=0.08)
    assert all(one.start_s <= one.end_s <= other.start_s for one, other in itertools.pairwise(words))
    expected = np.exp(hypothesis.token_log_probs[1 : 1 + lengths[0]]).mean()
    assert words[0].probability == pytest.approx(expected)


def test_characters_that_span_tokens_stay_whole(tokenizer: BpeTokenizer) -> None:
    ids = tokenizer.encode("日本語").tolist()
    assert len(ids) == 9  # bytes
    words = find_words(spoken(ids, 4, 6, 90), 0, tokenizer, "ja", 180)
    assert [word.text for word in words] == ["日", "本", "語"]


def test_nothing_said_has_no_words(tokenizer: BpeTokenizer) -> None:
    control = tokenizer.id_of("<|transcribe|>")
    assert find_words(spoken([control], 4, 6, 40), 1, tokenizer, "en", 80) == []
    assert find_words(spoken(tokenizer.encode("fox").tolist(), 4, 6, 40), 0, tokenizer, "en", 0) == []
