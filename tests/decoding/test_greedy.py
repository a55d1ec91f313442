"""Greedy search against the slow, obvious loop."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.decoding.interface import SearchOptions, Source
from app.decoding.running import generate
from tests.decoding.recurrent import RecurrentModel


def follow_the_best(model: RecurrentModel, source: Source, max_length: int, min_length: int) -> tuple[list[int], float]:
    state, ids, total = model.encode([source], 1), list[int](), 0.0
    while True:
        candidates, state = model.step(np.array([ids[-1] if ids else model.bos_id]), state, model.vocabulary_size)
        pairs = zip(candidates.ids[0].tolist(), candidates.log_probs[0].tolist(), strict=True)
        token, log_prob = next(pair for pair in pairs if pair[0] != model.eos_id or len(ids) >= min_length)
        if token == model.eos_id:
            return ids, total + log_prob
        if len(ids) == max_length:
            return ids, total
        ids.append(token)
        total += log_prob


@given(st.integers(0, 10_000), st.integers(1, 20), st.integers(0, 20), st.integers(-2, 3))
@settings(max_examples=100, deadline=None)
def test_greedy_follows_the_best_candidate(seed: int, max_length: int, min_length: int, end_bias: int) -> None:
    model, min_length = RecurrentModel(seed, end_bias=end_bias), min(min_length, max_length)
    sources = [np.array([seed % 11, 3, 1]), np.array([7, 1])]
    options = SearchOptions(max_length=max_length, min_length=min_length)
    for source, (best,) in zip(sources, generate(model, sources, options), strict=True):
        ids, log_prob = follow_the_best(model, source, max_length, min_length)
        assert list(best.ids) == ids
        assert best.log_prob == pytest.approx(log_prob, abs=1e-4)
