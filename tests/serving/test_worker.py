"""The worker: real threads, a real event loop, a real small model."""

import asyncio
import math
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from prometheus_client import REGISTRY

from app.decoding.interface import Candidates, Ids, Sampling, SearchOptions, Source
from app.decoding.running import generate
from app.errors import CancelledError, DeadlineError, DrainingError, InputError, OverloadedError
from app.serving.generation import Generation
from app.serving.scheduler import Limits, Scheduler
from app.serving.worker import Worker
from tests.decoding.recurrent import RecurrentModel, RecurrentState

LIMITS = Limits(max_rows=16, max_tokens=2000)
POISON = 9
# A row that would go on for as long as its options let it.
ENDLESS = {"end_bias": -60.0}


class Gated(RecurrentModel):
    """Takes a step only when `allow`ed to; tells how many rows every step had."""

    def __init__(self, **sizes: Any) -> None:
        super().__init__(**sizes)
        self.rows: list[int] = []
        self.num_asked = 0
        self._allowed = threading.Semaphore(0)
        self._took = threading.Condition()

    def step(
        self, ids: Ids, state: RecurrentState, num_candidates: int, *, needs_attention: bool = False
    ) -> tuple[Candidates, RecurrentState]:
        self.num_asked += 1
        self._allowed.acquire()
        with self._took:
            self.rows.append(len(ids))
            self._took.notify_all()
        return super().step(ids, state, num_candidates, needs_attention=needs_attention)

    def allow(self, count: int = 1) -> None:
        """Let so many steps happen, and wait until they have begun."""
        with self._took:
            target = len(self.rows) + count
            for _ in range(count):
                self._allowed.release()
            assert self._took.wait_for(lambda: len(self.rows) >= target, timeout=30)

    def open(self, count: int = 100_000) -> None:
        """Let so many steps happen whenever they want to."""
        self._allowed.release(count)


class PoisonedEncoder(RecurrentModel):
    """Can not read a source that starts with the poison, nor others with it."""

    def encode(self, sources: Sequence[Source], width: int) -> RecurrentState:
        if any(source[0] == POISON for source in sources):
            raise RuntimeError("the encoder choked")
        return super().encode(sources, width)


class PoisonedDecoder(RecurrentModel):
    """Can not step when any row is fed the poison."""

    def step(
        self, ids: Ids, state: RecurrentState, num_candidates: int, *, needs_attention: bool = False
    ) -> tuple[Candidates, RecurrentState]:
        if (ids == POISON).any():
            raise RuntimeError("the decoder choked")
        return super().step(ids, state, num_candidates, needs_attention=needs_attention)


@contextmanager
def running(
    model: RecurrentModel | tuple[RecurrentModel, ...],
    limits: Limits = LIMITS,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Worker]:
    """A worker with a batch for every model."""
    models = model if isinstance(model, tuple) else (model,)
    worker = Worker(models, Scheduler(limits), "translate", "small", clock)
    worker.start()
    try:
        yield worker
    finally:
        for each in models:
            if isinstance(each, Gated):
                each.open()
        worker.close(drain_s=30)
        assert not worker.is_alive and not worker.num_running and not worker.num_waiting


def make_generation(
    *tokens: int, options: SearchOptions | None = None, deadline: float = math.inf, max_length: int = 30
) -> Generation:
    return Generation(np.array([*tokens, 1]), options or SearchOptions(max_length), deadline, time.monotonic())


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, timeout=60))


def metric(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"seq2serve_{name}", {"model": "small", **labels}) or 0.0


async def until(is_so: Callable[[], bool]) -> None:
    while not is_so():
        await asyncio.sleep(0.001)


def mixed_generations(count: int, seed: int) -> list[Generation]:
    rng = random.Random(seed)
    searches = [
        SearchOptions(25),
        SearchOptions(12, beam_size=3, num_hypotheses=2),
        SearchOptions(9, num_hypotheses=2, sampling=Sampling(seed=seed)),
        SearchOptions(20, prefix=(4,), min_length=3),
    ]
    return [
        make_generation(*(rng.randrange(2, 9) for _ in range(rng.randint(1, 12))), options=rng.choice(searches))
        for _ in range(count)
    ]


def test_answers_are_those_of_offline_decoding() -> None:
    model = RecurrentModel(end_bias=1.0)
    generations = mixed_generations(60, seed=1)

    async def test() -> None:
        with running(RecurrentModel(end_bias=1.0)) as worker:
            waiting = []
            for generation in generations:
                worker.submit([generation])
                waiting.append(asyncio.ensure_future(generation.result()))
                await asyncio.sleep(0)
            results = await asyncio.gather(*waiting)
        expected = generate(model, [one.source for one in generations], [one.options for one in generations])
        for found, wanted in zip(results, expected, strict=True):
            assert [hypothesis.ids for hypothesis in found] == [hypothesis.ids for hypothesis in wanted]

    run(test())


def test_a_late_short_one_ends_before_an_early_long_one() -> None:
    async def test() -> None:
        model = Gated(**ENDLESS)
        with running(model) as worker:
            long, short = make_generation(4, max_length=35), make_generation(5, max_length=3)
            worker.submit([long])
            model.allow(5)
            worker.submit([short])
            model.allow(6)
            await short.result()
            assert not long.has_ended
            assert model.rows[:5] == [1] * 5 and 2 in model.rows

    run(test())


def test_everyone_ends_exactly_once_under_random_cancels() -> None:
    async def test() -> None:
        rng, generations = random.Random(7), mixed_generations(300, seed=2)
        endings = ("stop", "length", "cancelled", "error", "deadline")
        before = {ending: metric("requests_finished_total", reason=ending) for ending in endings}
        outcomes: Counter[str] = Counter()

        async def use(generation: Generation) -> None:
            if rng.random() < 0.5:
                asyncio.get_running_loop().call_later(rng.random() * 0.05, generation.cancel)
            try:
                best, *_ = await generation.result()
                outcomes[best.finish_reason] += 1
            except CancelledError:
                outcomes["cancelled"] += 1

        with running(RecurrentModel(end_bias=0.5)) as worker:
            for start in range(0, 300, 20):
                worker.submit(generations[start : start + 20])
            await asyncio.gather(*(use(generation) for generation in generations))
            await until(lambda: not worker.num_running)
        counted = {ending: metric("requests_finished_total", reason=ending) - before[ending] for ending in endings}
        assert sum(outcomes.values()) == 300
        assert counted == {ending: outcomes[ending] for ending in endings}

    run(test())


def test_cancelling_frees_the_rows_at_the_next_step() -> None:
    async def test() -> None:
        model = Gated(**ENDLESS)
        with running(model) as worker:
            staying, leaving = make_generation(4), make_generation(5, options=SearchOptions(30, beam_size=4))
            worker.submit([staying, leaving])
            model.allow(6)
            leaving.cancel()
            model.allow(2)  # at most the two lanes of a step that was under way
            seen = len(model.rows)
            model.allow(3)
            assert model.rows[seen:] == [1, 1, 1]
            assert not staying.has_ended

    run(test())


def test_cancelled_in_the_queue_never_reaches_the_model() -> None:
    async def test() -> None:
        model = Gated(**ENDLESS)
        with running(model, Limits(max_rows=1)) as worker:
            first, second, third = (make_generation(4, max_length=5) for _ in range(3))
            worker.submit([first])
            model.allow(1)
            worker.submit([second, third])
            second.cancel()
            model.open()
            await asyncio.gather(first.result(), third.result())
        assert len(model.rows) == 2 * 6

    run(test())


class Clock:
    """`time.monotonic`, moved on at will."""

    def __init__(self) -> None:
        self.offset_s = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.offset_s


def test_late_in_the_queue_never_reaches_the_model() -> None:
    async def test() -> None:
        model, clock = Gated(**ENDLESS), Clock()
        with running(model, Limits(max_rows=1), clock) as worker:
            first = make_generation(4, max_length=5)
            late = make_generation(4, deadline=clock() + 1000)
            worker.submit([first])
            worker.submit([late])
            clock.offset_s = 2000
            model.open()
            with pytest.raises(DeadlineError):
                await late.result()
            await first.result()
        assert len(model.rows) == 6

    run(test())


def test_late_while_running_frees_its_rows() -> None:
    async def test() -> None:
        model, clock = Gated(**ENDLESS), Clock()
        with running(model, clock=clock) as worker:
            staying, late = make_generation(4), make_generation(5, deadline=clock() + 1000)
            worker.submit([staying, late])
            model.allow(3)
            assert model.rows[-1] == 2
            clock.offset_s = 2000
            model.allow(1)  # it may have been under way
            with pytest.raises(DeadlineError):
                await late.result()
            model.allow(1)
            assert model.rows[-1] == 1

    run(test())


def test_a_source_that_can_not_be_read_fails_alone() -> None:
    async def test() -> None:
        generations = [make_generation(4, 5), make_generation(POISON, 5), make_generation(6, 5)]
        with running(PoisonedEncoder(end_bias=3.0)) as worker:
            worker.submit(generations)
            results = await asyncio.gather(*(one.result() for one in generations), return_exceptions=True)
            assert isinstance(results[1], RuntimeError) and "encoder" in str(results[1])
            expected = generate(
                RecurrentModel(end_bias=3.0), [generations[0].source, generations[2].source], SearchOptions(30)
            )
            assert [results[0], results[2]] == expected

    run(test())


def test_a_row_that_breaks_the_step_fails_alone() -> None:
    """All run in one lane when the poison is fed; the others start again and give what they would have given."""

    async def test() -> None:
        sound = [make_generation(4, 5), make_generation(6, 5), make_generation(2)]
        poisonous = make_generation(3, options=SearchOptions(30, prefix=(4, POISON)))
        model = PoisonedDecoder(seed=2, end_bias=4.0)
        expected = generate(RecurrentModel(seed=2, end_bias=4.0), [one.source for one in sound], SearchOptions(30))
        assert not any(POISON in hypothesis.ids for (hypothesis,) in expected)
        with running(model) as worker:
            worker.submit([*sound, poisonous])
            results = await asyncio.gather(*(one.result() for one in [*sound, poisonous]), return_exceptions=True)
            assert isinstance(results.pop(), RuntimeError)
            assert results == expected
            again = make_generation(4, 5)
            worker.submit([again])
            assert await again.result() == expected[0], "the thread must survive"

    run(test())


def test_options_that_can_not_be_honoured_fail_alone() -> None:
    async def test() -> None:
        good, bad = make_generation(4), make_generation(4, options=SearchOptions(5, num_hypotheses=3))
        with running(RecurrentModel()) as worker:
            worker.submit([good, bad])
            assert await good.result()
            with pytest.raises(InputError, match="num_hypotheses"):
                await bad.result()

    run(test())


def test_a_model_that_gives_no_numbers_fails_the_generation_and_not_the_thread() -> None:
    class Broken(RecurrentModel):
        def step(
            self, ids: Ids, state: RecurrentState, num_candidates: int, *, needs_attention: bool = False
        ) -> tuple[Candidates, RecurrentState]:
            candidates, state = super().step(ids, state, num_candidates, needs_attention=needs_attention)
            return Candidates(candidates.ids, np.full_like(candidates.log_probs, np.nan)), state

    async def test() -> None:
        with running(Broken()) as worker:
            generation = make_generation(4, options=SearchOptions(6, beam_size=2))
            worker.submit([generation])
            with pytest.raises(ArithmeticError):
                await generation.result()
            assert worker.is_alive

    run(test())


def test_a_state_that_breaks_between_steps_fails_who_runs_and_not_the_thread() -> None:
    class Brittle(RecurrentState):
        def take(self, rows: Ids) -> RecurrentState:
            raise RuntimeError("the device is gone")

    class Fallible(Gated):
        is_broken = True

        def encode(self, sources: Sequence[Source], width: int) -> RecurrentState:
            state = super().encode(sources, width)
            return Brittle(state.memory, state.hidden, state.width) if self.is_broken else state

        def step(
            self, ids: Ids, state: RecurrentState, num_candidates: int, *, needs_attention: bool = False
        ) -> tuple[Candidates, RecurrentState]:
            candidates, after = super().step(ids, state, num_candidates, needs_attention=needs_attention)
            return candidates, type(state)(after.memory, after.hidden, after.width)

    async def test() -> None:
        model = Fallible(**ENDLESS)
        with running(model) as worker:
            leaving, staying = make_generation(4), make_generation(5)
            worker.submit([leaving, staying])
            model.allow(2)
            leaving.cancel()
            model.open(1)
            with pytest.raises(RuntimeError, match="worker failed"):
                await staying.result()
            model.is_broken = False
            after = make_generation(4, max_length=3)
            worker.submit([after])
            model.open()
            assert await after.result()

    run(test())


def test_a_full_queue_refuses_all_of_a_request_or_nothing() -> None:
    async def test() -> None:
        model = Gated(**ENDLESS)
        with running(model, Limits(max_rows=1, max_queued=3)) as worker:
            running_one = make_generation(4)
            worker.submit([running_one])
            model.allow(1)
            worker.submit([make_generation(4), make_generation(4)])
            refused = [make_generation(4), make_generation(4)]
            before = REGISTRY.get_sample_value("seq2serve_rejected_total", {"reason": "queue_full"}) or 0.0
            with pytest.raises(OverloadedError):
                worker.submit(refused)
            assert worker.num_waiting == 2
            assert REGISTRY.get_sample_value("seq2serve_rejected_total", {"reason": "queue_full"}) == before + 1

    run(test())


def test_closing_lets_the_work_end_and_refuses_more() -> None:
    async def test() -> None:
        model = Gated(**ENDLESS)
        with running(model, Limits(max_rows=2)) as worker:
            generations = [make_generation(4, max_length=5) for _ in range(5)]
            worker.submit(generations)
            model.allow(1)
            closing = asyncio.get_running_loop().run_in_executor(None, worker.close, 30)
            with pytest.raises(DrainingError):
                while True:
                    worker.submit([make_generation(4)])
                    await asyncio.sleep(0.001)
            model.open()
            results = await asyncio.gather(*(one.result() for one in generations))
            assert all(hypotheses[0].finish_reason == "length" for hypotheses in results)
            await closing
            assert not worker.is_alive

    run(test())


def test_closing_at_once_leaves_nobody_without_an_ending() -> None:
    async def test() -> None:
        model = Gated(max_target_length=100_000, **ENDLESS)
        with running(model, Limits(max_rows=2, max_tokens=10**9, max_queued_cost=10**9)) as worker:
            generations = [make_generation(4, max_length=90_000) for _ in range(5)]
            worker.submit(generations)
            model.allow(1)
            waiting = asyncio.gather(*(one.result() for one in generations), return_exceptions=True)
            closing = asyncio.get_running_loop().run_in_executor(None, worker.close, 0)
            while not closing.done():
                model.open(1)
                await asyncio.sleep(0.001)
            assert all(isinstance(result, DrainingError) for result in await waiting)

    run(test())


def test_a_worker_that_never_started_fails_what_waits_when_closed() -> None:
    async def test() -> None:
        worker = Worker([RecurrentModel()], Scheduler(LIMITS), "translate", "small")
        generation = make_generation(4)
        worker.submit([generation])
        worker.close(drain_s=0)
        with pytest.raises(DrainingError):
            await generation.result()

    run(test())


def test_the_heart_stops_while_a_step_hangs_and_beats_again_after() -> None:
    async def test() -> None:
        model = Gated(**ENDLESS)
        with running(model) as worker:
            worker.submit([make_generation(4)])
            model.allow(1)
            await until(lambda: model.num_asked == 2)
            beat = worker.heartbeat_at
            await asyncio.sleep(0.05)
            assert worker.heartbeat_at == beat
            model.open()
            await until(lambda: worker.heartbeat_at > beat)

    run(test())


def test_the_drain_rate_is_measured_in_positions_read_and_stepped() -> None:
    recorded: list[int] = []

    class Recording(Scheduler):
        def record(self, cost: int, busy_s: float) -> None:
            recorded.append(cost)
            super().record(cost, busy_s)

    async def test() -> None:
        worker = Worker([RecurrentModel(**ENDLESS)], Recording(LIMITS), "translate", "small")
        generation = make_generation(4, 5, 6, options=SearchOptions(5, beam_size=2))
        worker.submit([generation])
        worker.start()
        await generation.result()
        worker.close(drain_s=30)
        assert sum(recorded) == 4 + 2 * 6  # the end of sentence takes a step too

    run(test())


def test_metrics_tell_what_was_done() -> None:
    async def test() -> None:
        names = [("tokens_total", {"kind": "source"}), ("tokens_total", {"kind": "generated"})]
        names += [("queue_duration_seconds_count", {"task": "translate"}), ("time_to_first_token_seconds_count", {})]
        before = [metric(name, **labels) for name, labels in names]
        with running(RecurrentModel(**ENDLESS)) as worker:
            generations = [make_generation(4, 5, max_length=3), make_generation(4, 5, 6, max_length=4)]
            worker.submit(generations)
            await asyncio.gather(*(one.result() for one in generations))
        after = [metric(name, **labels) for name, labels in names]
        assert [b - a for a, b in zip(before, after, strict=True)] == [3 + 4, 3 + 4, 2, 2]
        assert metric("requests_in_progress", task="translate") == metric("queue_requests", task="translate") == 0

    run(test())


def test_two_batches_give_the_answers_of_one() -> None:
    generations = mixed_generations(120, seed=5)

    async def test() -> None:
        with running((RecurrentModel(end_bias=1.0), RecurrentModel(end_bias=1.0))) as worker:
            for generation in generations:
                worker.submit([generation])
            results = await asyncio.gather(*(generation.result() for generation in generations))
        model = RecurrentModel(end_bias=1.0)
        expected = generate(model, [one.source for one in generations], [one.options for one in generations])
        assert [[h.ids for h in found] for found in results] == [[h.ids for h in each] for each in expected]

    run(test())


def test_idle_batches_share_what_comes_together() -> None:
    async def test() -> None:
        models = Gated(**ENDLESS), Gated(**ENDLESS)
        with running(models) as worker:
            generations = [make_generation(4, 5, 6, max_length=3) for _ in range(8)]
            worker.submit(generations)
            await until(lambda: all(model.num_asked for model in models))
            for model in models:
                model.allow(1)
            assert [model.rows for model in models] == [[4], [4]]

    run(test())


def test_a_batch_that_hangs_holds_up_no_other_and_stops_the_heart() -> None:
    async def test() -> None:
        models = Gated(**ENDLESS), Gated(**ENDLESS)
        with running(models) as worker:
            worker.submit([make_generation(4)])
            await until(lambda: any(model.num_asked for model in models))
            free = next(model for model in models if not model.num_asked)
            free.open()
            beats = []
            for _ in range(3):
                generation = make_generation(4, max_length=3)
                worker.submit([generation])
                await generation.result()
                beats.append(worker.heartbeat_at)
            assert beats[1] == beats[2], "the slowest counts"

    run(test())


def test_with_two_batches_every_generation_ends_once_whatever_happens() -> None:
    rng = random.Random(3)

    def endings() -> float:
        names = ("stop", "length", "error", "cancelled", "deadline")
        return sum(metric("requests_finished_total", reason=name) for name in names)

    async def test() -> None:
        before = endings()
        generations = []
        with running((PoisonedDecoder(end_bias=1.0), PoisonedDecoder(end_bias=1.0))) as worker:
            for number in range(300):
                source = [rng.randrange(2, 9) for _ in range(rng.randint(1, 12))]
                deadline = time.monotonic() + rng.choice([0.001, 0.01, 60.0, 60.0])
                generation = make_generation(*source, deadline=deadline)
                try:
                    worker.submit([generation])
                except (OverloadedError, DeadlineError):
                    continue
                generations.append(generation)
                if number % 7 == 0:
                    rng.choice(generations).cancel()
                if number % 5 == 0:
                    await asyncio.sleep(0.002)
            await asyncio.gather(*(one.result() for one in generations), return_exceptions=True)
        assert all(one.has_ended for one in generations)
        assert endings() - before == len(generations)

    run(test())
