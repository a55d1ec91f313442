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

from app.decoding.interface import Candidates, Floats, Hypothesis, Ids, SearchOptions, Source, State, StepModel
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
    if longest < 1 <= options.max_length:
        yield f"before has {len(options.before)} tokens, the model takes {model.max_target_length} in all"
    if len(options.prefix) + bool(options.first_choices) > longest:
        yield f"prefix has {len(options.prefix)} tokens, must not be longer than the target may be, {longest}"
    for name, ids in (("prefix", options.prefix), ("before", options.before)):
        if not all(0 <= token < model.vocabulary_size and token != model.eos_id for token in ids):
            yield f"{name} must hold ids from 0 to {model.vocabulary_size - 1}, and no end of sentence ({model.eos_id})"
    if options.first_choices and not set(options.first_choices) <= set(model.probes.ids):
        yield f"first_choices are {options.first_choices}, must be among the model's probes {model.probes.ids}"
    if options.needs_attention and not model.num_alignment_heads:
        yield "needs_attention is set, but the model tells no attention"
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
    return min(options.max_length, model.max_target_length - 1 - len(options.before))


def forced_tokens(options: SearchOptions, bos_id: int) -> list[int]:
    """What a row is made to take, from its first step on. 0 stands where the first choice will be."""
    return [*(*options.before, bos_id)[1:], *([0] if options.first_choices else []), *options.prefix]


@dataclass(frozen=True, slots=True)
class Path:
    """The ids that a hypothesis took, and the row that it stood at before each of them, and after the last."""

    ids: list[int]
    rows: list[int]


@dataclass(frozen=True, slots=True)
class Notes:
    """What a job that needs attention keeps of every step: attention [W, A, S] that its rows chose with, and their
    log-probabilities [W] after it."""

    attention: list[Floats]
    totals: list[Doubles]

    def along(self, path: Path, num_skipped: int, has_end: bool) -> tuple[tuple[float, ...], Floats]:
        """The log-probability of each id of `path` behind the first `num_skipped`, and the attention [T, A, S] that it
        was chosen with; that of the end of sentence too."""
        totals = [0.0] + [float(self.totals[step][row]) for step, row in enumerate(path.rows[1:])]
        rows = path.rows if has_end else path.rows[:-1]
        attention = [self.attention[step][row] for step, row in enumerate(rows)]
        return tuple(np.diff(totals)[num_skipped:].tolist()), np.stack(attention[num_skipped:])


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

    def trace(self, slot: int, length: int, row: int) -> "Path":
        """The way of the row that stands at `row` after `length` tokens, following the parents back."""
        tokens, parents = self.tokens[slot, :length].tolist(), self.parents[slot, :length].tolist()
        ids, rows = [], [row]
        for position in range(length - 1, -1, -1):
            ids.append(tokens[position][row])
            row = parents[position][row]
            rows.append(row)
        return Path(ids[::-1], rows[::-1])

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
                    ("length", np.int64),  # tokens so far, that which the first step is fed not counted
                    ("lead", np.int64),  # of these are before the target
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
        # Steps for which some group may still be inside its prefix, at or before its first choice or below its
        # minimum: skips work that is rare.
        self._prefix_steps = 0
        self._opening_steps = 0
        self._shortest_steps = 0
        self._forbidden_ids: Ids | None = None  # [R, M] what no row may take in this step
        self._notes: dict[int, Notes] = {}  # of the slots whose jobs need attention
        self._first_log_probs: dict[int, Floats] = {}  # [P] of the slots that have passed their begin of sentence

    def __len__(self) -> int:
        """Groups G."""
        return len(self._groups)

    def jobs(self) -> list[Job]:
        return list(self._jobs.values())

    def join(self, jobs: Sequence[Job], state: State) -> None:
        """Let `jobs` run too; `state` is what the model's encode gave for their sources."""
        joining = np.zeros(len(jobs), self._groups.dtype)
        for group, job in zip(joining, jobs, strict=True):
            options, lead = job.options, len(job.options.before)
            forced = forced_tokens(options, self._model.bos_id)
            group["slot"] = slot = self._history.allocate(forced)
            self._jobs[slot] = job
            group["lead"] = lead
            group["longest"] = lead + longest_target(options, self._model)
            group["shortest"] = lead + options.min_length
            group["prefix"] = len(forced)
            group["no_repeat"] = options.no_repeat_ngram
            group["last"] = options.before[0] if options.before else self._model.bos_id
            self._start(group, job)
            if options.needs_attention:
                self._notes[slot] = Notes([], [])
            self._prefix_steps = max(self._prefix_steps, len(forced))
            if options.suppressed_first or self._model.probes.ids:
                self._opening_steps = max(self._opening_steps, len(forced) + 1)
            if options.min_length:
                self._shortest_steps = max(self._shortest_steps, lead + options.min_length)
        self._groups = np.concatenate([self._groups, joining])
        self._state = state if self._state is None else self._state.concat(state)

    def step(self) -> list[Finished]:
        """One model step for all rows."""
        assert self._state is not None, "a lane without groups was asked to step"
        fed = np.ascontiguousarray(self._groups["last"]).reshape(-1)
        self._forbidden_ids = self._find_forbidden()
        num_candidates = min(self._num_candidates() + self._num_spare(), self._model.vocabulary_size)
        needs_attention = bool(self._notes)
        candidates, self._state = self._model.step(fed, self._state, num_candidates, needs_attention=needs_attention)
        if self._opening_steps > 0 and candidates.probes is not None:
            self._note_probes(candidates.probes)
        finished = self._advance(candidates)
        self._prefix_steps -= 1
        self._opening_steps -= 1
        self._shortest_steps -= 1
        return finished

    def drop(self, keys: Container[Hashable]) -> None:
        """Forget the jobs with these keys and free their rows."""
        is_kept = np.array([self._jobs[slot].key not in keys for slot in self._groups["slot"].tolist()], np.bool_)
        self._retain(is_kept)

    @abstractmethod
    def _taken(self) -> Ids:
        """The tokens so far [R, L] of every row whose group may not repeat n-grams; anything for the others."""

    def _find_forbidden(self) -> Ids | None:
        """Repeated n-grams, of which the end of sentence is none, and what may not come first; -1 is no token."""
        groups, found = self._groups, []
        if np.count_nonzero(groups["no_repeat"]):
            lengths, sizes = (np.repeat(groups[name], self.width) for name in ("length", "no_repeat"))
            repeating = repeating_tokens(self._taken(), lengths, sizes)
            found.append(np.where(repeating == self._model.eos_id, -1, repeating))
        if self._opening_steps > 0:
            found += self._suppressed_first()
        return np.concatenate(found, axis=1) if found else None

    def _suppressed_first(self) -> list[Ids]:
        """What the rows of groups that have just taken their prefix may not take: [R, M], if there are any."""
        starting = np.flatnonzero(self._groups["length"] == self._groups["prefix"]).tolist()
        suppressed = {
            group: self._jobs[slot].options.suppressed_first
            for group, slot in zip(starting, self._groups["slot"][starting].tolist(), strict=True)
        }
        most = max(map(len, suppressed.values()), default=0)
        if not most:
            return []
        tokens = np.full((len(self), most), -1, np.int64)
        for group, ids in suppressed.items():
            tokens[group, : len(ids)] = ids
        return [np.repeat(tokens, self.width, axis=0)]

    def _num_spare(self) -> int:
        """Candidates more than the search needs, so that enough are left of those that may be taken. In fours: with
        every other number the model's binding is made again."""
        return 0 if self._forbidden_ids is None else -(-self._forbidden_ids.shape[1] // 4) * 4

    def _is_forbidden(self, ids: Ids) -> Flags | None:
        """Which of the candidates `ids` [R, K] may not be taken. None: all may."""
        if self._forbidden_ids is None or not self._forbidden_ids.shape[1]:
            return None
        return is_among(ids, self._forbidden_ids)

    def _note_probes(self, probes: Floats) -> None:
        """Keep the probes [R, P] of groups that were fed their begin of sentence, and take their first choice."""
        columns = {token: column for column, token in enumerate(self._model.probes.ids)}
        for index in np.flatnonzero(self._groups["length"] == self._groups["lead"]).tolist():
            slot, first = int(self._groups["slot"][index]), index * self.width
            found = self._model.probes.unsuppressed(probes[first])
            self._first_log_probs[slot] = found
            options = self._jobs[slot].options
            if options.first_choices:
                best = max(options.first_choices, key=lambda token: found[columns[token]])
                self._history.tokens[slot, len(options.before)] = best

    def _note_step(self, candidates: Candidates, totals: Doubles) -> None:
        """Keep, for jobs that need it, the attention of this step, and `totals` [G, W], the rows' log-probabilities
        after it."""
        if not self._notes:
            return
        assert candidates.attention is not None
        for index, slot in enumerate(self._groups["slot"].tolist()):
            if slot in self._notes:
                rows = slice(index * self.width, (index + 1) * self.width)
                self._notes[slot].attention.append(candidates.attention[rows].copy())
                self._notes[slot].totals.append(totals[index].copy())

    def _hypothesis(self, slot: int, path: Path, log_prob: float, *, has_end: bool) -> Hypothesis:
        """What a row has come to on its `path`; `has_end` where it met its end of sentence."""
        options = self._jobs[slot].options
        lead = len(options.before)
        length = len(path.ids) - lead + has_end
        token_log_probs: tuple[float, ...] = ()
        attention = None
        if slot in self._notes:
            token_log_probs, attention = self._notes[slot].along(path, lead, has_end)
        return Hypothesis(
            tuple(path.ids[lead:]),
            log_prob,
            log_prob / max(length, 1) ** options.length_penalty,
            "stop" if has_end else "length",
            token_log_probs,
            attention,
            self._first_log_probs.get(slot),
        )

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
        rows_in_place, first_rows = np.arange(self.width), np.arange(0, len(self) * self.width, self.width)[:, None]
        rows = first_rows + (rows_in_place if parents is None else parents)
        if np.count_nonzero(is_kept) == len(is_kept):
            if parents is not None and np.count_nonzero(parents != rows_in_place):
                self._state = self._state.take(rows.reshape(-1))
            return
        for slot in self._groups["slot"][~is_kept].tolist():
            self._history.release(slot)
            del self._jobs[slot]
            self._notes.pop(slot, None)
            self._first_log_probs.pop(slot, None)
        self._groups = self._groups[is_kept]
        self._state = self._state.take(rows[is_kept].reshape(-1)) if len(self) else None
