"""The running batch: jobs join and leave between any two steps, and one step moves them all.

Offline decoding (`generate`) is the same thing with all jobs waiting at the start.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Literal

import numpy as np

from app.decoding.beam import BeamLane
from app.decoding.greedy import GreedyLane
from app.decoding.interface import Hypothesis, SearchOptions, Source, StepModel
from app.decoding.lane import Finished, Job, Lane, check_options, rows_of
from app.decoding.sampling import SamplingLane

__all__ = ["Finished", "Job", "RunningBatch", "StepError", "check_options", "generate", "positions_of", "rows_of"]

LaneKind = Literal["greedy", "beam", "sampling"]
# Sources share a lane only within these classes of length, because memory is padded to the longest of the lane: a
# document would make every sentence beside it pay for its length.
_LENGTH_CLASSES = (128, 512, 2048, 8192)
# Sources are read together down to this share of the longest one's length.
_SIMILAR = 0.75


class StepError(Exception):
    """The model failed in one lane. Its `jobs` are gone; `finished` had ended elsewhere in the same step."""

    def __init__(self, jobs: list[Job], finished: list[Finished]) -> None:
        super().__init__(f"a step failed for {len(jobs)} jobs that ran together")
        self.jobs = jobs
        self.finished = finished


class RunningBatch:
    """All jobs that one model works on. Rows of one kind, width and length class form a lane and step together."""

    def __init__(self, model: StepModel) -> None:
        self._model = model
        self._lanes: dict[tuple[LaneKind, int, int], Lane] = {}

    @property
    def num_rows(self) -> int:
        return sum(len(lane) * lane.width for lane in self._lanes.values())

    @property
    def num_jobs(self) -> int:
        return sum(len(lane) for lane in self._lanes.values())

    def admit(self, jobs: Sequence[Job]) -> None:
        """Read the sources of `jobs`, those of a lane together, and let them run with the others.

        Raises: InputError for options that can not be honoured and whatever the model raises on these sources; then
        none of `jobs` runs and the others are untouched. StepError where joining broke a lane: who does not run.
        """
        for job in jobs:
            check_options(job.options, self._model)
        arrivals: dict[tuple[LaneKind, int, int], list[Job]] = {}
        for job in jobs:
            arrivals.setdefault(_lane_of(job), []).append(job)
        encoded = [
            (place, alike, self._model.encode([job.source for job in alike], place[1]))
            for place, arriving in arrivals.items()
            for alike in _of_similar_length(arriving)
        ]
        outside = {id(job): job for job in jobs}
        for place, joining, state in encoded:
            lane = self._lanes.pop(place, None) or self._new_lane(place)
            running = lane.jobs()
            try:
                lane.join(joining, state)
            except Exception as error:
                raise StepError([*running, *outside.values()], []) from error
            self._lanes[place] = lane
            for job in joining:
                del outside[id(job)]

    def step(self) -> list[Finished]:
        """One model step for all rows; the jobs that ended with it.

        Raises: StepError where the model failed in a lane; the lanes before it have stepped, the others not yet.
        """
        finished: list[Finished] = []
        for place, lane in list(self._lanes.items()):
            jobs = lane.jobs()
            try:
                finished += lane.step()
            except Exception as error:
                del self._lanes[place]
                raise StepError(jobs, finished) from error
            if not len(lane):
                del self._lanes[place]
        return finished

    def drop(self, keys: Iterable[Hashable]) -> None:
        """Stop the jobs with these keys and free their rows; unknown keys are passed over."""
        dropped = frozenset(keys)
        for place, lane in list(self._lanes.items()):
            lane.drop(dropped)
            if not len(lane):
                del self._lanes[place]

    def _new_lane(self, place: tuple[LaneKind, int, int]) -> Lane:
        kind, width, _ = place
        if kind == "greedy":
            return GreedyLane(self._model)
        return BeamLane(self._model, width) if kind == "beam" else SamplingLane(self._model, width)


def positions_of(source: Source) -> int:
    """What a source takes of the memory: of ids [S] all, of frames [F, M] every second one has a position."""
    return len(source) if np.ndim(source) == 1 else -(-len(source) // 2)


def generate(
    model: StepModel,
    sources: Sequence[Source],
    options: SearchOptions | Sequence[SearchOptions],
    max_rows: int = 128,
    max_tokens: int = 8192,
    on_finished: Callable[[int], None] | None = None,
) -> list[list[Hypothesis]]:
    """Decode all `sources` and give each one's hypotheses, best first, in the order of the sources.

    The longest go first, and others follow as rows end: at any time at most `max_rows` rows run, on sources of together
    at most `max_tokens` padded positions (a source over either limit runs alone). `on_finished` is told how many
    sources have just ended.
    """
    each = [options] * len(sources) if isinstance(options, SearchOptions) else list(options)
    if len(each) != len(sources):
        raise ValueError(f"{len(sources)} sources with {len(each)} options; give one for all or one for each")
    batch, results = RunningBatch(model), dict[int, list[Hypothesis]]()
    waiting = sorted(range(len(sources)), key=lambda index: len(sources[index]))  # the next is the last
    running: set[int] = set()
    while waiting or running:
        # Joining copies state: let a part of the batch end first, then refill it in one go.
        if batch.num_rows <= max_rows * 3 // 4:
            joining = _joining(waiting, sources, each, running, max_rows - batch.num_rows, max_tokens)
            batch.admit([Job(index, sources[index], each[index]) for index in joining])
            running.update(joining)
        ended = batch.step()
        for finished in ended:
            assert isinstance(finished.key, int)
            running.discard(finished.key)
            results[finished.key] = finished.hypotheses
        if ended and on_finished is not None:
            on_finished(len(ended))
    return [results[index] for index in range(len(sources))]


def _joining(
    waiting: list[int],
    sources: Sequence[Source],
    options: Sequence[SearchOptions],
    running: set[int],
    free_rows: int,
    max_tokens: int,
) -> list[int]:
    """Take from the end of `waiting` what fits."""
    joining: list[int] = []
    longest = max((positions_of(sources[index]) for index in running), default=0)
    while waiting:
        index = waiting[-1]
        free_rows -= rows_of(options[index])
        longest = max(longest, positions_of(sources[index]))
        fits = free_rows >= 0 and (len(running) + len(joining) + 1) * longest <= max_tokens
        if not fits and (running or joining):
            break
        joining.append(waiting.pop())
    return joining


def _of_similar_length(jobs: Sequence[Job]) -> list[list[Job]]:
    """Cut `jobs` into those that are read together, longest first: padding a source costs as much as reading it."""
    groups: list[list[Job]] = []
    for job in sorted(jobs, key=lambda job: len(job.source), reverse=True):
        if groups and len(job.source) >= _SIMILAR * len(groups[-1][0].source):
            groups[-1].append(job)
        else:
            groups.append([job])
    return groups


def _lane_of(job: Job) -> tuple[LaneKind, int, int]:
    width, length = rows_of(job.options), len(job.source)
    length_class = sum(length > limit for limit in _LENGTH_CLASSES)
    if job.options.sampling is not None:
        return "sampling", width, length_class
    return ("greedy" if width == 1 else "beam"), width, length_class
