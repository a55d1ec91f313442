"""Which target pieces may translate a source piece, estimated from sentence pairs.

IBM's Model 1 (Brown et al. 1993, "The Mathematics of Statistical Machine Translation"): every target piece comes from
one piece of its source, whatever their order; expectation maximization finds how probable each pair is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from app.decoding.interface import Ids

T = TypeVar("T")

# Pairs beyond these teach little more, and every one takes memory: 16 bytes for each two pieces that meet in it.
MOST_PAIRS = 60_000
_ITERATIONS = 5
NUM_CANDIDATES = 96
NUM_COMMON = 256


@dataclass(frozen=True, slots=True)
class Lexicon:
    """`candidates` [V, C]: the target pieces most often aligned to each source piece; `common` [N]: the most frequent
    ones, and those that any target may have."""

    candidates: Ids
    common: Ids


def thinned_out(pairs: Sequence[T]) -> Sequence[T]:
    """At most `MOST_PAIRS` of them, spread over all."""
    return pairs[:: -(-len(pairs) // MOST_PAIRS)]


def estimate_lexicon(
    pairs: Sequence[tuple[Ids, Ids]],
    vocabulary_size: int,
    always: Sequence[int],
    num_candidates: int = NUM_CANDIDATES,
    num_common: int = NUM_COMMON,
) -> Lexicon:
    """The lexicon of `pairs`, ids of source and target, of one vocabulary; of many, have them `thinned_out` before.

    `always` are common whatever their frequency. A source piece with fewer candidates repeats a common one.
    """
    sources = [np.unique(source) for source, _ in pairs]
    targets = [np.asarray(target) for _, target in pairs]
    frequencies = np.bincount(np.concatenate(targets), minlength=vocabulary_size)
    most_frequent = np.argsort(-frequencies, kind="stable")[:num_common]
    common = np.unique(np.concatenate([most_frequent, np.asarray(always, np.int64)]))
    linked_sources, linked_targets, counts = _aligned(sources, targets, vocabulary_size)
    best_first = np.lexsort((-counts, linked_sources))
    linked_sources, linked_targets = linked_sources[best_first], linked_targets[best_first]
    ranks = np.arange(len(best_first)) - np.searchsorted(linked_sources, linked_sources)
    is_kept = ranks < num_candidates
    candidates = np.full((vocabulary_size, num_candidates), common[0], np.int64)
    candidates[linked_sources[is_kept], ranks[is_kept]] = linked_targets[is_kept]
    return Lexicon(candidates, common)


def _aligned(
    sources: Sequence[Ids], targets: Sequence[Ids], vocabulary_size: int
) -> tuple[Ids, Ids, npt.NDArray[np.float64]]:
    """Source and target piece of every pair that ever met, and how often one is expected to come from the other."""
    # A link is one way in which one piece of one target may have come about; `tokens` numbers that piece.
    keys = np.concatenate(
        [
            (source[:, None] * vocabulary_size + target).reshape(-1)
            for source, target in zip(sources, targets, strict=True)
        ]
    )
    begins = np.cumsum([0] + [len(target) for target in targets])
    tokens = np.concatenate(
        [np.tile(np.arange(begin, begin + len(target), dtype=np.int32), len(source))
         for source, target, begin in zip(sources, targets, begins, strict=False)]
    )  # fmt: skip
    met, link = np.unique(keys, return_inverse=True)
    del keys
    met_sources, met_targets = np.divmod(met, vocabulary_size)
    probabilities = counts = np.ones(len(met), np.float64)
    for _ in range(_ITERATIONS):
        shares = probabilities[link]
        shares /= np.bincount(tokens, shares, begins[-1])[tokens]
        counts = np.bincount(link, shares, len(met)).astype(np.float64)
        probabilities = counts / np.bincount(met_sources, counts, vocabulary_size)[met_sources]
    return met_sources, met_targets, counts
