"""The step graph bound to a state's memory: made once for a layout and used, without copies, while it lasts."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from app.decoding.interface import Candidates, Floats, Ids
from app.engine.shortlist import Shortlist
from app.engine.state import Placed, SlotState


@dataclass(frozen=True, slots=True)
class StepSizes:
    """Sizes of what the step graph tells of every row; 0: it has no such output."""

    vocabulary_size: int
    num_probes: int = 0
    num_alignment_heads: int = 0


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a step is to tell beside what it always does."""

    num_candidates: int
    has_logits: bool = False
    has_attention: bool = False


class StepBinding:
    """Runs the step graph over one state at a time. `device` is where the state's tensors live."""

    def __init__(self, session: Any, device: str, sizes: StepSizes, shortlist: Shortlist | None = None) -> None:
        self._session = session
        self._device = device
        self._sizes = sizes
        self._shortlist = shortlist
        self._input_names = {value.name for value in session.get_inputs()}
        self._binding = session.io_binding()
        self._bound: tuple[object, _Asked] = (None, _Asked(0))
        self._ids = np.zeros(0, np.int64)
        self._candidates = np.zeros((0, 0), np.int64)
        self._log_probs = np.zeros((0, 0), np.float32)
        self._logits = np.zeros((0, 0), np.float32)
        self._probes = np.zeros((0, 0), np.float32)
        self._alignment = np.zeros((0, 0, 0), np.float32)
        # What is no row's: bound once.
        self._total_length = np.zeros((), np.int32)
        self._num_candidates = np.zeros(1, np.int64)
        self._num_alignments = np.zeros(1, np.int64)
        self._bind_number("total_length", self._total_length)
        self._bind_number("num_candidates", self._num_candidates)
        self._bind_number("num_alignments", self._num_alignments)

    def run(self, ids: Ids, state: SlotState, num_candidates: int, needs_attention: bool = False) -> Candidates:
        """One step of every row; the state is advanced."""
        self._run(ids, state, _Asked(num_candidates, has_attention=needs_attention))
        return Candidates(
            self._candidates[state.order],
            self._log_probs[state.order],
            self._probes[state.order] if self._sizes.num_probes else None,
            self._alignment[state.order] if needs_attention else None,
        )

    def run_for_logits(self, ids: Ids, state: SlotState) -> Floats:
        """One step of every row, the state is advanced -> logits [R, V]."""
        self._run(ids, state, _Asked(1, has_logits=True))
        logits: Floats = self._logits[state.order]
        return logits

    def _run(self, ids: Ids, state: SlotState, asked: _Asked) -> None:
        total_length = state.make_room()
        layout, bound = self._bound
        if layout is not state.layout or bound != asked:
            self._bind(state, asked)
        self._ids[state.order] = ids
        self._total_length[...] = total_length
        if self._device != "cpu":  # a device gets its copy when an input is bound
            self._bind_rows(state)
            self._bind_number("total_length", self._total_length)
        for before, after in state.fixed():
            self._bind_input(before)
            self._bind_output(after)
        self._session.run_with_iobinding(self._binding)
        state.advance()

    def _bind(self, state: SlotState, asked: _Asked) -> None:
        num_rows, num_candidates = len(state), asked.num_candidates
        if asked != self._bound[1]:
            self._ask(asked)
        if len(self._ids) != num_rows:
            self._ids = np.zeros(num_rows, np.int64)
        self._candidates = np.empty((num_rows, num_candidates), np.int64)
        self._log_probs = np.empty((num_rows, num_candidates), np.float32)
        self._bind_host_output("candidates", self._candidates)
        self._bind_host_output("log_probs", self._log_probs)
        if asked.has_logits:
            self._logits = np.empty((num_rows, self._sizes.vocabulary_size), np.float32)
            self._bind_host_output("logits", self._logits)
        if self._sizes.num_probes:
            self._probes = np.empty((num_rows, self._sizes.num_probes), np.float32)
            self._bind_host_output("probes", self._probes)
        if asked.has_attention:
            shape = (num_rows, self._sizes.num_alignment_heads, state.memory_size)
            self._alignment = np.empty(shape, np.float32)
            self._bind_host_output("alignment", self._alignment)
        self._bind_rows(state)
        for placed in state.memory():
            if placed.name in self._input_names:
                self._bind_input(placed)
        if self._shortlist is not None:
            for name, value in self._shortlist.of(state, self._num_candidates):
                self._binding.bind_ortvalue_input(name, value)
        for placed in state.growing():
            self._bind_input(placed)
            self._bind_output(placed)
        self._bound = (state.layout, asked)

    def _ask(self, asked: _Asked) -> None:
        """Other outputs from now on."""
        self._binding.clear_binding_outputs()
        self._num_candidates[0] = asked.num_candidates
        self._num_alignments[0] = self._sizes.num_alignment_heads if asked.has_attention else 0
        if self._device != "cpu":
            self._bind_number("num_candidates", self._num_candidates)
            self._bind_number("num_alignments", self._num_alignments)

    def _bind_rows(self, state: SlotState) -> None:
        """What the host writes of every row and source. On the CPU the graph reads these very arrays."""
        self._binding.bind_cpu_input("ids", self._ids)
        if "positions" in self._input_names:
            self._binding.bind_cpu_input("positions", state.positions)
        if "memory_lengths" in self._input_names:
            self._binding.bind_cpu_input("memory_lengths", state.memory_lengths)

    def _bind_number(self, name: str, array: Any) -> None:
        if name in self._input_names:
            self._binding.bind_cpu_input(name, array)

    def _bind_input(self, placed: Placed) -> None:
        name, dtype, shape, address = placed
        self._binding.bind_input(name, self._device, 0, dtype, shape, address)

    def _bind_output(self, placed: Placed) -> None:
        name, dtype, shape, address = placed
        self._binding.bind_output(f"{name}.next", self._device, 0, dtype, shape, address)

    def _bind_host_output(self, name: str, array: Any) -> None:
        self._binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
