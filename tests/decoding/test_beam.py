"""Beam search against greedy and exhaustive search."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.decoding.beam import BeamLane
from app.decoding.interface import Hypothesis, SearchOptions, Source
from app.decoding.running import Job, generate
from tests.decoding.recurrent import RecurrentModel

SOURCE = np.array([2, 3, 1])
PENALTIES = st.sampled_from([0.0, 0.6, 1.0, 1.7])


@given(st.integers(0, 10_000), st.integers(1, 20), st.integers(0, 5), PENALTIES)
@settings(max_examples=100, deadline=None)
def test_a_beam_of_one_equals_greedy(seed: int, max_length: int, min_length: int, length_penalty: float) -> None:
    model = RecurrentModel(seed)
    sources = [np.array([2, 1]), np.array([3, 5, 1]), np.array([4, 6, 8, 1])]
    options = SearchOptions(max_length, length_penalty=length_penalty, min_length=min(min_length, max_length))
    lane = BeamLane(model, width=1)
    lane.join([Job(index, source, options) for index, source in enumerate(sources)], model.encode(sources, 1))
    results: dict[object, list[Hypothesis]] = {}
    while len(lane):
        results.update((finished.key, finished.hypotheses) for finished in lane.step())
    for index, (greedy,) in enumerate(generate(model, sources, options)):
        (beam,) = results[index]
        assert (beam.ids, beam.finish_reason) == (greedy.ids, greedy.finish_reason)
        assert (beam.log_prob, beam.score) == pytest.approx((greedy.log_prob, greedy.score))


def search_exhaustively(model: RecurrentModel, source: Source, options: SearchOptions) -> list[tuple[float, list[int]]]:
    """Every target that ends, best score first."""
    words = [token for token in range(model.vocabulary_size) if token != model.eos_id]
    scored = []
    for length in range(options.min_length, options.max_length + 1):
        for ids in itertools.product(words, repeat=length):
            state, last, total = model.encode([source], 1), model.bos_id, 0.0
            for token in [*ids, model.eos_id]:
                candidates, state = model.step(np.array([last]), state, model.vocabulary_size)
                total += float(candidates.log_probs[0, candidates.ids[0].tolist().index(token)])
                last = token
            scored.append((total / (length + 1) ** options.length_penalty, list(ids)))
    return sorted(scored, reverse=True)


@given(st.integers(0, 10_000), st.integers(0, 2), PENALTIES, st.floats(-2, 2))
@settings(max_examples=25, deadline=None)
def test_a_wide_beam_equals_exhaustive_search(
    seed: int, min_length: int, length_penalty: float, end_bias: float
) -> None:
    model = RecurrentModel(seed, vocabulary_size=4, end_bias=end_bias)
    # 27 unfinished targets of three tokens have 4 continuations each.
    options = SearchOptions(
        max_length=3, beam_size=4 * 27, num_hypotheses=6, length_penalty=length_penalty, min_length=min_length
    )
    (found,) = generate(model, [SOURCE], options)
    expected = search_exhaustively(model, SOURCE, options)[:6]
    assert [list(hypothesis.ids) for hypothesis in found] == [ids for _, ids in expected]
    assert [hypothesis.score for hypothesis in found] == pytest.approx([score for score, _ in expected], abs=1e-4)


def search_plainly(model: RecurrentModel, source: Source, options: SearchOptions) -> list[tuple[float, list[int]]]:
    """Beam search as it is explained, over lists: until as many have closed as the beam is wide."""
    running = [(0.0, list[int](), model.encode([source], 1))]
    closed = []
    for length in range(options.max_length + 1):
        ranked = []
        for total, ids, state in running:
            last = ids[-1] if ids else model.bos_id
            candidates, after = model.step(np.array([last]), state, model.vocabulary_size)
            for token, log_prob in zip(candidates.ids[0].tolist(), candidates.log_probs[0].tolist(), strict=True):
                if token != model.eos_id or length >= options.min_length:
                    ranked.append((total + log_prob, [*ids, token], after))
        ranked.sort(key=lambda one: -one[0])
        for total, ids, _ in ranked[: options.beam_size]:
            if ids[-1] == model.eos_id:
                closed.append((total / len(ids) ** options.length_penalty, ids[:-1]))
        if len(closed) >= options.beam_size:
            break
        running = [one for one in ranked if one[1][-1] != model.eos_id][: options.beam_size]
    return sorted(closed, reverse=True)[: options.num_hypotheses]


@given(st.integers(0, 10_000), st.integers(2, 5), st.integers(1, 12), st.integers(0, 3), PENALTIES, st.floats(-1, 3))
@settings(max_examples=100, deadline=None)
def test_a_beam_equals_the_plain_search_that_never_stops_sooner(
    seed: int, beam_size: int, max_length: int, min_length: int, length_penalty: float, end_bias: float
) -> None:
    model, num_hypotheses = RecurrentModel(seed, end_bias=end_bias), 1 + seed % beam_size
    options = SearchOptions(max_length, beam_size, num_hypotheses, length_penalty, min(min_length, max_length))
    (found,) = generate(model, [SOURCE], options)
    expected = search_plainly(model, SOURCE, options)
    stopped = [hypothesis for hypothesis in found if hypothesis.finish_reason == "stop"]
    assert [list(hypothesis.ids) for hypothesis in stopped] == [ids for _, ids in expected]
    assert [hypothesis.score for hypothesis in stopped] == pytest.approx([score for score, _ in expected], abs=1e-4)
    assert found[: len(stopped)] == stopped, "an unfinished target must not come before a finished one"


def test_a_beam_stops_when_nothing_better_can_come() -> None:
    model = RecurrentModel(max_target_length=1000, end_bias=4.0)
    generate(model, [SOURCE], SearchOptions(max_length=40, beam_size=3))
    assert model.num_steps < 40


def test_a_wider_beam_finds_what_greedy_misses() -> None:
    gains = []
    for seed in range(30):
        model = RecurrentModel(seed, end_bias=1.0)
        ((greedy,),) = generate(model, [SOURCE], SearchOptions(20, length_penalty=0.0))
        ((beam,),) = generate(model, [SOURCE], SearchOptions(20, beam_size=8, length_penalty=0.0))
        gains.append(beam.log_prob - greedy.log_prob)
    assert np.mean(gains) > 0.1
