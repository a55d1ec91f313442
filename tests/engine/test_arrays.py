"""Both kinds of memory copy the same rows to the same places."""

import ctypes
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.arrays import CudaArrays, HostArrays, open_arrays
from app.errors import DeviceError


class HostRuntime:
    """The CUDA runtime's four calls, on the host's memory: what is tested is the arithmetic of addresses."""

    def cudaMemset(self, address: ctypes.c_void_p, value: int, size: ctypes.c_size_t) -> int:  # noqa: N802
        ctypes.memset(address, value, size.value)
        return 0

    def cudaMemcpy2D(self, to: Any, to_pitch: Any, of: Any, of_pitch: Any, width: Any, count: Any, _: int) -> int:  # noqa: N802
        assert width.value <= min(to_pitch.value, of_pitch.value)
        for strip in range(count.value):
            ctypes.memmove(to.value + strip * to_pitch.value, of.value + strip * of_pitch.value, width.value)
        return 0

    def cudaDeviceSynchronize(self) -> int:  # noqa: N802
        return 0


class HostCuda(CudaArrays):
    device = "cpu"


@given(st.data())
def test_device_copies_equal_host_copies(data: st.DataObject) -> None:
    host, device = HostArrays(), HostCuda(HostRuntime())  # type: ignore[arg-type]  # plays the library
    axis = data.draw(st.sampled_from([None, 1, 2]))
    sizes = [data.draw(st.integers(1, 4)) for _ in range(3)]
    other = list(sizes)
    if axis is not None:
        other[axis - 1] = data.draw(st.integers(1, 4))
    length = 0 if axis is None else data.draw(st.integers(0, min(sizes[axis - 1], other[axis - 1])))
    shapes = [(data.draw(st.integers(1, 5)), *sizes), (data.draw(st.integers(1, 5)), *other)]
    is_same = data.draw(st.booleans())
    dtype = data.draw(st.sampled_from(["float32", "float16"]))
    expected, found = [], []
    for number, shape in enumerate(shapes):
        values = np.arange(np.prod(shape)).reshape(shape) + 1000 * number
        expected.append(host.zeros(shape, dtype))
        found.append(device.zeros(shape, dtype))
        assert not found[-1].numpy().any()
        expected[-1][:] = found[-1].numpy()[:] = values
    origin = 0 if is_same else 1
    count = data.draw(st.integers(0, min(shapes[0][0], shapes[origin][0])))
    to = np.array(data.draw(st.permutations(range(shapes[0][0])))[:count], np.int64)
    of = np.array([data.draw(st.integers(0, shapes[origin][0] - 1)) for _ in range(count)], np.int64)
    host.copy_rows(expected[0], to, expected[origin], of, axis, length)
    device.copy_rows(found[0], to, found[origin], of, axis, length)
    host.copy_rows(expected[0], slice(count), expected[origin], slice(count), axis, length)
    device.copy_rows(found[0], slice(count), found[origin], slice(count), axis, length)
    np.testing.assert_array_equal(found[0].numpy(), expected[0])


def test_a_failing_runtime_call_is_a_device_error() -> None:
    runtime = HostRuntime()
    runtime.cudaMemset = lambda *_: 2  # type: ignore[method-assign]  # out of memory
    with pytest.raises(DeviceError, match="cudaMemset failed with status 2"):
        HostCuda(runtime).zeros((2, 3), "float32")  # type: ignore[arg-type]


def test_cuda_memory_without_the_runtime_library_is_a_device_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(sys.modules["app.engine.arrays"].ctypes, "CDLL", refuse)
    with pytest.raises(DeviceError, match="no CUDA runtime"):
        open_arrays("cuda")
