"""Weights in graphs: linear layers and embeddings, each in the precision of the graph.

int8: weights are int8 with one scale an output channel; activations are uint8 with zero point 128 and one scale that
was found before (`calibration`), or a scale for each *row*: an answer never depends on its neighbours. In int8-fast
without a shortlist one scale is found for the whole batch as it runs, and it does.
"""

import numpy as np
from onnx import TensorProto

from app.export.builder import CONTRIB, GraphBuilder
from app.export.quantize import LEVELS, LayerInputs, Weight, quantize

ACTIVATION_ZERO_POINT = 128
# Of numbers that share a scale in a table that is looked up; all are powers of 2.
SMALLEST_BLOCK = 16
# Keeps a row of zeros from dividing by zero.
SMALLEST_ROW_MAXIMUM = 1e-8


def linear(graph: GraphBuilder, x: str, weight: Weight, bias: Weight | None, inputs: LayerInputs | None = None) -> str:
    """x @ weight.T + bias. Shapes: x [..., D], weight [N, D] as PyTorch keeps it, bias [N] -> [..., N].

    `inputs` is what the int8 variants know of x; None: x is scaled by row.
    """
    added = None if bias is None else graph.floats(bias)
    if graph.is_int8:
        codes, scales = quantize(weight, inputs)
        names = graph.constant(codes.T, np.int8), graph.constant(scales, np.float32)
        return product_int8(graph, x, *names, added, inputs)
    y = graph.op("MatMul", x, graph.floats(weight.T))
    return y if added is None else graph.op("Add", y, added)


def relu_linear(graph: GraphBuilder, x: str, weight: Weight, bias: Weight, inputs: LayerInputs | None) -> str:
    """max(x, 0) @ weight.T + bias, as `linear`. With a range, int8 needs no Relu: codes begin at 0, and there are twice
    as many for what is above."""
    if not graph.is_int8 or graph.has_batch_scale or inputs is None:
        return linear(graph, graph.op("Relu", x), weight, bias, inputs)
    codes, scales = quantize(weight, inputs)
    step, zero = graph.constant(inputs.largest / (2 * LEVELS + 1), np.float32), graph.constant(0, np.uint8)
    quantized = graph.op("QuantizeLinear", x, step, zero)
    names = graph.constant(codes.T, np.int8), step, graph.constant(scales, np.float32)
    return graph.op("MatMulIntegerToFloat", quantized, *names, zero, "", graph.floats(bias), domain=CONTRIB)


def product_int8(
    graph: GraphBuilder,
    x: str,
    codes: str,
    scales: str,
    bias: str | None = None,
    inputs: LayerInputs | None = None,
    out: str | None = None,
) -> str:
    """x [..., D] @ codes [D, N] * scales [N] + bias [N], x quantized; written to `out`."""
    added = () if bias is None else ("", bias)
    if graph.has_batch_scale:
        return graph.op("DynamicQuantizeMatMul", x, codes, scales, *added, domain=CONTRIB, out=out)
    zero = graph.constant(ACTIVATION_ZERO_POINT, np.uint8)
    # No zero point for the weights: where ONNX Runtime makes them unsigned, it can not replace one that is shared.
    if inputs is not None:
        step = graph.constant(inputs.largest / LEVELS, np.float32)
        quantized = graph.op("QuantizeLinear", x, step, zero)
        return graph.op("MatMulIntegerToFloat", quantized, codes, step, scales, zero, *added, domain=CONTRIB, out=out)
    magnitude = graph.op("ReduceMax", graph.op("Abs", x), graph.integers(-1), keepdims=1)
    magnitude = graph.op("Max", magnitude, graph.constant(SMALLEST_ROW_MAXIMUM, np.float32))
    step = graph.constant(1 / LEVELS, np.float32)
    quantized = graph.op("QuantizeLinear", graph.op("Div", x, magnitude), step, zero)
    y = graph.op("MatMulIntegerToFloat", quantized, codes, step, scales, zero, domain=CONTRIB)
    if bias is None:
        return graph.op("Mul", y, magnitude, out=out)
    return graph.op("Add", graph.op("Mul", y, magnitude), bias, out=out)


def stored_small(graph: GraphBuilder, weight: Weight) -> str:
    """A table that is added, not multiplied with: the int8 variant stores it as float16.

    The cast is folded into a constant when ONNX Runtime loads the graph.
    """
    if not graph.is_int8:
        return graph.floats(weight)
    return graph.op("Cast", graph.constant(weight, np.float16), to=TensorProto.FLOAT)


def stored_int8(graph: GraphBuilder, weight: Weight) -> str:
    """A weight [N, D] for an operator that has no int8 form: stored as codes in the int8 variant, used as float32."""
    if not graph.is_int8:
        return graph.floats(weight)
    codes, scales = quantize(weight)
    values = graph.op("Cast", graph.constant(codes, np.int8), to=TensorProto.FLOAT)
    # Not DequantizeLinear: ONNX Runtime does not fold that into a constant, and would repeat it every run.
    return graph.op("Mul", values, graph.constant(scales[:, None], np.float32))


class Embedding:
    """A table [V, D] in a graph that is looked up and, where it is tied, also multiplied with.

    `inputs` is what is known of what it is multiplied with, as for `linear`.
    """

    def __init__(self, graph: GraphBuilder, weight: Weight, inputs: LayerInputs | None = None) -> None:
        self._graph, self._inputs = graph, inputs
        if graph.is_int8:
            codes, scales = quantize(weight, inputs)
            self._table = graph.constant(codes, np.int8)
            self._scales = graph.constant(scales, np.float32)
            self._whole_row = max(SMALLEST_BLOCK, 1 << (weight.shape[1] - 1).bit_length())
        else:
            self._table = graph.floats(weight)

    def lookup(self, ids: str, factor: float = 1.0) -> str:
        """Rows of the table times `factor`. Shapes: ids [...] -> [..., D]."""
        graph = self._graph
        if not graph.is_int8:
            rows = graph.op("Gather", self._table, ids)
            return rows if factor == 1.0 else graph.op("Mul", rows, graph.floats(factor))
        # One operator that gathers and scales; it wants codes that begin at 0. ONNX Runtime folds the rest at load.
        codes = graph.op("Cast", self._table, to=TensorProto.INT32)
        codes = graph.op("Add", codes, graph.constant(ACTIVATION_ZERO_POINT, np.int32))
        codes = graph.op("Cast", codes, to=TensorProto.UINT8)
        scales = graph.op("Unsqueeze", self._scales, graph.integers(1))
        scales = graph.op("Mul", scales, graph.floats(factor))
        return graph.op("GatherBlockQuantized", codes, ids, scales, domain=CONTRIB, bits=8, block_size=self._whole_row)

    def project(self, x: str, bias: Weight, out: str | None) -> str:
        """x @ table.T + bias in float32. Shapes: x [..., D], bias [V] -> [..., V]."""
        graph, added = self._graph, self._graph.constant(bias, np.float32)
        # Stored once as [V, D]: ONNX Runtime folds the transposition into a constant when it loads the graph.
        table = graph.op("Transpose", self._table, perm=[1, 0])
        if graph.is_int8:
            return product_int8(graph, x, table, self._scales, added, self._inputs, out)
        return graph.op("Add", graph.op("Cast", graph.op("MatMul", x, table), to=TensorProto.FLOAT), added, out=out)
