"""The threads that work a model. They share one queue, and each has a running batch of its own.

On the CPU several threads with a step each make more of the cores than one step on all of them, and a long source holds
up only those that share its batch.
"""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from app import telemetry
from app.decoding.interface import StepModel
from app.errors import AppError, DeadlineError, DrainingError, TooLargeError
from app.serving.generation import Generation, wake
from app.serving.metrics import ModelMetrics
from app.serving.runner import Runner
from app.serving.scheduler import Scheduler

logger = logging.getLogger(__name__)

# An idle thread shows that often that it is alive.
_IDLE_BEAT_S = 1.0
# What a closing worker gives the steps that are under way; and when a client of one that stopped may come back.
_LAST_STEP_S = 5.0
# Who translates waits for one sentence; a summary takes many times as long anyway, so its threads stand back.
_NICENESS = {"translate": 0, "summarize": 10, "transcribe": 10}


class Worker:
    """Runs the generations of one model, with a thread for each of `models`, which are all the same one.

    `start` it; every other method may be called from any thread. The scheduler's `max_rows` and `max_tokens` are those
    of one thread's batch.
    """

    def __init__(
        self,
        models: Sequence[StepModel],
        scheduler: Scheduler,
        task: str,
        name: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._scheduler = scheduler
        self._metrics = ModelMetrics(task, name)
        self._name = name
        self._niceness = _NICENESS.get(task, 0)
        self._clock = clock
        self._changed = threading.Condition()  # guards the scheduler, who runs where, and the next three
        self._abandoned: dict[Runner, list[Generation]] = {}
        self._is_closing = False
        self._must_stop = False
        self._runners = [Runner(model, name, self._metrics, clock) for model in models]
        self._threads = [
            threading.Thread(target=self._run, args=(runner,), name=f"worker-{name}-{number}", daemon=True)
            for number, runner in enumerate(self._runners)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether no thread has stopped."""
        return all(thread.is_alive() for thread in self._threads)

    @property
    def heartbeat_at(self) -> float:
        """When the slowest thread last began a round, in seconds of `clock`; a step that hangs stops it."""
        return min(runner.heartbeat_at for runner in self._runners)

    @property
    def num_waiting(self) -> int:
        return len(self._scheduler)

    @property
    def num_running(self) -> int:
        return sum(len(runner.running) for runner in self._runners)

    def submit(self, generations: Sequence[Generation]) -> None:
        """Queue all of them, or none. Raises: as `Scheduler.offer` does."""
        try:
            with self._changed:
                self._scheduler.offer(generations, self._clock())
                self._metrics.waiting.set(len(self._scheduler))
                self._changed.notify(len(generations))
        except AppError as error:
            telemetry.REJECTED_TOTAL.labels(_rejection(error)).inc()
            raise
        for generation in generations:
            generation.watch(self._note_abandoned)

    def drain(self) -> None:
        """Refuse new generations from now on; those that wait and run go on."""
        with self._changed:
            self._scheduler.drain()

    def close(self, drain_s: float) -> None:
        """Refuse new generations, give the others `drain_s` to end, fail the rest, stop the threads. Blocks."""
        with self._changed:
            self._scheduler.drain()
            self._is_closing = True
            self._changed.notify_all()
        self._join(drain_s)
        with self._changed:
            self._must_stop = True
            self._changed.notify_all()
        self._join(_LAST_STEP_S)
        for runner, thread in zip(self._runners, self._threads, strict=True):
            if thread.is_alive():
                logger.error("worker hangs", extra={"model": self._name})
            else:
                self._stop(runner)  # once more: it may never have started, or died

    def _join(self, timeout_s: float) -> None:
        until = time.monotonic() + timeout_s
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, until - time.monotonic()))

    def _note_abandoned(self, generation: Generation) -> None:
        """Called by whichever thread has cancelled or expired it."""
        with self._changed:
            if self._scheduler.discard(generation):
                self._metrics.waiting.set(len(self._scheduler))
            for runner in self._runners:
                if generation in runner.running:
                    self._abandoned.setdefault(runner, []).append(generation)
                    self._changed.notify_all()
                    return
        self._metrics.count(generation)

    def _run(self, runner: Runner) -> None:
        _stand_back(self._niceness)
        while self._wait_for_work(runner):
            started_at = self._clock()
            try:
                runner.round(self._choose(runner))
            except Exception:
                # Our own bug, or a device that is gone. Whoever runs is lost; the next may have more luck.
                logger.exception("round failed", extra={"model": self._name})
                runner.lose_everyone(RuntimeError("the model's worker failed; see the log"))
            runner.tell_the_ended()
            with self._changed:
                # Threads that work at the same time share the time.
                busy_s = (self._clock() - started_at) / len(self._runners)
                self._scheduler.record(runner.num_positions, busy_s)
            runner.num_positions = 0
        self._stop(runner)

    def _wait_for_work(self, runner: Runner) -> bool:
        """Sleep until there is something to do; False when the thread has to end."""
        with self._changed:
            while True:
                runner.heartbeat_at = self._clock()
                if self._must_stop:
                    return False
                if runner.running or len(self._scheduler) or runner in self._abandoned:
                    return True
                if self._is_closing:
                    return False
                self._metrics.running.set(self.num_running)
                self._changed.wait(_IDLE_BEAT_S)

    def _choose(self, runner: Runner) -> list[Generation]:
        """Let the abandoned and the late go, and take from the queue who joins."""
        now = self._clock()
        late = [generation for generation in runner.running if generation.deadline <= now]
        with self._changed:
            late += self._scheduler.expired(now)
        for generation in late:
            generation.expire()  # comes back as abandoned, like one that a client cancelled
        with self._changed:
            abandoned = self._abandoned.pop(runner, [])
        runner.leave(abandoned)
        with self._changed:
            num_idle = sum(not other.running for other in self._runners if other is not runner)
            chosen = self._scheduler.next_jobs(runner.num_rows, runner.cost, among=1 + num_idle)
            runner.running.update(chosen)
            self._metrics.waiting.set(len(self._scheduler))
            self._metrics.running.set(self.num_running)
        for generation in chosen:
            self._metrics.queued.observe(now - generation.submitted_at)
        return [generation for generation in chosen if not generation.has_ended]

    def _stop(self, runner: Runner) -> None:
        """At the end of a thread: nobody is left without an ending."""
        with self._changed:
            abandoned = self._abandoned.pop(runner, [])
        runner.leave(abandoned)
        with self._changed:
            left = [*runner.running, *self._scheduler.clear()]
            runner.running.clear()
            self._metrics.running.set(self.num_running)
        self._fail_all(left)

    def _fail_all(self, left: Sequence[Generation]) -> None:
        error = DrainingError("the service stopped before this request was done", _LAST_STEP_S)
        ended = [generation for generation in left if generation.fail(error)]
        for generation in ended:
            self._metrics.count(generation)
        wake(ended)
        self._metrics.waiting.set(self.num_waiting)


def _stand_back(niceness: int) -> None:
    """Let other threads have the processor before this one; only Linux knows that of a single thread."""
    if niceness and sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)


def _rejection(error: AppError) -> str:
    if isinstance(error, DrainingError):
        return "draining"
    if isinstance(error, DeadlineError):
        return "deadline"
    return "too_large" if isinstance(error, TooLargeError) else "queue_full"
