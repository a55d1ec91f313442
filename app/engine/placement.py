"""Which place every row gets when a state is reordered, and how much of a copy can be left out.

All by group: `local` numbers run from 0 to W - 1 inside a group of W neighbouring places.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from app.decoding.interface import Ids

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Groups:
    """Where each group of a `take` comes from and goes; all [B']."""

    origins: Ids
    places: Ids
    has_moved: Flags


def assign_groups(origins: Ids) -> Groups:
    """Leave every group where it is if that is among the first B' places; the rest, and repeats, fill the gaps."""
    num_groups = len(origins)
    has_moved = origins >= num_groups
    stays = origins[~has_moved]
    is_free = np.ones(num_groups, np.bool_)
    is_free[stays] = False
    gaps = np.flatnonzero(is_free)
    if len(stays) + len(gaps) > num_groups:  # some stand there more than once: the first stays
        first = np.unique(origins, return_index=True)[1]
        is_first = np.zeros(num_groups, np.bool_)
        is_first[first] = True
        has_moved |= ~is_first
    if not len(gaps):
        return Groups(origins, origins, has_moved)
    places = origins.copy()
    places[has_moved] = gaps
    return Groups(origins, places, has_moved)


def assign_places(local_origins: Ids) -> Ids:
    """A local place [B', W] for every row: the one that already holds what it needs, if no earlier row has taken it.

    Beams that survive stay; only a beam that is repeated is copied, onto one that died.
    """
    num_groups, width = local_origins.shape
    is_free = np.ones(num_groups * width, np.bool_)
    is_free[(local_origins + np.arange(0, num_groups * width, width)[:, None]).reshape(-1)] = False
    if not is_free.any():
        return local_origins
    is_same = local_origins[:, :, None] == local_origins[:, None, :]
    moves = (is_same & _earlier(width)).any(axis=2)
    places = local_origins.copy()
    places[moves] = np.flatnonzero(is_free) % width  # both in the order of groups, and as many in each
    return places


@cache
def _earlier(width: int) -> Flags:
    """Whether the second of two rows is before the first, [W, W]."""
    return np.tri(width, k=-1, dtype=np.bool_)


class SharedPrefixes:
    """How many first positions any two places of a group have in common, [B, W, W].

    Beams have parted only a few positions ago: where one is copied onto another, the positions before are there.
    """

    def __init__(self, num_groups: int, width: int) -> None:
        self._lengths = np.zeros((num_groups, width, width), np.int64)

    def before(self, groups: Ids, targets: Ids, origins: Ids) -> Ids:
        """Positions that each local `targets` place has in common with the local `origins` place; all [N]."""
        common: Ids = self._lengths[groups, targets, origins]
        return common

    def take(self, groups: Groups, local_origins: Ids, lengths: Ids) -> None:
        """Place p of the n-th group now holds what place `local_origins[n, p]` of group `origins[n]` held,
        `lengths` [B'] positions."""
        rows, columns = local_origins[:, :, None], local_origins[:, None, :]
        shared = self._lengths[groups.origins[:, None, None], rows, columns]
        taken = np.empty_like(shared)
        taken[groups.places] = np.where(rows == columns, lengths[:, None, None], shared)
        self._lengths = taken

    def concat(self, other: "SharedPrefixes") -> None:
        self._lengths = np.concatenate([self._lengths, other._lengths])
