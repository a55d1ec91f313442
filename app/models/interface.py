"""What an architecture is: `encode`, `decode` and `step` over named state tensors."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor, nn

from app.models.attention import length_mask
from app.models.copying import Copies, CopyAttention, mixed_log_probs


@dataclass(frozen=True, slots=True)
class StateSpec:
    """One tensor of the state; kinds and axes as `app/store/manifest.py` (StateTensor) defines them.

    `shape` leaves the first axis (sources B or rows R) out; -1 stands at the axis that grows with length.
    """

    name: str
    kind: Literal["memory", "fixed", "growing"]
    shape: tuple[int, ...]
    length_axis: int | None = None
    dtype: Literal["float", "int64"] = "float"


class Decoded(NamedTuple):
    """Teacher forcing's result: features [B, T, D], and what a copy mechanism would copy."""

    features: Tensor
    copies: Copies | None = None


class Seq2Seq(nn.Module, ABC):
    """A sequence-to-sequence model. R = B x width rows: the `width` rows of one source are neighbours.

    `output` is the vocabulary projection: weight [V, D], bias [V]. It is apart from `decode` so that training can
    fuse it with the loss. `copy` is the copy mechanism of a model that has one; its state then holds `copy_keys`
    [B, S, D] and `source_ids` [B, S].
    """

    output: nn.Linear
    copy: CopyAttention | None

    def __init__(self) -> None:
        super().__init__()
        self.copy = None

    @abstractmethod
    def state_specs(self) -> list[StateSpec]:
        """Every tensor that `encode` gives or `step` carries."""

    @abstractmethod
    def encode(self, source: Tensor, lengths: Tensor) -> dict[str, Tensor]:
        """Read the sources: ids [B, S], or features [B, F, M], with `lengths` [B] real positions each -> the memory
        tensors, the first value [B, ...] of the fixed ones, and `memory_lengths` [B] int64."""

    @abstractmethod
    def decode(self, source: Tensor, lengths: Tensor, target: Tensor) -> Decoded:
        """Teacher forcing: `target` [B, T] starts with the begin of sentence."""

    @abstractmethod
    def step(self, ids: Tensor, positions: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """One token for every row: ids [R] at `positions` [R] -> features [R, D] and the state after it.

        Growing tensors are slots [R, H, C, K] with C > max(positions); position p is written in place.
        """

    def forward(self, source: Tensor, lengths: Tensor, target: Tensor) -> Tensor:
        """Logits [B, T, V] of every next token; with a copy mechanism these are log-probabilities."""
        decoded = self.decode(source, lengths, target)
        logits: Tensor = self.output(decoded.features)
        return logits if decoded.copies is None else mixed_log_probs(logits, decoded.copies, source)

    def next_logits(self, features: Tensor, state: dict[str, Tensor]) -> Tensor:
        """Logits [R, V], as `forward` gives them, of the features [R, D] that a step over `state` gave."""
        logits: Tensor = self.output(features)
        if self.copy is None:
            return logits
        source, keys = state["source_ids"], state["copy_keys"]
        mask = length_mask(state["memory_lengths"], source.shape[1])[:, None]
        copies = self.copy(features.unflatten(0, (len(source), -1)), keys, mask)
        return mixed_log_probs(logits.unflatten(0, (len(source), -1)), copies, source).flatten(0, 1)

    def _copy_specs(self, width: int) -> list[StateSpec]:
        if self.copy is None:
            return []
        return [
            StateSpec("copy_keys", "memory", (-1, width), 1),
            StateSpec("source_ids", "memory", (-1,), 1, "int64"),
        ]

    def _copy_state(self, memory: Tensor, source: Tensor) -> dict[str, Tensor]:
        """What the copy mechanism needs of a source: memory [B, S, D]."""
        return {} if self.copy is None else {"copy_keys": self.copy.key(memory), "source_ids": source}

    def _decoded(self, features: Tensor, memory: Tensor, lengths: Tensor) -> Decoded:
        if self.copy is None:
            return Decoded(features)
        mask = length_mask(lengths, memory.shape[1])[:, None]
        return Decoded(features, self.copy(features, self.copy.key(memory), mask))
