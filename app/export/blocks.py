"""Pieces of graph that all architectures share."""

import numpy as np
from onnx import TensorProto
from torch import nn

from app.export.builder import GraphBuilder, as_array
from app.export.linear import linear

# The score of padding, so low that its share of a softmax is exactly 0; fits float16.
MASKED_SCORE = -60_000.0


def layer_linear(graph: GraphBuilder, layer: nn.Linear, x: str) -> str:
    """A PyTorch linear layer in the precision of the graph."""
    bias = None if layer.bias is None else as_array(layer.bias)
    return linear(graph, x, as_array(layer.weight), bias, graph.inputs_of.get(layer))


def length_mask(graph: GraphBuilder, lengths: str, size: str) -> str:
    """True at real positions: lengths [B], size [1] -> bool [B, S]."""
    zero, one = graph.constant(0, np.int64), graph.constant(1, np.int64)
    places = graph.op("Range", zero, graph.op("Squeeze", size), one)
    return graph.op("Less", places, graph.op("Unsqueeze", lengths, graph.integers(1)))


def group_rows(graph: GraphBuilder, x: str, lengths: str, width: int) -> str:
    """[R, D] -> [B, R / B, D]: the rows of one source stand where positions stand, so its memory is never repeated.

    `lengths` [B] only says how many sources there are.
    """
    shape = graph.op("Concat", graph.op("Shape", lengths), graph.integers(-1, width), axis=0)
    return graph.op("Reshape", x, shape)


def in_float32(graph: GraphBuilder, x: str) -> str:
    """x, cast in a float16 graph."""
    # Only where it does something: ONNX Runtime 1.32 removes other casts together with what reads them.
    return graph.op("Cast", x, to=TensorProto.FLOAT) if graph.float_type == TensorProto.FLOAT16 else x


def declare_memory_lengths(graph: GraphBuilder, lengths: str) -> None:
    """The encode graph's output `memory_lengths` [B]: text memory is as long as its source."""
    graph.op("Identity", lengths, out=graph.output("memory_lengths", TensorProto.INT64, ["B"]))
