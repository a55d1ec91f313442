"""Sampling against the distribution that it should follow."""

import numpy as np
import pytest

from app.decoding.interface import Hypothesis, Sampling, SearchOptions
from app.decoding.running import generate
from app.decoding.sampling import streams_of, uniform
from tests.decoding.recurrent import RecurrentModel

SOURCE = np.array([2, 3, 1])
MODEL = RecurrentModel(seed=5, end_bias=-30.0)


def first_tokens(sampling: Sampling, count: int = 4000) -> np.ndarray:
    """How often each id came first, over `count` rows."""
    width = 8
    options = [
        SearchOptions(
            1,
            num_hypotheses=width,
            sampling=Sampling(sampling.temperature, sampling.top_k, sampling.top_p, seed=sampling.seed + index),
        )
        for index in range(count // width)
    ]
    results = generate(MODEL, [SOURCE] * len(options), options)
    ids = [hypothesis.ids[0] for hypotheses in results for hypothesis in hypotheses]
    return np.bincount(ids, minlength=MODEL.vocabulary_size) / len(ids)


def first_probabilities() -> np.ndarray:
    candidates, _ = MODEL.step(np.array([MODEL.bos_id]), MODEL.encode([SOURCE], 1), MODEL.vocabulary_size)
    probabilities = np.zeros(MODEL.vocabulary_size)
    probabilities[candidates.ids[0]] = np.exp(candidates.log_probs[0])
    return probabilities


# 4,000 draws: a share has a standard deviation of at most 0.008.
TOLERANCE = 0.035


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_come_as_often_as_the_tempered_model_says(temperature: float) -> None:
    expected = first_probabilities() ** (1 / temperature)
    found = first_tokens(Sampling(temperature, top_k=MODEL.vocabulary_size))
    assert np.abs(found - expected / expected.sum()).max() < TOLERANCE


def test_top_k_leaves_the_best_k() -> None:
    probabilities = first_probabilities()
    best = np.argsort(-probabilities)[:3]
    expected = np.zeros_like(probabilities)
    expected[best] = probabilities[best] / probabilities[best].sum()
    assert np.abs(first_tokens(Sampling(top_k=3)) - expected).max() < TOLERANCE


def test_top_p_leaves_the_smallest_set_that_reaches_it() -> None:
    probabilities = first_probabilities()
    order = np.argsort(-probabilities)
    reached = probabilities[order].cumsum()
    top_p = float(reached[2]) - 1e-3
    expected = np.zeros_like(probabilities)
    expected[order[:3]] = probabilities[order[:3]] / reached[2]
    found = first_tokens(Sampling(top_k=MODEL.vocabulary_size, top_p=top_p))
    assert np.abs(found - expected).max() < TOLERANCE and not found[order[3:]].any()


def test_top_k_of_one_equals_greedy() -> None:
    model = RecurrentModel(seed=8)
    ((sampled,),) = generate(model, [SOURCE], SearchOptions(20, sampling=Sampling(top_k=1)))
    ((greedy,),) = generate(model, [SOURCE], SearchOptions(20))
    assert sampled == greedy


def sample(seed: int, num_hypotheses: int = 1) -> list[Hypothesis]:
    options = SearchOptions(20, num_hypotheses=num_hypotheses, sampling=Sampling(temperature=2.0, seed=seed))
    return generate(RecurrentModel(seed=8), [SOURCE], options)[0]


def test_a_seed_gives_the_same_sample_and_another_seed_another() -> None:
    assert sample(1) == sample(1)
    assert len({sample(seed)[0].ids for seed in range(20)}) > 10


def test_samples_of_one_source_differ_and_come_best_first() -> None:
    samples = sample(1, num_hypotheses=6)
    assert len(samples) == 6 and len({hypothesis.ids for hypothesis in samples}) > 3
    assert [hypothesis.score for hypothesis in samples] == sorted((h.score for h in samples), reverse=True)


def test_streams_are_even_and_do_not_resemble_each_other() -> None:
    streams = np.concatenate([streams_of(seed, 10) for seed in range(100)])
    numbers = uniform(streams[:, None], np.arange(100)[None, :])
    assert numbers.min() >= 0 and numbers.max() < 1
    assert np.abs(np.histogram(numbers, bins=10, range=(0, 1))[0] / numbers.size - 0.1).max() < 0.005
    correlations = np.corrcoef(numbers[:50])
    assert np.abs(correlations - np.eye(50)).max() < 0.45
