"""A generation ends exactly once, and who waits for it is told."""

import asyncio
import math
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

from app.decoding.interface import Hypothesis, Sampling, SearchOptions
from app.errors import CancelledError, DeadlineError, DrainingError
from app.serving.generation import Generation, wake

BEST = Hypothesis((5, 6), -1.0, -0.5, "stop")


def make_generation(options: SearchOptions | None = None, length: int = 3, deadline: float = math.inf) -> Generation:
    return Generation(np.full(length, 5), options or SearchOptions(20), deadline, submitted_at=0.0)


def test_cost_counts_source_and_expected_target_of_every_row() -> None:
    assert make_generation(length=10).cost == 10 + 10
    assert make_generation(SearchOptions(4), length=10).cost == 10 + 4
    assert make_generation(SearchOptions(20, beam_size=4), length=10).cost == 10 + 4 * 10
    sampled = make_generation(SearchOptions(20, num_hypotheses=3, sampling=Sampling()), length=10)
    assert (sampled.num_rows, sampled.cost) == (3, 10 + 3 * 10)


def test_frames_cost_the_positions_that_memory_has_for_them() -> None:
    window = Generation(np.zeros((3000, 80), np.float32), SearchOptions(228), math.inf, submitted_at=0.0)
    assert window.cost == 1500 + 228


@pytest.mark.parametrize(
    ("end", "ending"),
    [
        (lambda one: one.finish([BEST]), "stop"),
        (lambda one: one.fail(ValueError("broken")), "error"),
        (lambda one: one.fail(DrainingError("stopped", 1.0)), "cancelled"),
        (lambda one: one.cancel(), "cancelled"),
        (lambda one: one.expire(), "deadline"),
    ],
)
def test_the_first_ending_counts_and_no_other(end: Callable[[Generation], bool], ending: str) -> None:
    generation = make_generation()
    assert end(generation)
    assert not generation.finish([BEST]) and not generation.fail(ValueError("late"))
    assert not generation.cancel() and not generation.expire()
    assert generation.ending == ending


def test_of_many_threads_one_ends_it() -> None:
    for _ in range(200):
        generation, barrier, winners = make_generation(), threading.Barrier(4), list[str]()
        ends: dict[str, Callable[[], bool]] = {
            "finish": lambda one=generation: one.finish([BEST]),
            "fail": lambda one=generation: one.fail(ValueError("broken")),
            "cancel": generation.cancel,
            "expire": generation.expire,
        }

        def race(
            name: str,
            end: Callable[[], bool],
            barrier: threading.Barrier = barrier,
            winners: list[str] = winners,
        ) -> None:
            barrier.wait()
            if end():
                winners.append(name)

        threads = [threading.Thread(target=race, args=pair) for pair in ends.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(winners) == 1


def test_who_waits_gets_the_result_or_the_error() -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        good, bad, early = make_generation(), make_generation(), make_generation()
        early.finish([BEST])

        def work() -> None:
            good.finish([BEST])
            bad.fail(ValueError("broken"))
            wake([good, bad])

        waiting = [asyncio.ensure_future(good.result()), asyncio.ensure_future(bad.result())]
        await asyncio.sleep(0)
        await loop.run_in_executor(None, work)
        results = await asyncio.gather(*waiting, early.result(), return_exceptions=True)
        assert results[0] == results[2] == [BEST]
        assert isinstance(results[1], ValueError)

    asyncio.run(run())


def test_all_that_end_together_wake_their_event_loop_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        loop, calls = asyncio.get_running_loop(), list[object]()
        original = loop.call_soon_threadsafe
        monkeypatch.setattr(loop, "call_soon_threadsafe", lambda *args: (calls.append(args), original(*args))[1])
        generations = [make_generation() for _ in range(20)]
        waiting = asyncio.gather(*(generation.result() for generation in generations))
        await asyncio.sleep(0)
        for generation in generations:
            generation.finish([BEST])
        wake(generations)
        assert await waiting == [[BEST]] * 20
        assert len(calls) == 1

    asyncio.run(run())


def test_cancelling_the_task_that_waits_cancels_the_generation() -> None:
    async def run() -> None:
        generation, told = make_generation(), list[Generation]()
        generation.watch(told.append)
        task = asyncio.ensure_future(generation.result())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert generation.ending == "cancelled" and told == [generation]

    asyncio.run(run())


def test_cancelling_from_elsewhere_raises_where_it_is_waited_for() -> None:
    async def run() -> None:
        generation = make_generation()
        task = asyncio.ensure_future(generation.result())
        await asyncio.sleep(0)
        await asyncio.get_running_loop().run_in_executor(None, generation.cancel)
        with pytest.raises(CancelledError):
            await task

    asyncio.run(run())


def test_waiting_ends_at_the_deadline_even_if_the_worker_hangs() -> None:
    async def run() -> None:
        generation = make_generation(deadline=time.monotonic() + 0.01)
        with pytest.raises(DeadlineError):
            await generation.result()
        assert generation.ending == "deadline"

    asyncio.run(run())


def test_who_watches_late_is_told_at_once() -> None:
    generation, told = make_generation(), list[Generation]()
    generation.cancel()
    generation.watch(told.append)
    assert told == [generation]
    finished = make_generation()
    finished.finish([BEST])
    finished.watch(told.append)
    assert told == [generation], "a result is not abandoned"


def test_a_closed_event_loop_disturbs_nobody() -> None:
    async def leave_waiting(generation: Generation) -> asyncio.AbstractEventLoop:
        waiting = asyncio.ensure_future(generation.result())
        await asyncio.sleep(0)
        del waiting
        return asyncio.get_running_loop()

    generation = make_generation()
    loop = asyncio.new_event_loop()
    loop.run_until_complete(leave_waiting(generation))
    pending = asyncio.all_tasks(loop)
    loop.close()
    generation.finish([BEST])
    wake([generation])
    for task in pending:
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # it was left behind on purpose
