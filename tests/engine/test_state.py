"""`SlotState` against the naive list of rows: whatever is taken, joined and stepped, each row keeps its own."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.engine.arrays import HostArrays
from app.engine.state import SMALLEST_CAPACITY, SlotState
from app.store.manifest import StateTensor

HEADS, HEAD_WIDTH, HIDDEN, MAX_TARGET_LENGTH = 2, 3, 5, 70
SPECS = [
    StateTensor(name="keys", kind="memory", dtype="float32", shape=[HEADS, -1, HEAD_WIDTH], length_axis=2),
    StateTensor(name="summary", kind="memory", dtype="float32", shape=[HIDDEN]),
    StateTensor(name="hidden", kind="fixed", dtype="float32", shape=[HIDDEN]),
    StateTensor(name="cache", kind="growing", dtype="float16", shape=[HEADS, -1, HEAD_WIDTH], length_axis=2),
]


@dataclass
class Row:
    """What one row should hold: its source's number and length, and a number for every step it has taken."""

    source: int
    length: int
    history: list[int] = field(default_factory=list)

    def copy(self) -> "Row":
        return Row(self.source, self.length, list(self.history))


class Pair:
    """A state, and the rows that it should hold."""

    def __init__(self, sources: list[tuple[int, int]], width: int) -> None:
        lengths = np.array([length for _, length in sources])
        numbers = np.array([number for number, _ in sources], np.float32)
        size = lengths.max() + 1  # encode may pad further than the longest
        keys = np.full((len(sources), HEADS, size, HEAD_WIDTH), -1, np.float32)
        for row, (number, length) in enumerate(sources):
            keys[row, :, :length] = number
        encoded = {
            "keys": keys,
            "summary": np.repeat(numbers[:, None], HIDDEN, 1),
            "hidden": np.repeat(numbers[:, None], HIDDEN, 1),
        }
        self.state = SlotState(SPECS, HostArrays(), encoded, lengths, width, MAX_TARGET_LENGTH)
        self.rows = [Row(number, length) for number, length in sources for _ in range(width)]

    def take(self, rows: list[int]) -> None:
        self.state = self.state.take(np.array(rows, np.int64))
        self.rows = [self.rows[row].copy() for row in rows]

    def concat(self, other: "Pair") -> None:
        self.state = self.state.concat(other.state)
        self.rows += other.rows

    def step(self, token: int) -> None:
        """What a step graph does: writes the slots in place and gives new fixed tensors, in the order of places."""
        self.state.make_room()
        tokens = np.zeros(len(self.rows))
        tokens[self.state.order] = token + np.arange(len(self.rows))
        for (before, after), cache in zip(self.state.fixed(), self.state.growing(), strict=True):
            array = view(self.state, cache.name)
            assert cache.shape == array.shape
            array[np.arange(len(array)), :, self.state.positions] = tokens[:, None, None]
            assert before.shape == after.shape == (len(self.rows), HIDDEN)
            self.state._after[after.name][: len(array)] = tokens[:, None]
        self.state.advance()
        for number, row in enumerate(self.rows):
            row.history.append(token + number)

    def check(self) -> None:
        state, order = self.state, self.state.order
        assert len(state) == len(self.rows)
        assert sorted(order) == list(range(len(order)))
        assert state.num_used == max((len(row.history) for row in self.rows), default=0)
        for row, place in zip(self.rows, order, strict=True):
            group = place // state.width
            assert state.positions[place] == len(row.history)
            assert state.memory_lengths[group] == row.length
            assert (view(state, "keys")[group, :, : row.length] == row.source).all()
            assert (view(state, "summary")[group] == row.source).all()
            assert (view(state, "hidden")[place] == (row.history[-1] if row.history else row.source)).all()
            if row.history:
                cache = view(state, "cache")[place, :, : len(row.history)]
                assert (cache == np.array(row.history)[None, :, None]).all()


def view(state: SlotState, name: str) -> np.ndarray:
    """The part in use of a tensor."""
    num_used = len(state) // state.width if name in ("keys", "summary") else len(state)
    return state._tensors[name][:num_used]


def capacity(state: SlotState, name: str, axis: int) -> int:
    return int(state._tensors[name].shape[axis])


SOURCES = st.lists(st.tuples(st.integers(1, 900), st.integers(1, 40)), min_size=1, max_size=6)


@settings(max_examples=150, deadline=None)
@given(st.data(), st.integers(1, 3))
def test_any_mix_of_take_concat_and_step_keeps_every_row(data: st.DataObject, width: int) -> None:
    pair = Pair(data.draw(SOURCES), width)
    for number in range(data.draw(st.integers(1, 12))):
        action = data.draw(st.sampled_from(["take", "concat", "concat older", "step", "steps"]))
        groups = len(pair.rows) // width
        if action == "take":
            chosen = data.draw(st.lists(st.integers(0, groups - 1), max_size=8)) if groups else []
            beams = data.draw(st.lists(st.integers(0, width - 1), min_size=width, max_size=width))
            pair.take([group * width + beam for group in chosen for beam in beams])
        elif action.startswith("concat"):
            other = Pair(data.draw(SOURCES), width)
            if action == "concat older":
                other.step(1000)
            pair.concat(other)
        elif all(len(row.history) < 40 for row in pair.rows):
            for repeat in range(9 if action == "steps" else 1):
                pair.step(100 * number + 10 * repeat)
        pair.check()


def test_beams_that_survive_are_not_moved() -> None:
    pair = Pair([(1, 3), (2, 4)], width=4)
    pair.step(10)
    pair.take([2, 0, 1, 3, 7, 7, 4, 5])
    pair.check()
    assert pair.state.order.tolist()[:4] == [2, 0, 1, 3]
    assert pair.state.order.tolist()[4] == 7
    assert pair.state.order.tolist()[6:] == [4, 5]


def test_a_source_that_ends_is_replaced_by_the_last_one() -> None:
    pair = Pair([(number, number) for number in range(1, 6)], width=1)
    pair.step(10)
    pair.take([0, 2, 3, 4])
    pair.check()
    assert pair.state.order.tolist() == [0, 2, 3, 1]


def test_joining_copies_nothing_while_there_is_room() -> None:
    pair = Pair([(number, 20) for number in range(1, 9)], width=2)
    pair.step(10)
    pair.take(list(range(8)))
    before = pair.state._tensors["cache"], pair.state._tensors["keys"]
    pair.concat(Pair([(9, 12)], width=2))
    pair.check()
    assert (pair.state._tensors["cache"], pair.state._tensors["keys"])[0] is before[0]
    assert pair.state._tensors["keys"] is before[1]


@pytest.mark.parametrize("width", [1, 2])
def test_those_that_left_leave_nothing_behind(width: int) -> None:
    pair = Pair([(1, 3)], width)
    for number in range(2, 30):
        pair.concat(Pair([(number, 3)], width))
        pair.step(number)
        pair.take(list(range(width, 2 * width)))
    pair.check()
    assert len(pair.state._prefixes) == 1


def test_bindings_stay_valid_while_only_rows_change_places() -> None:
    pair = Pair([(1, 3), (2, 4)], width=2)
    pair.step(10)
    before = pair.state.layout
    pair.take([1, 1, 3, 2])
    pair.step(20)
    assert pair.state.layout is before
    pair.take([0, 1])
    assert pair.state.layout is not before


def test_slots_double_and_end_at_the_longest_target() -> None:
    pair = Pair([(1, 3)], width=1)
    sizes = []
    for step in range(MAX_TARGET_LENGTH):
        pair.step(step)
        sizes.append(capacity(pair.state, "cache", 2))
    pair.check()
    assert sorted(set(sizes)) == [16, 32, 64, MAX_TARGET_LENGTH]


def test_rows_that_leave_give_their_memory_back() -> None:
    pair = Pair([(number, 40 if number == 7 else 5) for number in range(1, 41)], width=1)
    for step in range(2):
        pair.step(step)
    pair.take([0, 1, 2])
    pair.check()
    assert capacity(pair.state, "keys", 0) <= SMALLEST_CAPACITY
    assert capacity(pair.state, "cache", 0) <= SMALLEST_CAPACITY
    assert capacity(pair.state, "keys", 2) == 8


def test_slots_of_one_old_row_shrink_when_it_leaves() -> None:
    pair = Pair([(1, 3)], width=1)
    for step in range(65):
        pair.step(step)
    pair.concat(Pair([(2, 3)], width=1))
    pair.take([1])
    pair.check()
    assert capacity(pair.state, "cache", 2) == 16


def test_an_emptied_state_takes_what_joins() -> None:
    pair = Pair([(1, 30)], width=2)
    pair.step(1)
    pair.take([])
    assert len(pair.state) == 0
    pair.concat(Pair([(2, 3)], width=2))
    pair.step(5)
    pair.check()
