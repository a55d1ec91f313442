"""A small ONNX graph builder: nodes, initializers, inputs and outputs of one graph in one precision."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from app.export.lexicon import Lexicon
from app.export.quantize import LayerInputs
from app.store.manifest import VariantName

Array = npt.NDArray[Any]
# Axis lengths by number, or by name where only the run knows them.
Shape = Sequence[int | str]

OPSET = 21
IR_VERSION = 10
CONTRIB = "com.microsoft"


class GraphBuilder:
    """Collects one graph. A tensor is handled by its name; float tensors are `float_dtype` unless said otherwise.

    `inputs_of` tells what is known of a layer's inputs: see `calibration`. With a `lexicon` the vocabulary is cut to a
    shortlist: see `shortlist`.
    """

    def __init__(
        self,
        name: str,
        variant: VariantName,
        inputs_of: Mapping[nn.Module, LayerInputs] | None = None,
        lexicon: Lexicon | None = None,
    ) -> None:
        self.name = name
        self.variant = variant
        self.inputs_of = inputs_of or {}
        self.lexicon = lexicon
        self.float_dtype: npt.DTypeLike = np.float16 if variant == "fp16" else np.float32
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    @property
    def is_int8(self) -> bool:
        return self.variant in ("int8", "int8-fast")

    @property
    def has_batch_scale(self) -> bool:
        """What int8-fast gives up for speed: independence of neighbours, or with a lexicon a part of the vocabulary."""
        return self.variant == "int8-fast" and self.lexicon is None

    @property
    def float_type(self) -> int:
        return int(TensorProto.FLOAT16 if self.variant == "fp16" else TensorProto.FLOAT)

    def input(self, name: str, element_type: int, shape: Shape) -> str:
        self._inputs.append(helper.make_tensor_value_info(name, element_type, list(shape)))
        return name

    def output(self, name: str, element_type: int, shape: Shape) -> str:
        """Declare an output; some node must then be told to write it (`out=name`)."""
        self._outputs.append(helper.make_tensor_value_info(name, element_type, list(shape)))
        return name

    def constant(self, value: npt.ArrayLike, dtype: npt.DTypeLike) -> str:
        """An initializer with these values; equal ones are stored once."""
        array = np.ascontiguousarray(np.asarray(value, dtype=dtype).reshape(np.shape(value)))
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = f"constant_{len(self._initializers)}"
            self._initializers.append(numpy_helper.from_array(array, name))
            self._constants[key] = name
        return self._constants[key]

    def integers(self, *values: int) -> str:
        """A 1-D int64 constant: axes, shapes."""
        return self.constant(values, np.int64)

    def floats(self, value: npt.ArrayLike) -> str:
        """A float constant in the graph's own precision."""
        return self.constant(value, self.float_dtype)

    def op(self, op_type: str, *inputs: str, out: str | None = None, domain: str = "", **attributes: Any) -> str:
        """Add a node with one output; give its name. An absent optional input is ""."""
        return self.ops(op_type, *inputs, outs=[out or self._fresh(op_type)], domain=domain, **attributes)[0]

    def ops(
        self, op_type: str, *inputs: str, outs: Sequence[str] | int, domain: str = "", **attributes: Any
    ) -> Sequence[str]:
        """Add a node with several outputs: their names, or how many."""
        names = [f"{self._fresh(op_type)}_{i}" for i in range(outs)] if isinstance(outs, int) else outs
        name = f"node_{len(self._nodes)}_{op_type}"
        self._nodes.append(helper.make_node(op_type, list(inputs), list(names), name, domain=domain, **attributes))
        return names

    def _fresh(self, op_type: str) -> str:
        return f"{op_type.lower()}_{len(self._nodes)}"

    def model(self) -> onnx.ModelProto:
        """The whole graph, checked."""
        graph = helper.make_graph(self._nodes, self.name, self._inputs, self._outputs, self._initializers)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="seq2serve")
        onnx.checker.check_model(model)
        return model


def as_array(tensor: Tensor) -> npt.NDArray[np.float32]:
    """A weight as a float32 array of its own."""
    array: npt.NDArray[np.float32] = tensor.detach().cpu().float().numpy().copy()
    return array
