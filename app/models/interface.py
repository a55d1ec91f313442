"""What an architecture is: `encode`, `decode` and `step` over named state tensors."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class StateSpec:
    """One tensor of the state; kinds and axes as `app/store/manifest.py` (StateTensor) defines them.

    `shape` leaves the first axis (sources B or rows R) out; -1 stands at the axis that grows with length.
    """

    name: str
    kind: Literal["memory", "fixed", "growing"]
    shape: tuple[int, ...]
    length_axis: int | None = None


class Seq2Seq(nn.Module, ABC):
    """A sequence-to-sequence model. R = B x width rows: the `width` rows of one source are neighbours.

    `output` is the vocabulary projection: weight [V, D], bias [V]. It is apart from `decode` so that training can
    fuse it with the loss.
    """

    output: nn.Linear

    @abstractmethod
    def state_specs(self) -> list[StateSpec]:
        """Every tensor that `encode` gives or `step` carries."""

    @abstractmethod
    def encode(self, source: Tensor, lengths: Tensor) -> dict[str, Tensor]:
        """Read the sources: ids [B, S] with `lengths` [B] real positions each -> the memory tensors, the first
        value [B, ...] of the fixed ones, and `memory_lengths` [B] int64."""

    @abstractmethod
    def decode(self, source: Tensor, lengths: Tensor, target: Tensor) -> Tensor:
        """Teacher forcing: `target` [B, T] starts with the begin of sentence -> features [B, T, D]."""

    @abstractmethod
    def step(self, ids: Tensor, positions: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """One token for every row: ids [R] at `positions` [R] -> features [R, D] and the state after it.

        Growing tensors are slots [R, H, C, K] with C > max(positions); position p is written in place.
        """

    def forward(self, source: Tensor, lengths: Tensor, target: Tensor) -> Tensor:
        """Logits [B, T, V] of every next token."""
        logits: Tensor = self.output(self.decode(source, lengths, target))
        return logits
