"""Greedy search: every row takes its best candidate."""

from collections.abc import Sequence

import numpy as np

from app.decoding.interface import Candidates, Hypothesis, Ids, StepModel
from app.decoding.lane import Doubles, Field, Finished, Flags, Job, Lane, Path


class GreedyLane(Lane):
    """Rows that go straight on, each by itself: no row takes over another's past."""

    def __init__(self, model: StepModel, width: int = 1, fields: Sequence[Field] = ()) -> None:
        super().__init__(model, width, [("is_open", np.bool_, (width,)), *fields])

    def _start(self, group: np.void, job: Job) -> None:
        group["is_open"] = True

    def _num_candidates(self) -> int:
        return 2 if self._shortest_steps > 0 else 1

    def _pick(self, candidates: Candidates, is_forbidden: Flags | None) -> tuple[Ids, Doubles]:
        """The next token of every row and its log-probability, both [R]; `is_forbidden` [R, K] may not be taken."""
        if is_forbidden is None:
            return candidates.ids[:, 0], candidates.log_probs[:, 0].astype(np.float64)
        best, rows = is_forbidden.argmin(axis=1), np.arange(len(candidates.ids))
        return candidates.ids[rows, best], candidates.log_probs[rows, best].astype(np.float64)

    def _taken(self) -> Ids:
        slots, length = self._groups["slot"], int(self._groups["length"].max(initial=0))
        return self._history.tokens[slots, :length].transpose(0, 2, 1).reshape(len(self) * self.width, length)

    def _forbidden(self, candidates: Candidates) -> Flags | None:
        """Ends of sentence of rows below their minimum, and what no row may take [R, K], or None where all may be.

        Where all candidates are forbidden the best is taken: there is no other token in the vocabulary.
        """
        repeats = self._is_forbidden(candidates.ids)
        if self._shortest_steps <= 0:
            return repeats
        is_short = np.repeat(self._groups["length"] < self._groups["shortest"], self.width)
        forbidden: Flags = (candidates.ids == self._model.eos_id) & is_short[:, None]
        return forbidden if repeats is None else forbidden | repeats

    def _advance(self, candidates: Candidates) -> list[Finished]:
        groups, length = self._groups, self._groups["length"]
        picked, picked_log_probs = self._pick(candidates, self._forbidden(candidates))
        ids, log_probs = picked.reshape(-1, self.width), picked_log_probs.reshape(-1, self.width)
        if self._prefix_steps > 0:
            is_forced = (length < groups["prefix"])[:, None]
            forced = self._history.tokens[groups["slot"], np.minimum(length, self._history.tokens.shape[1] - 1)]
            ids, log_probs = np.where(is_forced, forced, ids), np.where(is_forced, 0.0, log_probs)
        is_end = ids == self._model.eos_id
        is_full = length >= groups["longest"]
        is_open = groups["is_open"]
        # A token over the limit is not taken; the end of sentence still is.
        counts = is_open & (is_end | ~is_full[:, None])
        groups["log_prob"] += np.where(counts, log_probs, 0.0)
        self._note_step(candidates, groups["log_prob"])
        is_open &= ~is_end
        groups["last"] = np.where(is_open, ids, self._model.eos_id)
        self._history.append(groups["slot"], length, groups["last"])
        is_done = is_full | ~is_open.any(axis=1)
        done = np.flatnonzero(is_done).tolist()
        finished = [self._finish(groups[index]) for index in done]
        length += 1
        if done:
            self._retain(~is_done)
        return finished

    def _finish(self, group: np.void) -> Finished:
        hypotheses = [self._of_row(group, row) for row in range(self.width)]
        key = self._jobs[int(group["slot"])].key
        return Finished(key, sorted(hypotheses, key=lambda hypothesis: hypothesis.score, reverse=True))

    def _of_row(self, group: np.void, row: int) -> Hypothesis:
        slot, length, has_end = int(group["slot"]), int(group["length"]), not group["is_open"][row]
        ids = self._history.tokens[slot, : length + 1, row].tolist()
        ids = ids[: ids.index(self._model.eos_id) if has_end else length]
        return self._hypothesis(slot, Path(ids, [row] * (len(ids) + 1)), float(group["log_prob"][row]), has_end=has_end)
