"""What all searches share: groups of rows that advance together as arrays, and the history that tells their ids.

One legend: G groups (jobs), W rows a group, R = G x W rows, K candidates a row.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Container, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from app.decoding.interface import Candidates, Hypothesis, Ids, SearchOptions, Source, State, StepModel
from app.decoding.repetition import is_among, repeating_tokens
from app.errors import InputError

Flags = npt.NDArray[np.bool_]
Doubles = npt.NDArray[np.float64]
Field = tuple[str, type[np.generic]] | tuple[str, type[np.generic], tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Job:
    """One source to find a target for; `key` tells it from all others that run with it."""

    key: Hashable
    source: Source
    options: SearchOptions


@dataclass(frozen=True, slots=True)
class Finished:
    """A job's hypotheses, best first: `num_hypotheses` of them, fewer only where no more exist.

    None at all means that the model gave log-probabilities that are no numbers.
    """

    key: Hashable
    hypotheses: list[Hypothesis]


def rows_of(options: SearchOptions) -> int:
    """W: how many rows a job with these options takes."""
    return options.beam_size if options.sampling is None else options.num_hypotheses


def check_options(options: SearchOptions, model: StepModel) -> None:
    """Raises: InputError where no search could honour the options."""
    for fault in _faults(options, model):
        raise InputError(fault)


def _faults(options: SearchOptions, model: StepModel) -> Iterator[str]:
    sampling, longest = options.sampling, longest_target(options, model)
    if options.max_length < 1:
        yield f"max_length is {options.max_length}, must be at least 1"
    if not 0 <= options.min_length <= options.max_length:
        yield f"min_length is {options.min_length}, must be between 0 and max_length = {options.max_length}"
    if options.no_repeat_ngram < 0:
        yield f"no_repeat_ngram is {options.no_repeat_ngram}, must be 0 (any n-gram may repeat) or more"
    if options.beam_size < 1:
        yield f"beam_size is {options.beam_size}, must be at least 1"
    if options.num_hypotheses < 1:
        yield f"num_hypotheses is {options.num_hypotheses}, must be at least 1"
    if not 0 <= options.length_penalty < math.inf:
        yield f"length_penalty is {options.length_penalty}, must be 0 or more"
    if len(options.prefix) > longest:
        yield f"prefix has {len(options.prefix)} tokens, must not be longer than the target may be, {longest}"
    if not all(0 <= token < model.vocabulary_size and token != model.eos_id for token in options.prefix):
        yield f"prefix must hold ids from 0 to {model.vocabulary_size - 1}, and no end of sentence ({model.eos_id})"
    if sampling is None:
        if options.num_hypotheses > options.beam_size:
            yield f"num_hypotheses is {options.num_hypotheses}, must not be above beam_size = {options.beam_size}"
        return
    if options.beam_size != 1:
        yield f"beam_size is {options.beam_size}, must be 1 with sampling: the two exclude each other"
    if not 0 < sampling.temperature < math.inf:
        yield f"temperature is {sampling.temperature}, must be above 0"
    if sampling.top_k < 1:
        yield f"top_k is {sampling.top_k}, must be at least 1"
    if not 0 < sampling.top_p <= 1:
        yield f"top_p is {sampling.top_p}, must be above 0 and at most 1"


def longest_target(options: SearchOptions, model: StepModel) -> int:
    """Tokens that a target may have: the last step a row may take is kept for its end of sentence."""
    return min(options.max_length, model.max_target_length - 1)


class History:
    """The token of every row at every position, and for beams the row that it went on from.

    A group's history stays in its slot until the group ends, so nothing is copied when others join or leave.
    """

    def __init__(self, width: int) -> None:
        self.tokens = np.zeros((8, 32, width), np.int64)  # [slots, positions, W]
        self.parents = np.zeros((8, 32, width), np.int64)
        self._free = list(range(8))

    def allocate(self, prefix: Sequence[int]) -> int:
        """A free slot whose first positions hold `prefix`."""
        if not self._free:
            num_slots = len(self.tokens)
            self._grow(slots=num_slots)
            self._free = list(range(num_slots, len(self.tokens)))
        if len(prefix) > self.tokens.shape[1]:
            self._grow(positions=len(prefix))
        slot = self._free.pop()
        self.tokens[slot, : len(prefix)] = np.array(prefix, np.int64)[:, None]
        return slot

    def release(self, slot: int) -> None:
        self._free.append(slot)

    def append(self, slots: Ids, positions: Ids, tokens: Ids, parents: Ids | None = None) -> None:
        """Write `tokens` [G, W] at `positions` [G] of `slots` [G]."""
        if positions.max(initial=0) >= self.tokens.shape[1]:
            self._grow(positions=self.tokens.shape[1])
        self.tokens[slots, positions] = tokens
        if parents is not None:
            self.parents[slots, positions] = parents

    def trace(self, slot: int, length: int, row: int) -> tuple[int, ...]:
        """The ids of the row that stands at `row` after `length` tokens, following the parents back."""
        tokens, parents = self.tokens[slot, :length].tolist(), self.parents[slot, :length].tolist()
        ids = []
        for position in range(length - 1, -1, -1):
            ids.append(tokens[position][row])
            row = parents[position][row]
        return tuple(reversed(ids))

    def _grow(self, slots: int = 0, positions: int = 0) -> None:
        padding = ((0, slots), (0, positions), (0, 0))
        self.tokens, self.parents = np.pad(self.tokens, padding), np.pad(self.parents, padding)


class Lane(ABC):
    """Groups of one width that search alike. Everything about a group is one record of a structured array, so that
    joining, leaving and advancing are array operations; its job lies in `_jobs` under its slot."""

    def __init__(self, model: StepModel, width: int, fields: Sequence[Field]) -> None:
        """`fields` are the subclass's own, beside those that every group has."""
        self.width = width
        self._model = model
        self._history = History(width)
        self._jobs: dict[int, Job] = {}
        self._state: State | None = None
        self._groups: npt.NDArray[Any] = np.zeros(
            0,
            np.dtype(
                [
                    ("slot", np.int64),
                    ("length", np.int64),  # tokens so far, the begin of sentence not counted
                    ("longest", np.int64),
                    ("shortest", np.int64),
                    ("prefix", np.int64),  # tokens that are forced
                    ("no_repeat", np.int64),  # n-grams of this size may not occur twice
                    ("last", np.int64, (width,)),  # what the next step is fed
                    ("log_prob", np.float64, (width,)),
                    *fields,
                ],
                align=True,
            ),
        )
        # Steps for which some group may still be inside its prefix, or below its minimum: skips work that is rare.
        self._prefix_steps = 0
        self._shortest_steps = 0
        self._repeating: Ids | None = None  # [R, M] what no row may take in this step

    def __len__(self) -> int:
        """Groups G."""
        return len(self._groups)

    def jobs(self) -> list[Job]:
        return list(self._jobs.values())

    def join(self, jobs: Sequence[Job], state: State) -> None:
        """Let `jobs` run too; `state` is what the model's encode gave for their sources."""
        joining = np.zeros(len(jobs), self._groups.dtype)
        for group, job in zip(joining, jobs, strict=True):
            options = job.options
            group["slot"] = slot = self._history.allocate(options.prefix)
            self._jobs[slot] = job
            group["longest"] = longest_target(options, self._model)
            group["shortest"] = options.min_length
            group["prefix"] = len(options.prefix)
            group["no_repeat"] = options.no_repeat_ngram
            group["last"] = self._model.bos_id
            self._start(group, job)
            self._prefix_steps = max(self._prefix_steps, len(options.prefix))
            self._shortest_steps = max(self._shortest_steps, options.min_length)
        self._groups = np.concatenate([self._groups, joining])
        self._state = state if self._state is None else self._state.concat(state)

    def step(self) -> list[Finished]:
        """One model step for all rows."""
        assert self._state is not None, "a lane without groups was asked to step"
        fed = np.ascontiguousarray(self._groups["last"]).reshape(-1)
        self._repeating = self._find_repeating()
        num_candidates = min(self._num_candidates() + self._num_spare(), self._model.vocabulary_size)
        candidates, self._state = self._model.step(fed, self._state, num_candidates)
        finished = self._advance(candidates)
        self._prefix_steps -= 1
        self._shortest_steps -= 1
        return finished

    def drop(self, keys: Container[Hashable]) -> None:
        """Forget the jobs with these keys and free their rows."""
        is_kept = np.array([self._jobs[slot].key not in keys for slot in self._groups["slot"].tolist()], np.bool_)
        self._retain(is_kept)

    @abstractmethod
    def _taken(self) -> Ids:
        """The tokens so far [R, L] of every row whose group may not repeat n-grams; anything for the others."""

    def _find_repeating(self) -> Ids | None:
        groups = self._groups
        if not groups["no_repeat"].any():
            return None
        lengths, sizes = (np.repeat(groups[name], self.width) for name in ("length", "no_repeat"))
        return repeating_tokens(self._taken(), lengths, sizes)

    def _num_spare(self) -> int:
        """Candidates more than the search needs, so that enough are left of those that may be taken. In fours: with
        every other number the model's binding is made again."""
        return 0 if self._repeating is None else -(-self._repeating.shape[1] // 4) * 4

    def _repeats(self, ids: Ids) -> Flags | None:
        """Which of the candidates `ids` [R, K] may not be taken; the end of sentence always may. None: all may."""
        if self._repeating is None or not self._repeating.shape[1]:
            return None
        repeats: Flags = is_among(ids, self._repeating) & (ids != self._model.eos_id)
        return repeats

    @abstractmethod
    def _start(self, group: np.void, job: Job) -> None:
        """Fill the subclass's own fields of a group that joins."""

    @abstractmethod
    def _num_candidates(self) -> int:
        """K that the next step needs."""

    @abstractmethod
    def _advance(self, candidates: Candidates) -> list[Finished]:
        """Take one token for every row, let groups that are done leave, reorder the state."""

    def _retain(self, is_kept: Flags, parents: Ids | None = None) -> None:
        """Keep the groups where `is_kept` [G]; row w of a group goes on from its row `parents[g, w]`."""
        assert self._state is not None
        rows_in_place = np.arange(self.width)
        if is_kept.all():
            if parents is None or (parents == rows_in_place).all():
                return
        else:
            for slot in self._groups["slot"][~is_kept].tolist():
                self._history.release(slot)
                del self._jobs[slot]
        kept = np.flatnonzero(is_kept)
        self._groups = self._groups[kept]
        rows = kept[:, None] * self.width + (rows_in_place if parents is None else parents[kept])
        self._state = self._state.take(rows.reshape(-1)) if len(kept) else None
