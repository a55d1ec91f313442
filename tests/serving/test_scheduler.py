"""The scheduler's laws over thousands of simulated schedules."""

import math
import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from app.decoding.interface import SearchOptions
from app.errors import DeadlineError, DrainingError, OverloadedError, TooLargeError
from app.serving.generation import Generation
from app.serving.scheduler import Limits, Scheduler

LIMITS = Limits(max_queued=20, max_queued_cost=1500, max_rows=12, max_tokens=400, max_join_tokens=60, window=6)


def make_generation(length: int = 5, beam_size: int = 1, deadline: float = math.inf) -> Generation:
    return Generation(np.full(length, 5), SearchOptions(30, beam_size=beam_size), deadline, submitted_at=0.0)


class Simulation:
    """Random arrivals, cancellations and endings against one scheduler; checks every law at every turn."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.limits = replace(
            LIMITS,
            window=self.random.choice([1, 3, 8]),
            max_rows=self.random.choice([4, 12]),
            max_join_tokens=self.random.choice([20, 60, 200]),
        )
        self.scheduler = Scheduler(self.limits)
        self.waiting: list[Generation] = []  # in order of arrival
        self.running: list[Generation] = []
        self.fates: Counter[Generation] = Counter()
        self.overtaken: Counter[Generation] = Counter()
        self.accepted: list[Generation] = []

    def turn(self, now: float, may_arrive: bool = True) -> None:
        if may_arrive:
            self.arrive(now)
        for generation in list(self.waiting):
            if self.random.random() < 0.02:
                generation.cancel()
                self.scheduler.discard(generation)
                self.leave(generation)
        for generation in self.scheduler.expired(now):
            assert generation.deadline <= now
            self.leave(generation)
        assert all(generation.deadline > now for generation in self.waiting)
        self.running = [generation for generation in self.running if self.random.random() < 0.8]
        self.join()

    def arrive(self, now: float) -> None:
        group = [self.draw(now) for _ in range(self.random.choice([0, 0, 1, 1, 2, 5]))]
        try:
            self.scheduler.offer(group, now)
        except (OverloadedError, TooLargeError, DeadlineError):
            assert len(self.scheduler) == len(self.waiting), "a part of a refused group was queued"
        else:
            self.waiting += group
            self.accepted += group
        assert len(self.scheduler) == len(self.waiting) <= self.limits.max_queued
        assert self.scheduler.queued_cost == sum(one.cost for one in self.waiting) <= self.limits.max_queued_cost

    def draw(self, now: float) -> Generation:
        length = self.random.choice([1, 3, 5, 9, 20, 45, 70])
        deadline = now + self.random.choice([3.0, 10.0, math.inf, math.inf])
        return make_generation(length, self.random.choice([1, 1, 2, 4]), deadline)

    def leave(self, generation: Generation) -> None:
        self.waiting.remove(generation)
        self.fates[generation] += 1

    def join(self) -> None:
        rows, cost = sum(one.num_rows for one in self.running), sum(one.cost for one in self.running)
        joining = self.scheduler.next_jobs(rows, cost, among=self.random.choice([1, 1, 2, 3]))
        assert bool(joining) or not self.waiting or self.running, "an idle model, and nobody may join"
        for generation in joining:
            self.leave(generation)
            for older in self.waiting[: self.position(generation)]:
                if older not in joining:
                    self.overtaken[older] += 1
        self.running += joining
        if len(self.running) > 1:
            assert sum(one.num_rows for one in self.running) <= self.limits.max_rows
            assert sum(one.cost for one in self.running) <= self.limits.max_tokens
        if len(joining) > 1:
            lengths = [len(one.source) for one in joining]
            assert len(lengths) * max(lengths) <= self.limits.max_join_tokens
            assert max(lengths) <= max(32, 2 * min(lengths))

    def position(self, generation: Generation) -> int:
        """How many of those that wait came before it."""
        arrival = self.accepted.index(generation)
        return sum(self.accepted.index(other) < arrival for other in self.waiting)


@pytest.mark.parametrize("seed", range(20))
def test_laws_hold_in_every_schedule(seed: int) -> None:
    for inner in range(60):
        simulation = Simulation(seed * 1000 + inner)
        for turn in range(25):
            simulation.turn(float(turn))
        for turn in range(25, 600):
            if not simulation.waiting:
                break
            simulation.turn(float(turn), may_arrive=False)
        assert not simulation.waiting, "someone starved"
        assert simulation.fates == Counter(simulation.accepted), "someone left twice or never"
        assert max(simulation.overtaken.values(), default=0) <= simulation.limits.window
        assert len(simulation.scheduler) == simulation.scheduler.queued_cost == 0


def test_the_oldest_joins_first_with_those_of_similar_length() -> None:
    scheduler = Scheduler(replace(LIMITS, max_join_tokens=100, window=50))
    lengths = [40, 5, 41, 6, 39]
    generations = [make_generation(length) for length in lengths]
    scheduler.offer(generations, now=0.0)
    assert [len(one.source) for one in scheduler.next_jobs(0, 0)] == [40, 41]
    assert [len(one.source) for one in scheduler.next_jobs(2, 0)] == [5, 6]
    assert [len(one.source) for one in scheduler.next_jobs(4, 0)] == [39]


def test_one_that_does_not_fit_is_overtaken_by_a_window_at_most() -> None:
    scheduler = Scheduler(replace(LIMITS, max_rows=4, window=3))
    wide = make_generation(beam_size=4)
    scheduler.offer([wide, *(make_generation() for _ in range(10))], now=0.0)
    joined = sum((scheduler.next_jobs(running_rows=1, running_tokens=10) for _ in range(20)), start=list[Generation]())
    assert len(joined) == 3 and wide not in joined
    assert scheduler.next_jobs(running_rows=0, running_tokens=0)[0] is wide


def test_one_over_the_budget_runs_alone() -> None:
    scheduler = Scheduler(LIMITS)
    huge = make_generation(length=300, beam_size=4)
    assert huge.cost > LIMITS.max_tokens
    scheduler.offer([huge, make_generation()], now=0.0)
    assert scheduler.next_jobs(0, 0) == [huge]


def test_a_full_queue_refuses_with_a_time_from_the_measured_rate() -> None:
    scheduler = Scheduler(replace(LIMITS, max_queued=1000))
    full = [make_generation(length=25) for _ in range(30)]  # cost 50 each: 1500
    scheduler.offer(full, now=0.0)
    with pytest.raises(OverloadedError) as caught:
        scheduler.offer([make_generation(length=25)], now=0.0)
    assert caught.value.retry_after_s == 1.0  # nothing was measured yet
    for _ in range(50):
        scheduler.record(cost=1, busy_s=0.1)
    assert scheduler.drain_rate == pytest.approx(10.0)
    with pytest.raises(OverloadedError) as caught:
        scheduler.offer([make_generation(length=25)], now=0.0)
    assert caught.value.retry_after_s == pytest.approx(5.0)  # 50 over, 10 a second


def test_idle_time_does_not_count_as_slowness() -> None:
    scheduler = Scheduler(LIMITS)
    for _ in range(40):
        scheduler.record(cost=20, busy_s=0.1)
    scheduler.record(cost=0, busy_s=0.0)
    assert scheduler.drain_rate == pytest.approx(200.0)


def test_a_model_that_got_nothing_done_yet_has_no_rate() -> None:
    scheduler = Scheduler(LIMITS)
    scheduler.record(cost=0, busy_s=5.0)
    assert scheduler.drain_rate is None
    scheduler.offer([make_generation(deadline=1.0)], now=0.0)


def test_the_rate_follows_a_model_that_becomes_slower() -> None:
    scheduler = Scheduler(LIMITS)
    for _ in range(600):
        scheduler.record(cost=20, busy_s=0.1)
    for _ in range(1000):
        scheduler.record(cost=5, busy_s=0.1)
    assert scheduler.drain_rate == pytest.approx(50.0, rel=0.05)


def test_what_can_never_fit_is_refused_for_good() -> None:
    scheduler = Scheduler(LIMITS)
    with pytest.raises(TooLargeError, match="13 hypotheses"):
        scheduler.offer([make_generation(beam_size=13)], now=0.0)
    with pytest.raises(TooLargeError, match="send less at once"):
        scheduler.offer([make_generation() for _ in range(21)], now=0.0)
    with pytest.raises(TooLargeError, match="send less at once"):
        scheduler.offer([make_generation(length=100, beam_size=12) for _ in range(4)], now=0.0)


def test_hopeless_deadlines_are_refused() -> None:
    scheduler = Scheduler(replace(LIMITS, max_queued=1000))
    with pytest.raises(DeadlineError):
        scheduler.offer([make_generation(deadline=5.0)], now=5.0)
    for _ in range(50):
        scheduler.record(cost=10, busy_s=0.1)
    scheduler.offer([make_generation(length=25) for _ in range(10)], now=0.0)  # 500 at 100 a second
    with pytest.raises(DeadlineError, match=r"5\.0 s"):
        scheduler.offer([make_generation(deadline=4.0)], now=0.0)
    scheduler.offer([make_generation(deadline=6.0)], now=0.0)


def test_late_ones_are_taken_out_and_never_join() -> None:
    scheduler = Scheduler(LIMITS)
    late, patient = make_generation(deadline=3.0), make_generation(deadline=9.0)
    scheduler.offer([late, patient], now=0.0)
    assert scheduler.expired(now=2.9) == []
    assert scheduler.expired(now=3.0) == [late]
    assert scheduler.next_jobs(0, 0) == [patient]
    assert scheduler.expired(now=100.0) == []


def test_a_draining_scheduler_refuses_and_works_off_the_rest() -> None:
    scheduler = Scheduler(LIMITS)
    generation = make_generation()
    scheduler.offer([generation], now=0.0)
    scheduler.drain()
    with pytest.raises(DrainingError):
        scheduler.offer([make_generation()], now=0.0)
    assert scheduler.next_jobs(0, 0) == [generation]
