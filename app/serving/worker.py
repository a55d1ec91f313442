"""The thread that works a model: between two steps it lets generations leave and join, then it moves all by one token.

A model that fails takes no one down with it: those that ran together when it failed start again one at a time, apart
from the others, and whoever fails alone fails.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from app import telemetry
from app.decoding.interface import StepModel
from app.decoding.running import Finished, Job, RunningBatch, StepError
from app.errors import AppError, DeadlineError, DrainingError, TooLargeError
from app.serving.generation import Ending, Generation, wake
from app.serving.scheduler import Scheduler

logger = logging.getLogger(__name__)

# An idle thread shows that often that it is alive.
_IDLE_BEAT_S = 1.0
# What a closing worker gives a step that is under way; and when a client of one that stopped may come back.
_LAST_STEP_S = 5.0


class Worker:
    """Runs the generations of one model. `start` it; every other method may be called from any thread.

    `heartbeat_at` is when the thread last began a round, in seconds of `clock`; a step that hangs stops it.
    """

    def __init__(
        self,
        model: StepModel,
        scheduler: Scheduler,
        task: str,
        name: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.heartbeat_at = clock()
        self.num_failures_in_a_row = 0
        self._model = model
        self._scheduler = scheduler
        self._metrics = _Metrics(task, name)
        self._name = name
        self._clock = clock
        self._changed = threading.Condition()  # guards the scheduler and the next three
        self._abandoned: list[Generation] = []
        self._is_closing = False
        self._must_stop = False
        self._thread = threading.Thread(target=self._run, name=f"worker-{name}", daemon=True)
        # The thread's own:
        self._batch = RunningBatch(model)
        self._running: set[Generation] = set()  # suspects too
        self._suspects: deque[Generation] = deque()
        self._suspect_batch = RunningBatch(model)  # at most one suspect, alone
        self._ended: list[Generation] = []  # in this round
        self._num_positions = 0  # read or stepped in this round, the unit of cost
        self._fresh: list[Generation] = []  # without a token yet

    def start(self) -> None:
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def num_waiting(self) -> int:
        return len(self._scheduler)

    @property
    def num_running(self) -> int:
        return len(self._running)

    def submit(self, generations: Sequence[Generation]) -> None:
        """Queue all of them, or none. Raises: as `Scheduler.offer` does."""
        try:
            with self._changed:
                self._scheduler.offer(generations, self._clock())
                self._metrics.waiting.set(len(self._scheduler))
                self._changed.notify_all()
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
        """Refuse new generations, give the others `drain_s` to end, fail the rest, stop the thread. Blocks."""
        with self._changed:
            self._scheduler.drain()
            self._is_closing = True
            self._changed.notify_all()
        if not self._thread.is_alive():
            self._fail_everyone()
            return
        self._thread.join(drain_s)
        with self._changed:
            self._must_stop = True
            self._changed.notify_all()
        self._thread.join(_LAST_STEP_S)
        if self._thread.is_alive():
            logger.error("worker hangs", extra={"model": self._name})

    def _note_abandoned(self, generation: Generation) -> None:
        with self._changed:
            self._abandoned.append(generation)
            self._changed.notify_all()

    def _run(self) -> None:
        while self._wait_for_work():
            started_at = self._clock()
            try:
                self._round()
            except Exception:
                # Our own bug, or a device that is gone. Whoever runs is lost; the next may have more luck.
                logger.exception("round failed", extra={"model": self._name})
                self._lose_everyone()
            self._tell_the_ended()
            with self._changed:
                self._scheduler.record(self._num_positions, self._clock() - started_at)
            self._num_positions = 0
        self._fail_everyone()

    def _wait_for_work(self) -> bool:
        """Sleep until there is something to do; False when the thread has to end."""
        with self._changed:
            while True:
                self.heartbeat_at = self._clock()
                if self._must_stop:
                    return False
                if self._running or len(self._scheduler) or self._abandoned:
                    return True
                if self._is_closing:
                    return False
                self._changed.wait(_IDLE_BEAT_S)

    def _round(self) -> None:
        self._admit(self._choose())
        self._try_a_suspect()
        if self._batch.num_jobs:
            self._step(self._batch)
        if self._suspect_batch.num_jobs:
            self._step(self._suspect_batch)

    def _choose(self) -> list[Generation]:
        """Let the abandoned and the late go, and take from the queue who joins."""
        now = self._clock()
        late = [generation for generation in self._running if generation.deadline <= now]
        with self._changed:
            late += self._scheduler.expired(now)
        for generation in late:
            generation.expire()  # comes back as abandoned, like one that a client cancelled
        with self._changed:
            abandoned, self._abandoned = self._abandoned, []
            for generation in abandoned:
                self._scheduler.discard(generation)
        self._leave(abandoned)
        num_rows = sum(generation.num_rows for generation in self._running)
        cost = sum(generation.cost for generation in self._running)
        with self._changed:
            chosen = self._scheduler.next_jobs(num_rows, cost)
            self._metrics.waiting.set(len(self._scheduler))
        for generation in chosen:
            self._metrics.queued.observe(now - generation.submitted_at)
        self._running.update(chosen)
        self._metrics.running.set(len(self._running))
        return [generation for generation in chosen if not generation.has_ended]

    def _leave(self, generations: Sequence[Generation]) -> None:
        """Free the rows of generations that have ended by themselves."""
        if not generations:
            return
        for generation in generations:
            self._running.discard(generation)
            self._metrics.count(generation)
        self._suspects = deque(generation for generation in self._suspects if not generation.has_ended)
        self._fresh = [generation for generation in self._fresh if not generation.has_ended]
        self._batch.drop(generations)
        self._suspect_batch.drop(generations)

    def _admit(self, joining: list[Generation]) -> None:
        if not joining:
            return
        try:
            self._encode(self._batch, joining)
        except StepError as error:
            self._suspect(error)
        except Exception as error:
            if len(joining) > 1:
                # Nobody has joined. One by one, those whose sources can be read do.
                for generation in joining:
                    self._admit([generation])
                return
            self._fail(joining[0], error)
            return
        self._fresh += joining

    def _encode(self, batch: RunningBatch, joining: Sequence[Generation]) -> None:
        started_at = self._clock()
        batch.admit([Job(generation, generation.source, generation.options) for generation in joining])
        lengths = [len(generation.source) for generation in joining]
        self._num_positions += sum(lengths)
        self._metrics.encoded(lengths, self._clock() - started_at)

    def _try_a_suspect(self) -> None:
        if not self._suspects or self._suspect_batch.num_jobs:
            return
        suspect = self._suspects.popleft()
        try:
            self._encode(self._suspect_batch, [suspect])
        except Exception as error:
            self._suspect_batch = RunningBatch(self._model)
            self._fail(suspect, error)

    def _step(self, batch: RunningBatch) -> None:
        num_rows, started_at = batch.num_rows, self._clock()
        try:
            finished = batch.step()
        except StepError as error:
            finished = error.finished
            if batch is self._batch:
                self._suspect(error)
            else:
                for job in error.jobs:
                    self._fail(_generation(job), error.__cause__ or error)
        else:
            self.num_failures_in_a_row = 0
            self._num_positions += num_rows
            self._metrics.stepped(num_rows, self._clock() - started_at)
            self._note_first_tokens()
        for one in finished:
            self._finish(one)

    def _suspect(self, error: StepError) -> None:
        """Who ran together when the model failed starts again, each alone."""
        logger.error("step failed", extra={"model": self._name, "jobs": len(error.jobs)}, exc_info=error)
        self._suspects.extend(_generation(job) for job in error.jobs)

    def _note_first_tokens(self) -> None:
        if self._fresh:
            now = self._clock()
            for generation in self._fresh:
                self._metrics.first_token.observe(now - generation.submitted_at)
            self._fresh = []

    def _finish(self, finished: Finished) -> None:
        generation = finished.key
        assert isinstance(generation, Generation)
        if not finished.hypotheses:
            self._fail(generation, ArithmeticError("the model gave log-probabilities that are no numbers"))
            return
        self._running.discard(generation)
        if generation.finish(finished.hypotheses):
            self._metrics.generated.inc(sum(len(hypothesis.ids) for hypothesis in finished.hypotheses))
            self._end(generation)

    def _fail(self, generation: Generation, error: BaseException) -> None:
        if not isinstance(error, AppError):
            self.num_failures_in_a_row += 1
            logger.error("generation failed", extra={"model": self._name}, exc_info=error)
        self._running.discard(generation)
        if generation.fail(error if isinstance(error, Exception) else RuntimeError(repr(error))):
            self._end(generation)

    def _end(self, generation: Generation) -> None:
        self._metrics.count(generation)
        self._ended.append(generation)

    def _tell_the_ended(self) -> None:
        ended, self._ended = self._ended, []
        wake(ended)

    def _lose_everyone(self) -> None:
        for generation in list(self._running):
            self._fail(generation, RuntimeError("the model's worker failed; see the log"))
        self._suspects.clear()
        self._fresh.clear()
        self._batch, self._suspect_batch = RunningBatch(self._model), RunningBatch(self._model)

    def _fail_everyone(self) -> None:
        """At the end of the thread: nobody is left without an ending."""
        with self._changed:
            left = [*self._running, *self._scheduler.clear()]
        self._running.clear()
        for generation in left:
            if generation.fail(DrainingError("the service stopped before this request was done", _LAST_STEP_S)):
                self._end(generation)
        self._tell_the_ended()
        self._metrics.waiting.set(0)
        self._metrics.running.set(0)


def _generation(job: Job) -> Generation:
    assert isinstance(job.key, Generation)
    return job.key


def _rejection(error: AppError) -> str:
    if isinstance(error, DrainingError):
        return "draining"
    if isinstance(error, DeadlineError):
        return "deadline"
    return "too_large" if isinstance(error, TooLargeError) else "queue_full"


class _Metrics:
    """The metrics of one model, their labels resolved once."""

    def __init__(self, task: str, model: str) -> None:
        self.waiting = telemetry.QUEUE_REQUESTS.labels(task, model)
        self.running = telemetry.REQUESTS_IN_PROGRESS.labels(task, model)
        self.queued = telemetry.QUEUE_DURATION_SECONDS.labels(task, model)
        self.first_token = telemetry.TIME_TO_FIRST_TOKEN_SECONDS.labels(model)
        self.generated = telemetry.TOKENS_TOTAL.labels(model, "generated")
        self._source = telemetry.TOKENS_TOTAL.labels(model, "source")
        self._padded = telemetry.TOKENS_TOTAL.labels(model, "padded")
        self._encode_s = telemetry.STAGE_DURATION_SECONDS.labels(model, "encode")
        self._decode_s = telemetry.STAGE_DURATION_SECONDS.labels(model, "decode")
        self._encode_size = telemetry.BATCH_SIZE.labels(model, "encode")
        self._step_size = telemetry.BATCH_SIZE.labels(model, "step")
        self._encode_tokens = telemetry.BATCH_TOKENS.labels(model, "encode")
        self._padding = telemetry.PADDING_RATIO.labels(model, "encode")
        endings: tuple[Ending, ...] = ("stop", "length", "error", "cancelled", "deadline")
        self._endings = {ending: telemetry.REQUESTS_FINISHED_TOTAL.labels(model, ending) for ending in endings}

    def encoded(self, lengths: list[int], duration_s: float) -> None:
        real, padded = sum(lengths), len(lengths) * max(lengths)
        self._encode_s.observe(duration_s)
        self._encode_size.observe(len(lengths))
        self._encode_tokens.observe(real)
        self._padding.observe(1 - real / max(padded, 1))
        self._source.inc(real)
        self._padded.inc(padded - real)

    def stepped(self, num_rows: int, duration_s: float) -> None:
        self._decode_s.observe(duration_s)
        self._step_size.observe(num_rows)

    def count(self, generation: Generation) -> None:
        if generation.ending is not None:
            self._endings[generation.ending].inc()
