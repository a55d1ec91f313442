"""Where tensors live, host or CUDA device, and how rows are copied there."""

import ctypes
import math
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnxruntime

from app.errors import DeviceError

Array = Any  # np.ndarray on the host, onnxruntime.OrtValue on a device
Rows = slice | npt.NDArray[np.int64]


class Arrays(Protocol):
    """One kind of memory."""

    @property
    def device(self) -> str:
        """As IO binding names it: `cpu` or `cuda`."""

    def zeros(self, shape: tuple[int, ...], dtype: str) -> Array:
        """A new array."""

    def adopt(self, value: Any) -> Array:
        """The array in an OrtValue that a session gave."""

    def shape(self, array: Array) -> tuple[int, ...]:
        """Its sizes."""

    def address(self, array: Array) -> int:
        """Where it begins. A prefix of its rows begins there too, and has no gaps."""

    def copy_rows(
        self,
        target: Array,
        target_rows: Rows,
        origin: Array,
        origin_rows: Rows,
        axis: int | None,
        length: int,
        begins: npt.NDArray[np.integer[Any]] | None = None,
    ) -> None:
        """Copy rows, and of `axis` (if there is one) only the first `length` positions. As if all rows were read
        before the first is written. Of the n-th row, the first `begins[n]` positions need no copy: they are the same.
        """


class HostArrays:
    device = "cpu"

    def zeros(self, shape: tuple[int, ...], dtype: str) -> Array:
        return np.zeros(shape, dtype)

    def adopt(self, value: Any) -> Array:
        return value.numpy()

    def shape(self, array: Array) -> tuple[int, ...]:
        sizes: tuple[int, ...] = array.shape
        return sizes

    def address(self, array: Array) -> int:
        return int(array.ctypes.data)

    def copy_rows(
        self,
        target: Array,
        target_rows: Rows,
        origin: Array,
        origin_rows: Rows,
        axis: int | None,
        length: int,
        begins: npt.NDArray[np.integer[Any]] | None = None,
    ) -> None:
        window = () if axis is None else (slice(None),) * (axis - 1) + (slice(length),)
        if isinstance(target_rows, slice) or isinstance(origin_rows, slice):
            target[(target_rows, *window)] = origin[(origin_rows, *window)]
            return
        to, of = target_rows.tolist(), origin_rows.tolist()
        if target is origin and not set(to).isdisjoint(of):
            target[(target_rows, *window)] = origin[(origin_rows, *window)]  # by way of a copy of all rows
            return
        if axis is None or begins is None:
            for into, out in zip(to, of, strict=True):  # without it: half the time
                target[(into, *window)] = origin[(out, *window)]
            return
        for into, out, begin in zip(to, of, begins.tolist(), strict=True):
            part = (*window[:-1], slice(begin, length))
            target[(into, *part)] = origin[(out, *part)]


class CudaArrays:
    """Device 0. `runtime` is the CUDA runtime library, the one that ONNX Runtime itself has loaded.

    Copies have ended when `copy_rows` returns, as a session's run has when it returns: no two ever overlap.
    """

    device = "cuda"
    _DEVICE_TO_DEVICE = 3

    def __init__(self, runtime: ctypes.CDLL) -> None:
        self.runtime = runtime

    def zeros(self, shape: tuple[int, ...], dtype: str) -> Array:
        array = onnxruntime.OrtValue.ortvalue_from_shape_and_type(list(shape), np.dtype(dtype).type, self.device, 0)
        if size := array.tensor_size_in_bytes():
            self._call("cudaMemset", ctypes.c_void_p(array.data_ptr()), 0, ctypes.c_size_t(size))
            self._call("cudaDeviceSynchronize")  # sessions have a stream of their own
        return array

    def adopt(self, value: Any) -> Array:
        return value

    def shape(self, array: Array) -> tuple[int, ...]:
        return tuple(array.shape())

    def address(self, array: Array) -> int:
        return int(array.data_ptr())

    def copy_rows(
        self,
        target: Array,
        target_rows: Rows,
        origin: Array,
        origin_rows: Rows,
        axis: int | None,
        length: int,
        begins: npt.NDArray[np.integer[Any]] | None = None,
    ) -> None:
        to = np.arange(self.shape(target)[0])[target_rows].tolist()
        of = np.arange(self.shape(origin)[0])[origin_rows].tolist()
        source, goal = self._strips(origin, axis, length), self._strips(target, axis, length)
        if target is origin:  # a row may be both read and written: by way of a copy
            packed = self.zeros((max(len(of), 1), source.count * source.width), "uint8")
            row = source.count * source.width
            between = replace(source, address=self.address(packed), row=row, pitch=source.width)
            self._copy(between, list(range(len(of))), source, of)
            source, of = between, list(range(len(of)))
        self._copy(goal, to, source, of)

    def _strips(self, array: Array, axis: int | None, length: int) -> "_Strips":
        shape = self.shape(array)
        row = array.tensor_size_in_bytes() // max(shape[0], 1)
        if axis is None:
            return _Strips(self.address(array), row, 1, row, row)
        count = math.prod(shape[1:axis])
        pitch = row // count
        return _Strips(self.address(array), row, count, pitch, pitch // max(shape[axis], 1) * length)

    def _copy(self, goal: "_Strips", to: list[int], source: "_Strips", of: list[int]) -> None:
        if not goal.width:
            return
        for into, out in zip(to, of, strict=True):
            self._call(
                "cudaMemcpy2D",
                ctypes.c_void_p(goal.address + into * goal.row),
                ctypes.c_size_t(goal.pitch),
                ctypes.c_void_p(source.address + out * source.row),
                ctypes.c_size_t(source.pitch),
                ctypes.c_size_t(goal.width),
                ctypes.c_size_t(goal.count),
                self._DEVICE_TO_DEVICE,
            )
        self._call("cudaDeviceSynchronize")

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self.runtime, name)(*arguments)
        if status:
            raise DeviceError(f"CUDA: {name} failed with status {status}; restart the service, or use device=cpu")


@dataclass(frozen=True, slots=True)
class _Strips:
    """Rows in memory: each has `count` strips, `pitch` bytes apart, of which `width` bytes are in use."""

    address: int
    row: int
    count: int
    pitch: int
    width: int


def open_arrays(device: str) -> Arrays:
    """The memory of `cpu` or `cuda`. Raises: DeviceError without the CUDA runtime library."""
    if device == "cpu":
        return HostArrays()
    for name in ("libcudart.so.13", "libcudart.so.12"):  # what `preload_dlls` loaded is found by its name
        try:
            return CudaArrays(ctypes.CDLL(name))
        except OSError:
            continue
    raise DeviceError("no CUDA runtime (libcudart.so.13 or .12): pip install 'seq2serve[gpu]', or use device=cpu")
