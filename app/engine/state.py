"""The caches of many rows: the only file that knows how rows lie in memory.

Rows stand in places, and a row that leaves is replaced by the last one: nothing else moves. `_order` tells which
place each row has. Places come in groups of `width` neighbours, as the graphs want them, one group a source. Every
tensor has room for more groups than are in use, growing ones for more positions; the graphs get the part in use.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Self, TypeVar

import numpy as np
import numpy.typing as npt

from app.decoding.interface import Ids
from app.engine.arrays import Array, Arrays, Rows
from app.engine.placement import Groups, SharedPrefixes, assign_groups, plan_of
from app.store.manifest import StateTensor

_Number = TypeVar("_Number", bound=np.generic)

FIRST_SLOTS = 16  # positions that a growing tensor starts with; then it doubles
LENGTH_STEP = 8  # memory's length axis is rounded up to this when it is laid out anew
SMALLEST_CAPACITY = 8  # groups; below this, rows that leave free no memory


class Placed(NamedTuple):
    """A tensor as IO binding wants it: the part in use, beginning at `address`."""

    name: str
    dtype: type[np.generic]
    shape: tuple[int, ...]
    address: int


class SlotState:
    """State of R rows in `width` rows a source; `interface.State`.

    `specs` are the variant's tensors, `encoded` what the encode graph gave for B sources, with `memory_lengths` [B].
    """

    def __init__(
        self,
        specs: Sequence[StateTensor],
        arrays: Arrays,
        encoded: dict[str, Array],
        memory_lengths: Ids,
        width: int,
        max_target_length: int,
    ) -> None:
        self._specs = specs
        self._arrays = arrays
        self._width = width
        self._max_target_length = max_target_length
        num_groups = len(memory_lengths)
        num_rows = num_groups * width
        self._order = np.arange(num_rows)  # [R] row -> place
        self._prefixes = SharedPrefixes(num_groups, width)
        self._positions = np.zeros(num_rows, np.int32)  # [places], of every place there is room for
        self._memory_lengths = np.array(memory_lengths, np.int64)  # [groups], likewise
        self._tensors = {spec.name: encoded[spec.name] for spec in specs if spec.kind == "memory"}
        self._after: dict[str, Array] = {}  # where a step writes the fixed tensors
        self._num_used: int | None = None  # known until sources join, leave or move
        self._num_slots = 0
        for spec in specs:
            if spec.kind == "fixed":
                self._tensors[spec.name] = arrays.zeros((num_rows, *spec.shape), spec.dtype)
                of = np.arange(num_rows) // width
                arrays.copy_rows(self._tensors[spec.name], slice(num_rows), encoded[spec.name], of, None, 0)
        sizes = [
            arrays.shape(self._tensors[s.name])[s.length_axis] for s in specs if s.kind == "memory" and s.length_axis
        ]
        self._memory_size = max(sizes, default=0)
        self._layout = object()

    @property
    def width(self) -> int:
        return self._width

    def __len__(self) -> int:
        return len(self._order)

    @property
    def order(self) -> Ids:
        """The place [R] of every row: what goes to the graphs and comes from them is in the order of places."""
        return self._order

    @property
    def layout(self) -> object:
        """Another object whenever addresses or shapes have changed, and bindings have to be made again."""
        return self._layout

    @property
    def positions(self) -> npt.NDArray[np.int32]:
        """Tokens already in every place's slots [R]; a view."""
        return self._positions[: len(self)]

    @property
    def memory_lengths(self) -> Ids:
        """Real positions of every source [B]; a view."""
        return self._memory_lengths[: self._num_groups]

    @property
    def memory_size(self) -> int:
        """Positions S that the memory of every source has room for."""
        return self._memory_size

    @property
    def num_used(self) -> int:
        """Positions in use in the oldest row's slot."""
        if self._num_used is None:
            self._num_used = int(self.positions.max(initial=0))
        return self._num_used

    @property
    def _num_groups(self) -> int:
        return len(self) // self._width

    def take(self, rows: Ids) -> Self:
        rows = np.asarray(rows, np.int64)
        num_before = len(self)
        wanted = self._order[rows].reshape(-1, self._width)  # [B', W] the place that has what the row needs
        groups = assign_groups(wanted[:, 0] // self._width)
        self._lay_out(self._capacity_for(len(groups.places)), self._memory_size, self._num_slots)
        moved, of = groups.places[groups.has_moved], groups.origins[groups.has_moved]
        self._move_groups(moved, of)
        if self._width == 1:
            self._move_rows(moved, of, None)
            self._order = groups.places
        else:
            self._order = self._reorder(groups, wanted)
        if len(rows) != num_before:
            self._layout = object()
            self._num_used = None
            self._shrink()
        return self

    def _reorder(self, groups: Groups, wanted: Ids) -> Ids:
        """Bring every row of the kept groups to a place of its group, with as few copies as can be -> order [R']."""
        width, origins, places = self._width, groups.origins.tolist(), groups.places.tolist()
        local = (wanted % width).tolist()
        plans = [plan_of(tuple(rows)) for rows in local]
        lengths = self._positions[wanted[:, 0]].tolist()
        order: list[int] = []
        copies: list[tuple[int, int, int]] = []  # to, from, and what they have in common
        for origin, place, plan, rows in zip(origins, places, plans, local, strict=True):
            first, first_origin = place * width, origin * width
            order += [first + row for row in plan.places]
            if place == origin:
                copies += [(first + to, first + of, self._prefixes.before(place, to, of)) for to, of in plan.moves]
            else:
                copies += [(first + to, first_origin + of, 0) for to, of in zip(plan.places, rows, strict=True)]
        if copies:
            self._move_rows(*np.array(copies).T)
        self._prefixes.take(origins, places, plans, lengths)
        return np.array(order, np.int64)

    def concat(self, other: Self) -> Self:
        if not len(self):
            return other
        if not len(other):
            return self
        mine, theirs = self._num_groups, other._num_groups
        longest = int(other.memory_lengths.max())
        self._lay_out(
            self._capacity_for(mine + theirs),
            self._memory_size if longest <= self._memory_size else _rounded(longest),
            max(self._num_slots, self._slots_for(other.num_used)) if self._num_slots or other.num_used else 0,
        )
        num_rows = len(self)
        places, groups = slice(num_rows, num_rows + len(other)), slice(mine, mine + theirs)
        self._positions[places] = other.positions
        self._memory_lengths[groups] = other.memory_lengths
        for spec in self._specs:
            if spec.kind == "memory":
                self._copy(spec, self._tensors, groups, other._tensors, slice(theirs), longest)
            elif spec.kind == "fixed" or other.num_used:
                self._copy(spec, self._tensors, places, other._tensors, slice(len(other)), other.num_used)
        self._order = np.concatenate([self._order, other._order + num_rows])
        if self._width > 1:
            self._prefixes.concat(other._prefixes)
        self._num_used = None
        self._layout = object()
        return self

    def make_room(self) -> int:
        """Room for one more position in every slot, called before a step -> positions of the oldest row after it."""
        needed = self.num_used + 1
        assert needed <= self._max_target_length, f"a row has taken all its {self._max_target_length} steps"
        if needed > self._num_slots:
            self._lay_out(len(self._memory_lengths), self._memory_size, self._slots_for(needed))
        return needed

    def advance(self) -> None:
        """Every row is one position further, and the fixed tensors are those that the step wrote."""
        self._positions[: len(self)] += 1
        if self._num_used is not None and len(self):
            self._num_used += 1
        for name, array in self._after.items():
            self._tensors[name], self._after[name] = array, self._tensors[name]

    def fixed(self) -> Iterator[tuple[Placed, Placed]]:
        """Every fixed tensor, and where the step has to write its next value. They change places every step."""
        for spec in self._specs:
            if spec.kind == "fixed":
                if spec.name not in self._after:
                    shape = self._arrays.shape(self._tensors[spec.name])
                    self._after[spec.name] = self._arrays.zeros(shape, spec.dtype)
                yield self._placed(spec, self._tensors), self._placed(spec, self._after)

    def memory(self) -> Iterator[Placed]:
        """Every memory tensor."""
        return (self._placed(spec, self._tensors) for spec in self._specs if spec.kind == "memory")

    def memory_of(self, name: str) -> Array:
        """One memory tensor [B, ...]; a view."""
        return self._tensors[name][: self._num_groups]

    def growing(self) -> Iterator[Placed]:
        """Every growing tensor, which the step writes in place. Valid after `make_room`."""
        return (self._placed(spec, self._tensors) for spec in self._specs if spec.kind == "growing")

    def _placed(self, spec: StateTensor, tensors: dict[str, Array]) -> Placed:
        array = tensors[spec.name]
        num_used = self._num_groups if spec.kind == "memory" else len(self)
        shape = (num_used, *self._arrays.shape(array)[1:])
        return Placed(spec.name, np.dtype(spec.dtype).type, shape, self._arrays.address(array))

    def _move_groups(self, places: Ids, origins: Ids) -> None:
        if not len(places):
            return
        self._num_used = None
        longest = int(self._memory_lengths[origins].max())
        self._memory_lengths[places] = self._memory_lengths[origins]
        for spec in self._specs:
            if spec.kind == "memory":
                self._copy(spec, self._tensors, places, self._tensors, origins, longest)

    def _move_rows(self, places: Ids, origins: Ids, begins: Ids | None) -> None:
        """`begins` [R'] tells from which position on a row's slots differ from what is to be there; None: all may."""
        if not len(places):
            return
        num_used = int(self._positions[origins].max())
        self._positions[places] = self._positions[origins]
        for spec in self._specs:
            if spec.kind == "fixed" or (spec.kind == "growing" and num_used):
                self._copy(spec, self._tensors, places, self._tensors, origins, num_used, begins)

    def _copy(
        self,
        spec: StateTensor,
        to: dict[str, Array],
        to_rows: Rows,
        of: dict[str, Array],
        rows: Rows,
        length: int,
        begins: Ids | None = None,
    ) -> None:
        self._arrays.copy_rows(to[spec.name], to_rows, of[spec.name], rows, spec.length_axis, length, begins)

    def _shrink(self) -> None:
        """Give memory back where few of many groups are left, or short ones of long ones."""
        mine, capacity = self._num_groups, len(self._memory_lengths)
        longest, num_slots = int(self.memory_lengths.max(initial=0)), self._slots_for(self.num_used)
        self._lay_out(
            2 * mine if 8 * mine <= capacity and capacity > SMALLEST_CAPACITY else capacity,
            # Unlike the rest, padding of the memory costs time at every step.
            _rounded(longest) if 2 * _rounded(longest) <= self._memory_size else self._memory_size,
            num_slots if 4 * num_slots <= self._num_slots else self._num_slots,
        )

    def _capacity_for(self, num_groups: int) -> int:
        capacity = len(self._memory_lengths)
        return capacity if num_groups <= capacity else max(num_groups, 2 * capacity)

    def _slots_for(self, num_positions: int) -> int:
        num_slots = FIRST_SLOTS
        while num_slots < num_positions:
            num_slots *= 2
        return min(num_slots, self._max_target_length)

    def _lay_out(self, num_groups: int, memory_size: int, num_slots: int) -> None:
        """Give every tensor this room, and keep what is in use."""
        if (num_groups, memory_size, num_slots) == (len(self._memory_lengths), self._memory_size, self._num_slots):
            return
        sizes = {"memory": memory_size, "growing": num_slots, "fixed": 0}
        used = {"memory": int(self.memory_lengths.max(initial=0)), "growing": self.num_used, "fixed": 0}
        for spec in self._specs:
            if spec.kind == "growing" and not num_slots:
                continue
            num_used = self._num_groups if spec.kind == "memory" else len(self)
            num_rows = num_groups if spec.kind == "memory" else num_groups * self._width
            shape = (num_rows, *(sizes[spec.kind] if size == -1 else size for size in spec.shape))
            old = self._tensors.get(spec.name)
            if old is not None and self._arrays.shape(old) == shape:
                continue
            self._tensors[spec.name] = self._arrays.zeros(shape, spec.dtype)
            if old is not None:
                rows, axis = slice(num_used), spec.length_axis
                self._arrays.copy_rows(self._tensors[spec.name], rows, old, rows, axis, used[spec.kind])
        self._positions = _with_room(self._positions[: len(self)], num_groups * self._width)
        self._memory_lengths = _with_room(self.memory_lengths, num_groups)
        self._memory_size, self._num_slots = memory_size, num_slots
        self._after.clear()
        self._layout = object()


def _rounded(length: int) -> int:
    return -(-length // LENGTH_STEP) * LENGTH_STEP


def _with_room(values: npt.NDArray[_Number], size: int) -> npt.NDArray[_Number]:
    larger = np.zeros(size, values.dtype)
    larger[: len(values)] = values
    return larger
