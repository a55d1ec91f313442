"""The seam between models and search: sources in, candidates out, state in between.

Every model is two functions: `encode(sources) -> state` and `step(ids, state) -> candidates, state`.
Rows come in groups of `width` neighbours that share one source: a beam of four is a group of width four.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
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
    """The best continuations of every row, best first. Shapes: both [R, K]; `log_probs` in nats.

    Of models that have them: `probes` [R, P], the log-probabilities of the model's probe ids, and where it was asked
    for `attention` [R, A, S], that of the row's last token to the source.
    """

    ids: Ids
    log_probs: Floats
    probes: Floats | None = None
    attention: Floats | None = None


@dataclass(frozen=True, slots=True)
class Probes:
    """Tokens whose log-probability every step tells, whether they are candidates or not: P `ids`.

    `suppressions` is what the bias of each is lower by, so that it never is a candidate: 0, or a large negative number.
    """

    ids: tuple[int, ...] = ()
    suppressions: tuple[float, ...] = ()

    def unsuppressed(self, log_probs: Floats) -> Floats:
        """[..., P] as a step tells them -> what they would be if each were the only one that is not suppressed."""
        suppressions = np.array(self.suppressions, np.float32)
        odds = log_probs - suppressions  # in nats; a suppressed one's probability as told is nothing beside the others'
        found: Floats = np.where(suppressions < 0, -np.logaddexp(0.0, -odds), log_probs).astype(np.float32)
        return found


NO_PROBES = Probes()


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

    @property
    def probes(self) -> Probes:
        """What every step tells beside its candidates."""

    @property
    def num_alignment_heads(self) -> int:
        """A: heads whose attention to the source may be asked for."""

    def encode(self, sources: Sequence[Source], width: int) -> State:
        """Read all sources together; the state has len(sources) x width rows, each at position 0."""

    # `Any`, not `State`: a model takes only the states that it made itself.
    def step(
        self, ids: Ids, state: Any, num_candidates: int, *, needs_attention: bool = False
    ) -> tuple[Candidates, State]:
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
    """How to search for one source's target. Lengths are target tokens, prefix included, end of sentence not.

    A row is fed `before`, the begin of sentence, `prefix`, and then what it chooses; with `first_choices` the prefix
    follows the most probable of these. What comes first behind that is none of `suppressed_first`. Of these four only
    the first choice and the prefix are of the target. `needs_attention` has the hypotheses tell more.
    """

    max_length: int
    beam_size: int = 1
    num_hypotheses: int = 1
    length_penalty: float = 1.0
    min_length: int = 0
    no_repeat_ngram: int = 0
    before: tuple[int, ...] = ()
    first_choices: tuple[int, ...] = ()
    prefix: tuple[int, ...] = ()
    suppressed_first: tuple[int, ...] = ()
    needs_attention: bool = False
    sampling: Sampling | None = None


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One target: ids without the begin and end of sentence; `score` = log_prob / length ** length_penalty,
    the length counting the end of sentence.

    `first_log_probs` [P] are those of the model's probes behind the begin of sentence, not suppressed. Where attention
    was needed, `token_log_probs` are those of `ids`, 0 where they were forced, and `attention` [T, A, S] is that which
    each was chosen with, and in one row more the end of sentence where there is one.
    """

    ids: tuple[int, ...]
    log_prob: float
    score: float
    finish_reason: FinishReason
    token_log_probs: tuple[float, ...] = ()
    attention: Floats | None = field(default=None, compare=False, repr=False)
    first_log_probs: Floats | None = field(default=None, compare=False, repr=False)
