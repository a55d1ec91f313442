"""The laws of the running batch, for every search: who runs beside whom, and since when, changes nothing."""

import random
from collections.abc import Hashable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.decoding.interface import Candidates, Hypothesis, Ids, Sampling, SearchOptions, Source
from app.decoding.running import Job, RunningBatch, StepError, generate
from app.errors import InputError
from tests.decoding.recurrent import RecurrentModel, RecurrentState

MODEL = RecurrentModel(seed=3, end_bias=0.5)


@st.composite
def search_options(draw: st.DrawFn) -> SearchOptions:
    max_length = draw(st.integers(1, 14))
    kind = draw(st.sampled_from(["greedy", "beam", "sampling"]))
    beam_size = draw(st.integers(2, 5)) if kind == "beam" else 1
    sampling = Sampling(
        temperature=draw(st.floats(0.3, 3.0)),
        top_k=draw(st.integers(1, 20)),
        top_p=draw(st.floats(0.1, 1.0)),
        seed=draw(st.integers(-(2**70), 2**70)),
    )
    return SearchOptions(
        max_length=max_length,
        beam_size=beam_size,
        num_hypotheses=draw(st.integers(1, 3 if kind == "sampling" else beam_size)),
        length_penalty=draw(st.sampled_from([0.0, 0.6, 1.0, 2.0])),
        min_length=draw(st.integers(0, max_length)),
        prefix=tuple(draw(st.lists(st.integers(2, 10), max_size=min(3, max_length)))),
        sampling=sampling if kind == "sampling" else None,
    )


@st.composite
def jobs_to_run(draw: st.DrawFn) -> list[Job]:
    sources = st.lists(st.integers(2, 10), min_size=1, max_size=6).map(lambda ids: np.array([*ids, 1]))
    pairs = draw(st.lists(st.tuples(sources, search_options()), min_size=1, max_size=9))
    return [Job(("job", index), source, options) for index, (source, options) in enumerate(pairs)]


def run_alone(job: Job) -> list[Hypothesis]:
    batch = RunningBatch(MODEL)
    batch.admit([job])
    while True:
        if finished := batch.step():
            (only,) = finished
            assert not batch.num_jobs and not batch.num_rows
            return only.hypotheses


def assert_same(found: list[Hypothesis], expected: list[Hypothesis]) -> None:
    assert [(h.ids, h.finish_reason) for h in found] == [(h.ids, h.finish_reason) for h in expected]
    assert [h.log_prob for h in found] == pytest.approx([h.log_prob for h in expected], abs=1e-5)
    assert [h.score for h in found] == pytest.approx([h.score for h in expected], abs=1e-5)


@given(jobs_to_run(), st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_a_row_does_not_depend_on_its_neighbours_nor_on_when_it_joined(jobs: list[Job], seed: int) -> None:
    rng, batch, waiting, results = (
        random.Random(seed),
        RunningBatch(MODEL),
        list(jobs),
        dict[Hashable, list[Hypothesis]](),
    )
    while waiting or batch.num_jobs:
        joining = rng.randint(0 if batch.num_jobs else 1, len(waiting)) if waiting else 0
        batch.admit(waiting[:joining])
        del waiting[:joining]
        for finished in batch.step():
            assert finished.key not in results, "a job finished twice"
            results[finished.key] = finished.hypotheses
    assert results.keys() == {job.key for job in jobs}
    for job in jobs:
        assert_same(results[job.key], run_alone(job))


@given(jobs_to_run(), st.integers(0, 2**32))
@settings(max_examples=80, deadline=None)
def test_dropping_frees_rows_and_leaves_the_others_alone(jobs: list[Job], seed: int) -> None:
    rng, batch, results = random.Random(seed), RunningBatch(MODEL), dict[Hashable, list[Hypothesis]]()
    batch.admit(jobs)
    dropped = set[Hashable]()
    while batch.num_jobs:
        leaving = {job.key for job in jobs if job.key not in results and job.key not in dropped and rng.random() < 0.1}
        rows = sum(batch_rows(job) for job in jobs if job.key in leaving)
        before = batch.num_rows
        batch.drop([*leaving, "nobody"])
        assert batch.num_rows == before - rows
        dropped |= leaving
        results.update((finished.key, finished.hypotheses) for finished in batch.step())
    assert results.keys() == {job.key for job in jobs} - dropped
    for job in jobs:
        if job.key in results:
            assert_same(results[job.key], run_alone(job))


def batch_rows(job: Job) -> int:
    return job.options.num_hypotheses if job.options.sampling else job.options.beam_size


@given(jobs_to_run())
@settings(max_examples=150, deadline=None)
def test_limits_and_prefix_are_honoured(jobs: list[Job]) -> None:
    for job in jobs:
        options, hypotheses = job.options, run_alone(job)
        assert 1 <= len(hypotheses) <= options.num_hypotheses
        if options.sampling:
            assert len(hypotheses) == options.num_hypotheses
        else:
            assert len({(h.ids, h.finish_reason) for h in hypotheses}) == len(hypotheses)
        for hypothesis in hypotheses:
            assert MODEL.eos_id not in hypothesis.ids
            assert max(options.min_length, len(options.prefix)) <= len(hypothesis.ids) <= options.max_length
            assert hypothesis.ids[: len(options.prefix)] == options.prefix
            if hypothesis.finish_reason == "length":
                assert len(hypothesis.ids) == options.max_length
            length = len(hypothesis.ids) + (hypothesis.finish_reason == "stop")
            assert hypothesis.score == pytest.approx(hypothesis.log_prob / length**options.length_penalty)


@given(jobs_to_run())
@settings(max_examples=60, deadline=None)
def test_log_prob_is_that_of_the_ids_behind_the_prefix(jobs: list[Job]) -> None:
    for job in jobs:
        for hypothesis in run_alone(job):
            assert hypothesis.log_prob == pytest.approx(log_prob_of(job, hypothesis), abs=1e-4)


def log_prob_of(job: Job, hypothesis: Hypothesis) -> float:
    """The slow way: feed the ids to a row of its own and add up."""
    state, last, total = MODEL.encode([job.source], 1), MODEL.bos_id, 0.0
    ids = [*hypothesis.ids, *([MODEL.eos_id] if hypothesis.finish_reason == "stop" else [])]
    for position, token in enumerate(ids):
        candidates, state = MODEL.step(np.array([last]), state, MODEL.vocabulary_size)
        if position >= len(job.options.prefix):
            total += float(candidates.log_probs[0, candidates.ids[0].tolist().index(token)])
        last = token
    return total


@given(jobs_to_run(), st.integers(1, 12), st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_offline_decoding_gives_what_every_job_gives_alone_in_input_order(
    jobs: list[Job], max_rows: int, max_tokens: int
) -> None:
    told: list[int] = []
    sources, options = [job.source for job in jobs], [job.options for job in jobs]
    results = generate(MODEL, sources, options, max_rows=max_rows, max_tokens=max_tokens, on_finished=told.append)
    assert sum(told) == len(jobs) and all(told)
    for job, hypotheses in zip(jobs, results, strict=True):
        assert_same(hypotheses, run_alone(job))


def test_offline_decoding_stays_inside_its_budget() -> None:
    class Measured(RecurrentModel):
        most_rows = 0

        def step(
            self, ids: Ids, state: RecurrentState, num_candidates: int, *, needs_attention: bool = False
        ) -> tuple[Candidates, RecurrentState]:
            self.most_rows = max(self.most_rows, len(ids))
            return super().step(ids, state, num_candidates, needs_attention=needs_attention)

    model, sources = Measured(), [np.full(1 + index % 9, 5) for index in range(60)]
    generate(model, sources, SearchOptions(max_length=9, beam_size=3), max_rows=12)
    assert model.most_rows == 12
    model.most_rows = 0
    generate(model, sources, SearchOptions(max_length=9), max_rows=50, max_tokens=40)
    assert 5 <= model.most_rows <= 40


def test_a_batch_without_jobs_steps_nothing() -> None:
    batch, before = RunningBatch(MODEL), MODEL.num_steps
    assert batch.step() == [] and MODEL.num_steps == before
    assert generate(MODEL, [], SearchOptions(max_length=3)) == []


def test_the_models_own_limit_bounds_the_target() -> None:
    model = RecurrentModel(max_target_length=5, end_bias=-30.0)
    for beam_size in (1, 3):
        ((best,),) = generate(model, [np.array([4, 1])], SearchOptions(max_length=50, beam_size=beam_size))
        assert best.finish_reason == "length" and len(best.ids) == 4


@pytest.mark.parametrize(
    "options",
    [
        SearchOptions(max_length=0),
        SearchOptions(max_length=5, beam_size=0),
        SearchOptions(max_length=5, num_hypotheses=0),
        SearchOptions(max_length=5, num_hypotheses=2),
        SearchOptions(max_length=5, length_penalty=-1.0),
        SearchOptions(max_length=5, length_penalty=float("nan")),
        SearchOptions(max_length=5, min_length=6),
        SearchOptions(max_length=5, min_length=-1),
        SearchOptions(max_length=2, prefix=(2, 2, 2)),
        SearchOptions(max_length=5, prefix=(1,)),
        SearchOptions(max_length=5, prefix=(11,)),
        SearchOptions(max_length=5, beam_size=2, sampling=Sampling()),
        SearchOptions(max_length=5, sampling=Sampling(temperature=0.0)),
        SearchOptions(max_length=5, sampling=Sampling(top_k=0)),
        SearchOptions(max_length=5, sampling=Sampling(top_p=0.0)),
        SearchOptions(max_length=5, sampling=Sampling(top_p=float("nan"))),
    ],
)
def test_options_that_can_not_be_honoured_are_refused_and_nobody_joins(options: SearchOptions) -> None:
    batch = RunningBatch(MODEL)
    source = np.array([4, 1])
    with pytest.raises(InputError, match="must"):
        batch.admit([Job(1, source, SearchOptions(max_length=5)), Job(2, source, options)])
    assert batch.num_jobs == 0


class Fragile(RecurrentModel):
    """Fails to read a source with a 9, and to step rows wider than one."""

    def encode(self, sources: list[Source], width: int) -> RecurrentState:  # type: ignore[override]  # narrower
        if any(9 in source for source in sources):
            raise RuntimeError("broken source")
        return super().encode(sources, width)

    def step(
        self, ids: Ids, state: RecurrentState, num_candidates: int, *, needs_attention: bool = False
    ) -> tuple[Candidates, RecurrentState]:
        if state.width > 1:
            raise RuntimeError("broken lane")
        return super().step(ids, state, num_candidates, needs_attention=needs_attention)


def test_sources_that_can_not_be_read_leave_the_batch_as_it_was() -> None:
    batch, options = RunningBatch(Fragile()), SearchOptions(max_length=5)
    batch.admit([Job("old", np.array([4, 1]), options)])
    with pytest.raises(RuntimeError, match="broken source"):
        batch.admit([Job("good", np.array([4, 1]), options), Job("bad", np.array([9, 1]), options)])
    assert batch.num_jobs == 1


def test_a_failing_step_takes_its_lane_only() -> None:
    batch, source = RunningBatch(Fragile()), np.array([4, 1])
    batch.admit(
        [Job("greedy", source, SearchOptions(max_length=5)), Job("beam", source, SearchOptions(5, beam_size=2))]
    )
    with pytest.raises(StepError) as caught:
        batch.step()
    assert [job.key for job in caught.value.jobs] == ["beam"]
    assert batch.num_jobs == 1
    finished = [key.key for _ in range(6) for key in batch.step()]
    assert finished == ["greedy"]


def test_a_failing_join_names_everyone_who_does_not_run() -> None:
    class Unjoinable(RecurrentState):
        def concat(self, other: RecurrentState) -> RecurrentState:
            raise MemoryError("no room")

    class Full(RecurrentModel):
        def encode(self, sources: Sequence[Source], width: int) -> RecurrentState:
            state = super().encode(sources, width)
            return Unjoinable(state.memory, state.hidden, state.width) if width == 2 else state

    batch, source = RunningBatch(Full(end_bias=-30.0)), np.array([4, 1])
    greedy, beam, wide = SearchOptions(5), SearchOptions(5, beam_size=2), SearchOptions(5, beam_size=3)
    batch.admit([Job("old beam", source, beam), Job("old wide", source, wide)])
    with pytest.raises(StepError) as caught:
        batch.admit([Job("greedy", source, greedy), Job("beam", source, beam), Job("wide", source, wide)])
    assert [job.key for job in caught.value.jobs] == ["old beam", "beam", "wide"]
    assert sorted(str(finished.key) for _ in range(7) for finished in batch.step()) == ["greedy", "old wide"]
