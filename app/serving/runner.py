"""One thread's share of a model's work: between two steps generations leave and join, then all move by one token.

A model that fails takes no one down with it: those that ran together when it failed start again one at a time, apart
from the others, and whoever fails alone fails.
"""

import logging
from collections import deque
from collections.abc import Callable, Sequence

from app.decoding.interface import StepModel
from app.decoding.running import Finished, Job, RunningBatch, StepError, positions_of
from app.errors import AppError
from app.serving.generation import Generation, wake
from app.serving.metrics import ModelMetrics

logger = logging.getLogger(__name__)


class Runner:
    """Works off the generations given to it; one thread calls its methods.

    `running` is everyone it has, suspects too. `num_positions` counts what it read or stepped, the unit of cost.
    `heartbeat_at` is when its thread last began a round.
    """

    def __init__(self, model: StepModel, name: str, metrics: ModelMetrics, clock: Callable[[], float]) -> None:
        self.running: set[Generation] = set()
        self.num_positions = 0
        self.heartbeat_at = clock()
        self._model = model
        self._name = name
        self._metrics = metrics
        self._clock = clock
        self._batch = RunningBatch(model)
        self._suspects: deque[Generation] = deque()
        self._suspect_batch = RunningBatch(model)  # at most one suspect, alone
        self._ended: list[Generation] = []  # in this round
        self._fresh: list[Generation] = []  # without a token yet

    @property
    def num_rows(self) -> int:
        return sum(generation.num_rows for generation in self.running)

    @property
    def cost(self) -> int:
        return sum(generation.cost for generation in self.running)

    def round(self, joining: list[Generation]) -> None:
        """Let `joining`, which are among `running`, join, and take a step."""
        self._admit(joining)
        self._try_a_suspect()
        if self._batch.num_jobs:
            self._step(self._batch)
        if self._suspect_batch.num_jobs:
            self._step(self._suspect_batch)

    def leave(self, generations: Sequence[Generation]) -> None:
        """Free the rows of generations that have ended by themselves."""
        if not generations:
            return
        for generation in generations:
            self.running.discard(generation)
            self._metrics.count(generation)
        self._suspects = deque(generation for generation in self._suspects if not generation.has_ended)
        self._fresh = [generation for generation in self._fresh if not generation.has_ended]
        self._batch.drop(generations)
        self._suspect_batch.drop(generations)

    def lose_everyone(self, error: Exception) -> None:
        """Fail whoever runs, and begin anew."""
        for generation in list(self.running):
            self._fail(generation, error)
        self._suspects.clear()
        self._fresh.clear()
        self._batch, self._suspect_batch = RunningBatch(self._model), RunningBatch(self._model)

    def tell_the_ended(self) -> None:
        """Wake those who wait for what has ended since the last call."""
        ended, self._ended = self._ended, []
        wake(ended)

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
        lengths = [positions_of(generation.source) for generation in joining]
        self.num_positions += sum(lengths)
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
            self.num_positions += num_rows
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
        self.running.discard(generation)
        if generation.finish(finished.hypotheses):
            self._metrics.generated.inc(sum(len(hypothesis.ids) for hypothesis in finished.hypotheses))
            self._end(generation)

    def _fail(self, generation: Generation, error: BaseException) -> None:
        if not isinstance(error, AppError):
            logger.error("generation failed", extra={"model": self._name}, exc_info=error)
        self.running.discard(generation)
        if generation.fail(error if isinstance(error, Exception) else RuntimeError(repr(error))):
            self._end(generation)

    def _end(self, generation: Generation) -> None:
        self._metrics.count(generation)
        self._ended.append(generation)


def _generation(job: Job) -> Generation:
    assert isinstance(job.key, Generation)
    return job.key
