"""No n-gram occurs twice: against a plain definition, in every search, whoever runs beside."""

import itertools

import numpy as np
import pytest

from app.decoding.interface import Sampling, SearchOptions
from app.decoding.repetition import repeating_tokens
from app.decoding.running import generate
from tests.decoding.recurrent import RecurrentModel


def ngrams(ids: tuple[int, ...], size: int) -> list[tuple[int, ...]]:
    return [ids[start : start + size] for start in range(len(ids) - size + 1)]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_finds_what_the_definition_says(size: int) -> None:
    random = np.random.default_rng(size)
    rows, lengths = random.integers(0, 3, (40, 9)), random.integers(0, 10, 40)
    found = repeating_tokens(rows, lengths, np.full(40, size))
    for row, length, tokens in zip(rows.tolist(), lengths.tolist(), found.tolist(), strict=True):
        taken = tuple(row[:length])
        expected = {t for t in range(3) if len(set(ngrams((*taken, t), size))) < len(ngrams((*taken, t), size))}
        already = len(set(ngrams(taken, size))) < len(ngrams(taken, size))
        assert already or set(tokens) - {-1} == expected


OPTIONS = [
    SearchOptions(max_length=24, no_repeat_ngram=2),
    SearchOptions(max_length=24, no_repeat_ngram=2, beam_size=4, num_hypotheses=3),
    SearchOptions(max_length=24, no_repeat_ngram=3, beam_size=2),
    SearchOptions(max_length=24, no_repeat_ngram=2, sampling=Sampling(temperature=2.0, top_k=5, seed=3)),
    SearchOptions(max_length=24, beam_size=4),
    SearchOptions(max_length=24),
]


def test_no_ngram_occurs_twice_and_neighbours_do_not_matter() -> None:
    model = RecurrentModel(seed=5, vocabulary_size=12)
    sources = [np.array([4 + index % 7, 5, 6 + index % 3, 3]) for index in range(18)]
    options = list(itertools.islice(itertools.cycle(OPTIONS), len(sources)))
    together = generate(model, sources, options)
    longest = 0
    for source, asked, found in zip(sources, options, together, strict=True):
        assert found == generate(model, [source], asked)[0]
        for hypothesis in found if asked.no_repeat_ngram else []:
            own = ngrams(hypothesis.ids, asked.no_repeat_ngram)
            assert len(own) == len(set(own))
            longest = max(longest, len(hypothesis.ids))
    assert longest > 6  # the rule had something to forbid
