"""No n-gram twice: which tokens would complete an n-gram that their row has already."""

import numpy as np
import numpy.typing as npt

from app.decoding.interface import Ids

Flags = npt.NDArray[np.bool_]


def repeating_tokens(rows: Ids, lengths: Ids, sizes: Ids) -> Ids:
    """The tokens that would repeat an n-gram of a row's `sizes` [R] (0: any may) -> [R, M], -1 where there are fewer.

    Shapes: rows [R, L] hold the tokens so far, of each row the first `lengths` [R].
    """
    found = [_of_size(rows, np.where(sizes == size, lengths, 0), int(size)) for size in np.unique(sizes[sizes > 0])]
    return np.concatenate(found, axis=1) if found else np.zeros((len(rows), 0), np.int64)


def is_among(ids: Ids, tokens: Ids) -> Flags:
    """Which of `ids` [R, K] are among their row's `tokens` [R, M]."""
    among: Flags = (ids[:, :, None] == tokens[:, None, :]).any(axis=2)
    return among


def _of_size(rows: Ids, lengths: Ids, size: int) -> Ids:
    num_windows = int(lengths.max(initial=0)) - size + 1
    if num_windows <= 0:
        return np.zeros((len(rows), 0), np.int64)
    # A window repeats the beginning of an n-gram where its tokens are the row's last; what follows it may not follow.
    does_match = np.arange(num_windows) + size <= lengths[:, None]
    for offset in range(size - 1):
        last = np.take_along_axis(rows, np.maximum(lengths - size + 1 + offset, 0)[:, None], axis=1)
        does_match &= rows[:, offset : offset + num_windows] == last
    most = int(does_match.sum(axis=1).max())
    first = np.argsort(~does_match, axis=1, kind="stable")[:, :most]
    following = np.take_along_axis(rows[:, size - 1 : size - 1 + num_windows], first, axis=1)
    return np.where(np.take_along_axis(does_match, first, axis=1), following, -1)
