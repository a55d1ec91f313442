"""What an ONNX file needs besides itself, read from its bytes: the serving half has no `onnx` package."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from app.errors import ArtifactError

KNOWN_DOMAINS = frozenset({"", "ai.onnx", "com.microsoft"})

# The messages of onnx.proto that can hold an operator set or a tensor: field number -> message inside.
_CHILDREN = {
    "Model": {7: "Graph", 8: "OperatorSet", 25: "Function"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Function": {7: "Node", 9: "OperatorSet", 11: "Attribute"},
}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types
_OPERATOR_SET_DOMAIN = 1
_TENSOR_EXTERNAL_DATA, _TENSOR_DATA_LOCATION = 13, 14


def check_graph_file(path: Path) -> None:
    """Refuse a graph that reads other files, or that wants operators of a domain that ONNX Runtime does not bring.

    Raises: ArtifactError.
    """
    try:
        # Mapped, not read: of the weights, only the headers are looked at. An explicit `mmap` could not be closed
        # while an error's traceback holds views of it.
        _check_message(path, np.memmap(path, np.uint8, mode="r").data, "Model")
    except (OSError, ValueError, IndexError) as error:
        raise ArtifactError(
            f"{path.name}: not readable as an ONNX graph ({error}); publish the version again"
        ) from error


def _check_message(path: Path, data: memoryview, message: str) -> None:
    for number, value in _fields(data):
        child = _CHILDREN.get(message, {}).get(number)
        if child is not None and isinstance(value, memoryview):
            _check_message(path, value, child)
        elif message == "OperatorSet" and number == _OPERATOR_SET_DOMAIN and isinstance(value, memoryview):
            domain = bytes(value).decode()
            if domain not in KNOWN_DOMAINS:
                raise ArtifactError(
                    f"{path.name}: needs operators of domain {domain!r}, known are 'ai.onnx' and 'com.microsoft'; "
                    "export the model again with `seq2serve export`"
                )
        elif message == "Tensor" and (number == _TENSOR_EXTERNAL_DATA or (number == _TENSOR_DATA_LOCATION and value)):
            raise ArtifactError(
                f"{path.name}: keeps weights in another file, which is refused; export them inside the graph"
            )


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Field number and value of everything in one protobuf message; a value with a length comes as a view."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == _BYTES:
            size, at = _varint(data, at)
        elif wire in (_FIXED32, _FIXED64):
            size = 4 if wire == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {wire}")
        if at + size > len(data):
            raise ValueError("cut off")
        yield number, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """An integer of seven bits a byte, and the place behind it."""
    value, shift = 0, 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            return value, at
        if shift > 63:
            raise ValueError("an integer of more than 64 bits")
