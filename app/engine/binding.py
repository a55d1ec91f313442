"""The step graph bound to a state's memory: made once for a layout and used, without copies, while it lasts."""

from typing import Any

import numpy as np

from app.decoding.interface import Candidates, Floats, Ids
from app.engine.state import Placed, SlotState


class StepBinding:
    """Runs the step graph over one state at a time. `device` is where the state's tensors live."""

    def __init__(self, session: Any, device: str, vocabulary_size: int) -> None:
        self._session = session
        self._device = device
        self._vocabulary_size = vocabulary_size
        self._input_names = {value.name for value in session.get_inputs()}
        self._binding = session.io_binding()
        self._bound: tuple[object, int, bool] = (None, 0, False)
        self._ids = np.zeros(0, np.int64)
        self._candidates = np.zeros((0, 0), np.int64)
        self._log_probs = np.zeros((0, 0), np.float32)
        self._logits = np.zeros((0, 0), np.float32)
        self._total_length = np.zeros((), np.int32)
        self._num_candidates = np.zeros(1, np.int64)
        self._bind_number("total_length", self._total_length)
        self._bind_number("num_candidates", self._num_candidates)

    def run(self, ids: Ids, state: SlotState, num_candidates: int) -> Candidates:
        """One step of every row; the state is advanced."""
        self._run(ids, state, num_candidates, has_logits=False)
        return Candidates(self._candidates[state.order], self._log_probs[state.order])

    def run_for_logits(self, ids: Ids, state: SlotState) -> Floats:
        """One step of every row, the state is advanced -> logits [R, V]."""
        self._run(ids, state, 1, has_logits=True)
        logits: Floats = self._logits[state.order]
        return logits

    def _run(self, ids: Ids, state: SlotState, num_candidates: int, has_logits: bool) -> None:
        state.make_room()
        layout, bound_candidates, bound_logits = self._bound
        if layout is not state.layout or bound_candidates != num_candidates or bound_logits != has_logits:
            self._bind(state, num_candidates, has_logits)
        self._ids[state.order] = ids
        self._total_length[...] = state.num_used + 1
        if self._device != "cpu":  # a device gets its copy when an input is bound
            self._bind_rows(state)
            self._bind_number("total_length", self._total_length)
        for before, after in state.fixed():
            self._bind_input(before)
            self._bind_output(after)
        self._session.run_with_iobinding(self._binding)
        state.advance()

    def _bind(self, state: SlotState, num_candidates: int, has_logits: bool) -> None:
        num_rows = len(state)
        if has_logits != self._bound[2]:
            self._binding.clear_binding_outputs()
        if self._num_candidates[0] != num_candidates:
            self._num_candidates[0] = num_candidates
            self._bind_number("num_candidates", self._num_candidates)
        if len(self._ids) != num_rows:
            self._ids = np.zeros(num_rows, np.int64)
        self._candidates = np.empty((num_rows, num_candidates), np.int64)
        self._log_probs = np.empty((num_rows, num_candidates), np.float32)
        self._bind_host_output("candidates", self._candidates)
        self._bind_host_output("log_probs", self._log_probs)
        if has_logits:
            self._logits = np.empty((num_rows, self._vocabulary_size), np.float32)
            self._bind_host_output("logits", self._logits)
        self._bind_rows(state)
        for placed in state.memory():
            self._bind_input(placed)
        for placed in state.growing():
            self._bind_input(placed)
            self._bind_output(placed)
        self._bound = (state.layout, num_candidates, has_logits)

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
