"""Public tensor names to ours: nothing may be missing, nothing left over, and every shape has to fit."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from app.errors import CheckpointError

Array = npt.NDArray[Any]
# Our parameter -> the public tensors that it is made of, one below the other. None stands for zeros, as many as are
# beside it: a bias that the public model does not have. Without any tensor all of the parameter is zeros.
Rules = Mapping[str, Sequence[str | None]]

_MOST_NAMES = 20


def fill(model: nn.Module, tensors: Mapping[str, Array], rules: Rules, ignored: Collection[str] = ()) -> None:
    """Give every parameter of `model` the values of `tensors` that `rules` name; `ignored` tensors may be left over.

    Raises: CheckpointError with everything that is missing, left over or of another shape.
    """
    parameters = dict(model.named_parameters())
    assert rules.keys() == parameters.keys(), sorted(rules.keys() ^ parameters.keys())
    wanted = {name for parts in rules.values() for name in parts if name is not None}
    faults = [f"missing: {name}" for name in sorted(wanted - tensors.keys())]
    faults += [f"not known: {name}" for name in sorted(tensors.keys() - wanted - set(ignored))]
    for name, parts in rules.items():
        if all(part is None or part in tensors for part in parts):
            expected = tuple(parameters[name].shape)
            value = _joined(tensors, parts) if any(parts) else np.zeros(expected, np.float32)
            if value.shape == expected:
                with torch.no_grad():
                    parameters[name].copy_(torch.from_numpy(value))
            else:
                faults.append(f"shape: {name} is {list(expected)}, {' + '.join(map(str, parts))} {list(value.shape)}")
    if faults:
        shown = faults[:_MOST_NAMES] + ([f"and {len(faults) - _MOST_NAMES} more"] if len(faults) > _MOST_NAMES else [])
        raise CheckpointError(
            "the checkpoint's tensors do not fit the model that its configuration describes:\n  " + "\n  ".join(shown)
        )


def _joined(tensors: Mapping[str, Array], parts: Sequence[str | None]) -> Array:
    """The parts below each other, in float32; a part that is None has the shape of the first that is there."""
    present = next(tensors[part] for part in parts if part is not None)
    arrays = [np.zeros_like(present) if part is None else tensors[part] for part in parts]
    return np.ascontiguousarray(np.concatenate(arrays), dtype=np.float32)
