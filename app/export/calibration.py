"""How large the inputs of linear layers get, so that int8 can quantize them with scales that are known beforehand.

A scale that is known costs nothing at run time, and keeps an answer independent of its neighbours.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from app.decoding.interface import SearchOptions, Source
from app.decoding.running import generate
from app.models.stepping import TorchModel


def input_ranges(
    reference: TorchModel, sources: Sequence[Source], max_length: int, prefix: tuple[int, ...] = ()
) -> dict[nn.Module, float]:
    """The largest magnitude that went into every linear layer while `sources` were decoded greedily."""
    ranges: dict[nn.Module, float] = {}

    def note(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        ranges[layer] = max(ranges.get(layer, 0.0), float(inputs[0].abs().max()))

    linears = [layer for layer in reference.model.modules() if isinstance(layer, nn.Linear)]
    hooks = [layer.register_forward_pre_hook(note) for layer in linears]
    try:
        longest = min(max_length, reference.max_target_length)
        generate(reference, sources, SearchOptions(max_length=longest, prefix=prefix))
    finally:
        for hook in hooks:
            hook.remove()
    return {layer: largest for layer, largest in ranges.items() if largest > 0}
