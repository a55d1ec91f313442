"""Which place every row gets when a state is reordered, and how much of a copy can be left out.

All by group: `local` numbers run from 0 to W - 1 inside a group of W neighbouring places.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

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
    if sorted(origins.tolist()) == list(range(num_groups)):
        return Groups(origins, origins, np.zeros(num_groups, np.bool_))
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
    places = origins.copy()
    places[has_moved] = gaps
    return Groups(origins, places, has_moved)


@dataclass(frozen=True, slots=True)
class Plan:
    """How the W rows of a group find places when each goes on from what one of its places holds.

    `places` [W]: where each row stands then. `moves`: (to, from) what has to be copied. `sources` [W x W]: where the
    common prefix of two places was told in the old group, -1 where both now hold the same.
    """

    places: tuple[int, ...]
    moves: tuple[tuple[int, int], ...]
    sources: tuple[int, ...]


@lru_cache(maxsize=4096)
def plan_of(origins: tuple[int, ...]) -> Plan:
    """`origins` [W] are the places that the rows go on from.

    A row stands where what it needs already is, if no earlier one has taken that place: beams that survive stay, and
    one that is repeated is copied, onto one that died.
    """
    width = len(origins)
    free = iter(sorted(set(range(width)) - set(origins)))
    held: dict[int, int] = {}  # by place
    moves, places = [], []
    for origin in origins:
        place = origin
        if origin in held:
            place = next(free)
            moves.append((place, origin))
        held[place] = origin
        places.append(place)
    pairs = itertools.product((held[place] for place in range(width)), repeat=2)
    sources = tuple(-1 if one == other else one * width + other for one, other in pairs)
    return Plan(tuple(places), tuple(moves), sources)


class SharedPrefixes:
    """How many first positions any two places of a group have in common.

    Beams have parted only a few positions ago: where one is copied onto another, the positions before are there.
    Plain lists: a step changes few groups, for which arrays take longer.
    """

    def __init__(self, num_groups: int, width: int) -> None:
        self._width = width
        self._lengths = [[0] * (width * width) for _ in range(num_groups)]

    def __len__(self) -> int:
        """Groups."""
        return len(self._lengths)

    def before(self, group: int, target: int, origin: int) -> int:
        """Positions that the places `target` and `origin` of a group have in common."""
        return self._lengths[group][target * self._width + origin]

    def take(
        self, origins: Sequence[int], places: Sequence[int], plans: Sequence[Plan], lengths: Sequence[int]
    ) -> None:
        """The group at `places[n]` now holds what the one at `origins[n]` held, `lengths[n]` positions, moved by
        `plans[n]`."""
        before, self._lengths = self._lengths, [[] for _ in places]
        for origin, place, plan, length in zip(origins, places, plans, lengths, strict=True):
            shared = before[origin]
            self._lengths[place] = (
                [length if source < 0 else shared[source] for source in plan.sources] if plan.moves else shared
            )

    def concat(self, other: "SharedPrefixes") -> None:
        self._lengths = self._lengths + other._lengths
