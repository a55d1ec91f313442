"""Weights as 8-bit codes.

u8 x s8 is what processors multiply fastest. With AVX2 alone they add the products of two neighbouring weights in 16
bits, where two large ones overflow: scales are such that none do.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Weight = npt.NDArray[np.float32]
Moments = npt.NDArray[np.float64]

LEVELS = 127.0
# 255 x 128 is the largest product that 16 bits hold: so much may two neighbouring codes of one sign add up to.
LARGEST_PAIR = 128.0
# Columns that are rounded before what they leave is taken to all columns behind.
_BLOCK = 64
# Of the mean second moment, added to each: inputs that were never seen have none.
_DAMPING = 0.01


@dataclass(frozen=True, slots=True)
class LayerInputs:
    """What is known of a layer's inputs x [N, D]. `largest`: the magnitude at which int8 cuts them; `moments` [D, D]:
    the sum of x x^T."""

    largest: float
    moments: Moments


def quantize(weight: Weight, inputs: LayerInputs | None = None) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Symmetric 8-bit codes with one scale a row, of which no two neighbours overflow 16 bits when they are multiplied
    by 8-bit codes and added. Shapes: [N, D] -> int8 [N, D], float32 [N].

    Where the `inputs` are known that `weight` is multiplied with, the error that rounding a column leaves is taken back
    by the columns behind it as far as these inputs allow (Frantar et al. 2022, GPTQ); else all codes are the nearest.
    """
    paired = weight[:, : weight.shape[1] // 2 * 2].reshape(len(weight), -1, 2).sum(axis=2, dtype=np.float64)
    largest = np.abs(weight).max(axis=1)
    # Rounding may add half a code to each of two.
    of_pairs = np.abs(paired).max(axis=1, initial=0) / (LARGEST_PAIR - 1)
    scales = np.maximum(largest / LEVELS, of_pairs).astype(np.float32)
    # Below the smallest normal number a scale has too few digits left: such rows are 0.
    scales[scales < np.finfo(np.float32).tiny] = 1.0
    scaled = weight / scales[:, None]
    if inputs is not None:
        return _rounded_with_feedback(scaled, inputs.moments).astype(np.int8), scales
    return np.clip(np.rint(scaled), -LEVELS, LEVELS).astype(np.int8), scales


def _rounded_with_feedback(scaled: Weight, moments: Moments) -> Weight:
    """Whole numbers near `scaled` [N, D] whose products with inputs of these `moments` are nearest."""
    rest, codes, width = scaled.copy(), np.empty_like(scaled), scaled.shape[1]
    damped = moments + np.eye(width) * (_DAMPING * np.mean(np.diag(moments)))
    # Row j tells how an error in column j is spread over the columns behind.
    spread = np.linalg.cholesky(np.linalg.inv(damped)).T.astype(np.float32)
    for start in range(0, width, _BLOCK):
        end = min(start + _BLOCK, width)
        errors = np.empty((len(rest), end - start), np.float32)
        for column in range(start, end):
            code = np.clip(np.rint(rest[:, column]), -LEVELS, LEVELS)
            if column % 2:
                code = np.clip(code, -LARGEST_PAIR - codes[:, column - 1], LARGEST_PAIR - codes[:, column - 1])
            codes[:, column] = code
            error = (rest[:, column] - code) / spread[column, column]
            rest[:, column + 1 : end] -= error[:, None] * spread[column, column + 1 : end]
            errors[:, column - start] = error
        rest[:, end:] -= errors @ spread[start:end, end:]
    return codes
