"""Sampling: every row draws its next token, from a random stream of its own."""

from typing import Any

import numpy as np
import numpy.typing as npt

from app.decoding.greedy import GreedyLane
from app.decoding.interface import Candidates, Ids, StepModel
from app.decoding.lane import Doubles, Flags, Job

# SplitMix64 (Steele, Lea and Flood 2014): the number at a position needs none before it, so rows hold no generator
# and a draw depends on nothing but seed, row and position.
_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def _mix(bits: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def uniform(streams: npt.NDArray[np.uint64], positions: npt.NDArray[Any]) -> Doubles:
    """The number in [0, 1) that each stream has at a position."""
    bits = _mix(streams + (positions.astype(np.uint64) + np.uint64(1)) * _GAMMA)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def streams_of(seed: int, width: int) -> npt.NDArray[np.uint64]:
    """The streams [W] of a group's rows."""
    start = _mix(np.full(1, seed % 2**64, np.uint64) + _GAMMA)
    return _mix(start + np.arange(1, width + 1, dtype=np.uint64) * _GAMMA)


class SamplingLane(GreedyLane):
    """Groups whose `width` rows are independent samples for one source; a group leaves when all of them ended."""

    def __init__(self, model: StepModel, width: int) -> None:
        fields = [("temperature", np.float64), ("top_k", np.int64), ("top_p", np.float64)]
        super().__init__(model, width, [*fields, ("stream", np.uint64, (width,))])

    def _start(self, group: np.void, job: Job) -> None:
        super()._start(group, job)
        sampling = job.options.sampling
        assert sampling is not None
        group["temperature"] = sampling.temperature
        group["top_k"] = min(sampling.top_k, self._model.vocabulary_size)
        group["top_p"] = sampling.top_p
        group["stream"] = streams_of(sampling.seed, self.width)

    def _num_candidates(self) -> int:
        return int(self._groups["top_k"].max()) + (self._shortest_steps > 0)

    def _pick(self, candidates: Candidates, is_forbidden: Flags | None) -> tuple[Ids, Doubles]:
        groups, num_rows = self._groups, len(candidates.ids)

        def of_rows(field: str) -> npt.NDArray[Any]:
            return np.repeat(groups[field], self.width)[:, None]  # [R, 1]

        is_allowed = np.ones(candidates.ids.shape, np.bool_) if is_forbidden is None else ~is_forbidden
        is_allowed &= is_allowed.cumsum(axis=1) <= of_rows("top_k")
        scaled = np.where(is_allowed, candidates.log_probs / of_rows("temperature"), -np.inf)
        weights = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        # Running sums from the best down, not `sum`: they do not change in the last bit when neighbours ask for
        # more candidates than this row.
        reached = weights.cumsum(axis=1)
        is_nucleus = reached - weights < of_rows("top_p") * reached[:, -1:]
        total = np.where(is_nucleus, reached, 0.0).max(axis=1)
        drawn = uniform(groups["stream"].reshape(-1), np.repeat(groups["length"], self.width)) * total
        picked = (reached <= drawn[:, None]).sum(axis=1).clip(max=candidates.ids.shape[1] - 1)
        rows = np.arange(num_rows)
        return candidates.ids[rows, picked], candidates.log_probs[rows, picked].astype(np.float64)
