"""A small random recurrent `StepModel` in NumPy whose state matters: what comes next depends on every id before it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from app.decoding.interface import NO_PROBES, Candidates, Floats, Ids, Probes, Source

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class RecurrentState:
    """`memory` [B, D] a source, `hidden` [R, D] a row."""

    memory: Array
    hidden: Array
    width: int

    def __len__(self) -> int:
        return len(self.hidden)

    def take(self, rows: Ids) -> "RecurrentState":
        sources = rows.reshape(-1, self.width) // self.width
        assert (sources == sources[:, :1]).all(), "rows of several sources were mixed in one group"
        return RecurrentState(self.memory[sources[:, 0]], self.hidden[rows], self.width)

    def concat(self, other: "RecurrentState") -> "RecurrentState":
        assert self.width == other.width
        memory = np.concatenate([self.memory, other.memory])
        return RecurrentState(memory, np.concatenate([self.hidden, other.hidden]), self.width)


class RecurrentModel:
    """hidden' = tanh(hidden A + embedding[id] + memory), logits = hidden' O + bias; the same cell reads the sources."""

    def __init__(
        self,
        seed: int = 0,
        vocabulary_size: int = 11,
        max_target_length: int = 40,
        end_bias: float = 0.0,
        probes: Probes = NO_PROBES,
    ) -> None:
        random, size = np.random.default_rng(seed), 13
        self.bos_id, self.eos_id = 0, 1
        self.vocabulary_size = vocabulary_size
        self.max_target_length = max_target_length
        self.num_steps = 0
        self.probes = probes
        self.num_alignment_heads = 2
        self._cell = random.normal(size=(size, size)) / np.sqrt(size)
        self._embedding = random.normal(size=(vocabulary_size, size))
        self._output = random.normal(size=(size, vocabulary_size)) * 0.8
        self._bias = np.where(np.arange(vocabulary_size) == self.eos_id, end_bias, 0.0)

    def encode(self, sources: Sequence[Source], width: int) -> RecurrentState:
        memory = np.stack([self._read(source) for source in sources])
        return RecurrentState(memory, np.repeat(memory, width, axis=0), width)

    def _read(self, source: Source) -> Array:
        hidden = np.zeros(len(self._cell))
        for token in source.tolist():
            hidden = np.tanh(hidden @ self._cell + self._embedding[token])
        return hidden

    def step(
        self, ids: Ids, state: RecurrentState, num_candidates: int, *, needs_attention: bool = False
    ) -> tuple[Candidates, RecurrentState]:
        assert ids.shape == (len(state),) and ids.flags.c_contiguous and num_candidates <= self.vocabulary_size
        self.num_steps += 1
        memory = np.repeat(state.memory, state.width, axis=0)
        # One row at a time: a matrix product may round differently beside other rows.
        rows = [row @ self._cell for row in state.hidden]
        hidden = np.tanh(np.stack(rows) + self._embedding[ids] + memory)
        log_probs = self.log_probs(hidden)
        best = np.argsort(-log_probs, axis=1, kind="stable")[:, :num_candidates]
        candidates = Candidates(
            best,
            np.take_along_axis(log_probs, best, axis=1).astype(np.float32),
            log_probs[:, self.probes.ids].astype(np.float32) if self.probes.ids else None,
            self.attention(hidden) if needs_attention else None,
        )
        return candidates, RecurrentState(state.memory, hidden, state.width)

    def attention(self, hidden: Array) -> Floats:
        """Something [R, A, S] that tells one past from another; its heads and positions are of different numbers."""
        weights = np.exp(hidden[:, :10].reshape(-1, self.num_alignment_heads, 5))
        return (weights / weights.sum(axis=2, keepdims=True)).astype(np.float32)

    def log_probs(self, hidden: Array) -> Array:
        logits = np.stack([row @ self._output for row in hidden]) + self._bias
        shifted: Array = logits - logits.max(axis=1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
