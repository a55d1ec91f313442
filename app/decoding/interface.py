"""The seam between models and search: sources in, candidates out, state in between.

Every model is two functions: `encode(sources) -> state` and `step(ids, state) -> candidates, state`.
Rows come in groups of `width` neighbours that share one source: a beam of four is a group of width four.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
# Text: int64 ids [S] with the end of sentence; speech: float32 features [F, M].
Source = npt.NDArray[Any]

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Candidates:
    """The best continuations of every row, best first. Shapes: both [R, K]; `log_probs` in nats."""

    ids: Ids
    log_probs: Floats


class State(Protocol):
    """What R rows carry from one step to the next, R = number of sources x width.

    `take` and `concat` may reuse the memory of what they are called on and given: go on with what they return.
    """

    @property
    def width(self) -> int:
        """Rows a source."""

    def __len__(self) -> int:
        """Rows R."""

    def take(self, rows: Ids) -> Self:
        """Keep `rows` [R'] in this order, repeats allowed. Rows come in whole groups: each `width` neighbours of
        the result were rows of one source. Drops groups that ended and reorders the beams inside groups."""

    def concat(self, other: Self) -> Self:
        """The rows of both, `other` behind; both have the same width. Lets new rows join."""


class StepModel(Protocol):
    """A model that can be searched: PyTorch (`models/stepping`) or ONNX Runtime (`engine/model`)."""

    @property
    def bos_id(self) -> int:
        """What the first step of a row is given."""

    @property
    def eos_id(self) -> int:
        """What ends a row."""

    @property
    def vocabulary_size(self) -> int:
        """V: candidates can never be more."""

    @property
    def max_target_length(self) -> int:
        """Steps that a row may take at the most."""

    def encode(self, sources: Sequence[Source], width: int) -> State:
        """Read all sources together; the state has len(sources) x width rows, each at position 0."""

    # `Any`, not `State`: a model takes only the states that it made itself.
    def step(self, ids: Ids, state: Any, num_candidates: int) -> tuple[Candidates, State]:
        """Feed `ids` [R], the last token of every row; give the K = num_candidates best next ones of each."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """Draw the next token instead of taking the best. `top_p` keeps the smallest set with that probability."""

    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """How to search for one source's target. Lengths are target tokens, prefix included, end of sentence not."""

    max_length: int
    beam_size: int = 1
    num_hypotheses: int = 1
    length_penalty: float = 1.0
    min_length: int = 0
    no_repeat_ngram: int = 0
    prefix: tuple[int, ...] = ()
    sampling: Sampling | None = None


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One target: ids without the begin and end of sentence; `score` = log_prob / length ** length_penalty,
    the length counting the end of sentence."""

    ids: tuple[int, ...]
    log_prob: float
    score: float
    finish_reason: FinishReason
