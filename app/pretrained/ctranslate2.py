"""CTranslate2's `model.bin`: reads every variable, quantized or not, as a float array.

Layout, little-endian: u32 binary version; string name of the model's kind; u32 its revision; u32 number of variables,
each a string name, u8 rank, u32 a dimension, u8 type and u32 size in bytes (before version 4: u8 bytes an item and
u32 number of items), and the bytes in C order; from version 3 on u32 number of aliases, each a string alias and the
string name that it stands for. A string is a u16 length, the closing NUL counted, and the bytes.
Source: ctranslate2 `python/ctranslate2/specs/model_spec.py`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from app.errors import CheckpointError

Array = npt.NDArray[Any]

_KNOWN_VERSIONS = range(2, 7)
_BFLOAT16 = 5
_TYPES: dict[int, type[np.generic]] = {
    0: np.float32,
    1: np.int8,
    2: np.int16,
    3: np.int32,
    4: np.float16,
    _BFLOAT16: np.uint16,
}
_TYPE_OF_ITEM_SIZE = {4: 0, 2: 2, 1: 1}
_SCALE = "_scale"


@dataclass(frozen=True, slots=True)
class Variables:
    """What a model.bin holds: `weights` have at least one axis, `settings` are its scalars. Aliases are resolved."""

    kind: str
    weights: dict[str, Array]
    settings: dict[str, float]


def read_variables(path: Path) -> Variables:
    """Every variable of a `model.bin`; integers with a scale have become what they stand for.

    Raises: CheckpointError for a file that is cut short, too long, or of another version.
    """
    reader = _Reader(path)
    version = reader.number(4)
    if version not in _KNOWN_VERSIONS:
        raise CheckpointError(
            f"{path}: binary version {version} of CTranslate2, versions {_KNOWN_VERSIONS.start} to "
            f"{_KNOWN_VERSIONS.stop - 1} are read; convert the model again"
        )
    kind, _ = reader.text(), reader.number(4)
    values = dict(reader.variable(version) for _ in range(reader.number(4)))
    aliases = [(reader.text(), reader.text()) for _ in range(reader.number(4))] if version >= 3 else []
    reader.check_end()
    for alias, name in aliases:
        if name not in values:
            raise CheckpointError(f"{path}: {alias} stands for {name}, which is not there; get the file again")
        values[alias] = values[name]
        if name + _SCALE in values:
            values[alias + _SCALE] = values[name + _SCALE]
    scales = {name for name in values if name.removesuffix(_SCALE) in values and name.endswith(_SCALE)}
    weights = {
        name: _dequantized(value, values.get(name + _SCALE))
        for name, value in values.items()
        if value.ndim and name not in scales
    }
    settings = {name: float(value) for name, value in values.items() if not value.ndim and name not in scales}
    return Variables(kind, weights, settings)


def _dequantized(value: Array, scale: Array | None) -> Array:
    """A code stands for code / scale; a matrix has one scale, or one for every row."""
    if scale is None:
        return value
    rows = scale.astype(np.float32).reshape(scale.shape + (1,) * (value.ndim - scale.ndim))
    return value.astype(np.float32) / rows


class _Reader:
    def __init__(self, path: Path) -> None:
        try:
            self._data = np.memmap(path, np.uint8, "r")
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path}: not readable ({error}); get the file again") from error
        self._path = path
        self._at = 0

    def take(self, count: int) -> Array:
        if self._at + count > len(self._data):
            raise CheckpointError(f"{self._path}: is cut short at byte {len(self._data)}; get the file again")
        self._at += count
        return self._data[self._at - count : self._at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size).tobytes(), "little")

    def text(self) -> str:
        raw = self.take(self.number(2)).tobytes()
        try:
            return raw.rstrip(b"\0").decode()
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{self._path}: no name at byte {self._at}; it is no model.bin") from error

    def variable(self, version: int) -> tuple[str, Array]:
        name, shape = self.text(), [self.number(4) for _ in range(self.number(1))]
        if version >= 4:
            kind = self.number(1)
            size = self.number(4)
        else:
            item = self.number(1)
            kind = _TYPE_OF_ITEM_SIZE.get(item, -1)
            size = item * self.number(4)
        if kind not in _TYPES:
            raise CheckpointError(f"{self._path}: {name} has type {kind}, which is not known")
        try:
            values: Array = self.take(size).view(_TYPES[kind]).reshape(shape)
        except ValueError as error:
            raise CheckpointError(f"{self._path}: {name} {shape} has {size} bytes; get the file again") from error
        if kind == _BFLOAT16:  # the upper half of a float32
            values = (values.astype(np.uint32) << 16).view(np.float32)
        return name, values

    def check_end(self) -> None:
        if self._at != len(self._data):
            raise CheckpointError(f"{self._path}: {len(self._data) - self._at} bytes are left over; get the file again")
