"""How a row begins: what is fed before, first choices among probes, what may not come first; and what is told of it."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from app.decoding.interface import Hypothesis, Probes, Sampling, SearchOptions
from app.decoding.running import Job, RunningBatch, generate
from app.errors import InputError
from tests.decoding.recurrent import RecurrentModel

PROBES = Probes((2, 3, 9), (0.0, 0.0, -200.0))
MODEL = RecurrentModel(seed=3, probes=PROBES)
SOURCES = [np.array([4 + index % 6, 5, 6 + index % 4, 1]) for index in range(24)]
SEARCHES = {
    "greedy": SearchOptions(12),
    "beam": SearchOptions(12, beam_size=3, num_hypotheses=2),
    "sampling": SearchOptions(12, num_hypotheses=2, sampling=Sampling(temperature=1.3, top_k=6, seed=5)),
}
search = pytest.mark.parametrize("options", SEARCHES.values(), ids=SEARCHES.keys())


def log_probs_along(source: np.ndarray, fed: list[int]) -> np.ndarray:
    """The log-probabilities [T, V] behind each token of `fed`."""
    state, rows = MODEL.encode([source], 1), []
    for token in fed:
        candidates, state = MODEL.step(np.array([token]), state, MODEL.vocabulary_size)
        row = np.empty(MODEL.vocabulary_size)
        row[candidates.ids[0]] = candidates.log_probs[0]
        rows.append(row)
    return np.stack(rows)


@search
def test_what_is_suppressed_never_comes_first_behind_the_prefix_and_may_later(options: SearchOptions) -> None:
    free = generate(MODEL, SOURCES, replace(options, prefix=(5,)))
    first = {hypothesis.ids[1] for found in free for hypothesis in found if len(hypothesis.ids) > 1}
    suppressed = (MODEL.eos_id, *sorted(first)[:2])
    kept = generate(MODEL, SOURCES, replace(options, prefix=(5,), suppressed_first=suppressed))
    for hypothesis in itertools.chain(*kept):
        assert hypothesis.ids[0] == 5 and hypothesis.ids[1] not in suppressed
    assert set(suppressed) & {token for hypothesis in itertools.chain(*kept) for token in hypothesis.ids[2:]}


@search
def test_the_first_choice_is_the_likeliest_and_the_prefix_follows(options: SearchOptions) -> None:
    choices = (2, 3)
    found = generate(MODEL, SOURCES, replace(options, first_choices=choices, prefix=(8, 5)))
    chosen = set()
    for source, hypotheses in zip(SOURCES, found, strict=True):
        (row,) = log_probs_along(source, [MODEL.bos_id])
        best = max(choices, key=lambda token: row[token])
        assert all(hypothesis.ids[:3] == (best, 8, 5) for hypothesis in hypotheses)
        chosen.add(best)
        # As if the language had been asked for.
        (asked,) = generate(MODEL, [source], replace(options, prefix=(best, 8, 5)))
        assert [hypothesis.ids for hypothesis in asked] == [hypothesis.ids for hypothesis in hypotheses]
    assert chosen == set(choices)


@search
def test_what_stands_before_is_fed_first_and_no_part_of_the_target(options: SearchOptions) -> None:
    before = (6, 3, 8)
    found = generate(MODEL, SOURCES, replace(options, before=before, prefix=(5,), length_penalty=0.7))
    for source, hypotheses in zip(SOURCES, found, strict=True):
        for hypothesis in hypotheses:
            fed = [*before, MODEL.bos_id, *hypothesis.ids]
            rows = log_probs_along(source, fed)
            chosen = [*hypothesis.ids[1:], *([MODEL.eos_id] if hypothesis.finish_reason == "stop" else [])]
            total = sum(rows[len(before) + 1 + place][token] for place, token in enumerate(chosen))
            assert hypothesis.ids[0] == 5 and len(hypothesis.ids) <= 12
            assert hypothesis.log_prob == pytest.approx(total, abs=1e-4)
            length = len(hypothesis.ids) + (hypothesis.finish_reason == "stop")
            assert hypothesis.score == pytest.approx(total / length**0.7, abs=1e-4)
            np.testing.assert_allclose(
                hypothesis.first_log_probs, PROBES.unsuppressed(rows[len(before)][list(PROBES.ids)]), atol=1e-5
            )


@search
def test_each_token_tells_its_log_probability_and_the_attention_it_was_chosen_with(options: SearchOptions) -> None:
    found = generate(MODEL, SOURCES, replace(options, before=(6,), prefix=(5,), needs_attention=True))
    endings = set()
    for source, hypotheses in zip(SOURCES, found, strict=True):
        for hypothesis in hypotheses:
            fed = [6, MODEL.bos_id, *hypothesis.ids]
            rows = log_probs_along(source, fed)[1:]
            told = [row[token] for row, token in zip(rows, hypothesis.ids, strict=False)]
            np.testing.assert_allclose(hypothesis.token_log_probs, [0.0, *told[1:]], atol=1e-5)
            has_end = hypothesis.finish_reason == "stop"
            assert hypothesis.attention is not None
            np.testing.assert_allclose(
                hypothesis.attention, attention_along(source, fed)[1 : 1 + len(hypothesis.ids) + has_end], atol=1e-5
            )
            endings.add(has_end)
    assert endings == {True, False}


def attention_along(source: np.ndarray, fed: list[int]) -> np.ndarray:
    state, rows = MODEL.encode([source], 1), []
    for token in fed:
        candidates, state = MODEL.step(np.array([token]), state, 1, needs_attention=True)
        assert candidates.attention is not None
        rows.append(candidates.attention[0])
    return np.stack(rows)


def test_neighbours_and_the_time_of_joining_change_none_of_it() -> None:
    asked = [
        replace(options, **changes)  # type: ignore[arg-type]  # of several types
        for options in SEARCHES.values()
        for changes in (
            {"first_choices": (2, 9), "prefix": (8,), "needs_attention": True},
            {"suppressed_first": (MODEL.eos_id, 5), "before": (6, 3)},
            {"needs_attention": True, "prefix": (5,)},
            {},
        )
    ]
    jobs = [Job(index, SOURCES[index], options) for index, options in enumerate(asked)]
    batch, waiting, results = RunningBatch(MODEL), list(jobs), dict[object, list[Hypothesis]]()
    while waiting or batch.num_jobs:
        if waiting:
            batch.admit([waiting.pop()])
        results.update((finished.key, finished.hypotheses) for finished in batch.step())
    for job in jobs:
        (alone,) = generate(MODEL, [job.source], job.options)
        assert results[job.key] == alone
        for one, other in zip(results[job.key], alone, strict=True):
            np.testing.assert_array_equal(one.first_log_probs, other.first_log_probs)
            assert (one.attention is None) == (other.attention is None) == (not job.options.needs_attention)
            if one.attention is not None:
                np.testing.assert_array_equal(one.attention, other.attention)


def test_attention_is_asked_for_only_where_a_job_needs_it() -> None:
    asked = []

    class Watched(RecurrentModel):
        def step(self, ids, state, num_candidates, *, needs_attention=False):  # type: ignore[no-untyped-def]
            asked.append(needs_attention)
            return super().step(ids, state, num_candidates, needs_attention=needs_attention)

    generate(Watched(), SOURCES[:3], SearchOptions(6))
    assert not any(asked)


def test_a_suppressed_probability_is_told_as_if_it_were_not() -> None:
    """Against a softmax over all logits, before and after one of them is lowered."""
    logits = np.random.default_rng(0).normal(size=(5, 11)) * 4

    def softmax(values: np.ndarray) -> np.ndarray:
        return values - np.log(np.exp(values).sum(axis=1, keepdims=True))

    lowered = logits.copy()
    lowered[:, 9] -= 200.0
    found = PROBES.unsuppressed(softmax(lowered)[:, PROBES.ids].astype(np.float32))
    np.testing.assert_allclose(found[:, 2], softmax(logits)[:, 9], atol=1e-4)
    np.testing.assert_allclose(found[:, :2], softmax(lowered)[:, PROBES.ids[:2]], atol=1e-6)
    assert math.isfinite(float(found.min()))


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (SearchOptions(5, first_choices=(2, 5)), r"first_choices are \(2, 5\), must be among the model's probes"),
        (SearchOptions(5, before=tuple([5] * 40)), r"before has 40 tokens, the model takes 40 in all"),
        (SearchOptions(2, first_choices=(2,), prefix=(5, 6)), r"prefix has 2 tokens, must not be longer"),
        (SearchOptions(5, before=(MODEL.eos_id,)), r"before must hold ids"),
    ],
)
def test_what_can_not_be_honoured_is_refused(options: SearchOptions, fault: str) -> None:
    with pytest.raises(InputError, match=fault):
        RunningBatch(MODEL).admit([Job(1, SOURCES[0], options)])


def test_attention_of_a_model_that_tells_none_is_refused() -> None:
    silent = RecurrentModel()
    silent.num_alignment_heads = 0
    with pytest.raises(InputError, match="tells no attention"):
        RunningBatch(silent).admit([Job(1, SOURCES[0], SearchOptions(5, needs_attention=True))])
