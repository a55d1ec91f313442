"""What goes into linear layers, so that int8 can quantize inputs with scales that are known beforehand, and round
weights for these inputs.

A scale that is known costs nothing at run time, and keeps an answer independent of its neighbours.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from app.decoding.interface import SearchOptions, Source
from app.decoding.running import generate
from app.export.quantize import LEVELS, LayerInputs
from app.models.stepping import TorchModel

# Magnitudes are counted in classes, eight to an octave.
_OCTAVES, _CLASSES_AN_OCTAVE = 20, 8
_EDGES = 2.0 ** (np.arange(-_OCTAVES * _CLASSES_AN_OCTAVE, _OCTAVES * _CLASSES_AN_OCTAVE + 1) / _CLASSES_AN_OCTAVE)


def measure_inputs(
    reference: TorchModel, sources: Sequence[Source], max_length: int, prefix: tuple[int, ...] = ()
) -> dict[nn.Module, LayerInputs]:
    """What went into every linear layer while `sources` were decoded greedily."""
    tallies: dict[nn.Module, _Tally] = {}

    def note(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        tallies.setdefault(layer, _Tally()).add(inputs[0].detach().flatten(0, -2))

    linears = [layer for layer in reference.model.modules() if isinstance(layer, nn.Linear)]
    hooks = [layer.register_forward_pre_hook(note) for layer in linears]
    try:
        longest = min(max_length, reference.max_target_length)
        generate(reference, sources, SearchOptions(max_length=longest, prefix=prefix))
    finally:
        for hook in hooks:
            hook.remove()
    return {layer: tally.result() for layer, tally in tallies.items() if tally.largest > 0}


@dataclass(slots=True)
class _Tally:
    """Sums over the inputs of one layer."""

    largest: float = 0.0
    lowest: float = 0.0
    moments: Tensor | float = 0.0
    counts: Tensor = field(default_factory=lambda: torch.zeros(len(_EDGES) - 1))

    def add(self, x: Tensor) -> None:
        """x [N, D]."""
        magnitude = x.abs()
        self.largest = max(self.largest, float(magnitude.max()))
        self.lowest = min(self.lowest, float(x.min()))
        self.moments = self.moments + (x.T @ x).double()
        octaves = magnitude.clamp_min(float(_EDGES[0])).log2()
        self.counts += torch.histc(octaves, len(_EDGES) - 1, -_OCTAVES, _OCTAVES)

    def result(self) -> LayerInputs:
        assert isinstance(self.moments, Tensor)
        return LayerInputs(self._best_cut(), self.moments.numpy())

    def _best_cut(self) -> float:
        """The magnitude at which cutting, and rounding what is below, together lose least (by square)."""
        counts, middles = self.counts.double().numpy(), np.sqrt(_EDGES[:-1] * _EDGES[1:])
        num_levels = LEVELS if self.lowest < 0 else 2 * LEVELS + 1
        cuts = np.minimum(_EDGES[1:], self.largest)
        lost = [
            float((counts * np.maximum(middles - cut, 0) ** 2).sum() + counts.sum() * (cut / num_levels) ** 2 / 12)
            for cut in cuts
        ]
        return float(cuts[int(np.argmin(lost))])
