"""The pieces of the vocabulary that a step scores, where a model has a shortlist."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from app.decoding.interface import Ids
from app.engine.state import SlotState

ALLOWED = "allowed"
SHORTLIST_INPUTS = frozenset({ALLOWED, "union", "num_candidates"})


class Shortlist:
    """Runs the shortlist graph on the CPU: from what the sources of a state allow to what the step multiplies with.

    `outputs` are the names of the latter.
    """

    def __init__(self, session: Any) -> None:
        self._session = session
        self.outputs = [value.name for value in session.get_outputs()]

    def of(self, state: SlotState, num_candidates: Ids) -> Iterator[tuple[str, Any]]:
        """Inputs of the step by name, as `OrtValue`s; `num_candidates` [1] is how many there are at least."""
        allowed = state.memory_of(ALLOWED)
        union = np.flatnonzero(np.bitwise_or.reduce(allowed, axis=0))
        binding = self._session.io_binding()
        binding.bind_cpu_input(ALLOWED, allowed)
        binding.bind_cpu_input("union", union)
        binding.bind_cpu_input("num_candidates", num_candidates)
        for name in self.outputs:
            binding.bind_output(name, "cpu")
        self._session.run_with_iobinding(binding)
        return zip(self.outputs, binding.get_outputs(), strict=True)
