"""The copy mechanism of `app/models/copying` as pieces of graph, the same for every architecture."""

import numpy as np
from onnx import TensorProto

from app.export.blocks import MASKED_SCORE, group_rows, in_float32, layer_linear, length_mask
from app.export.builder import GraphBuilder, as_array
from app.models.copying import SMALLEST_PROBABILITY, CopyAttention


def add_copy_memory(graph: GraphBuilder, copy: CopyAttention, memory: str, source: str, *, by_position: bool) -> None:
    """The encode graph's outputs `copy_keys` [B, S, D] and `source_ids` [B, S]; memory is [B, S, D], or [S, B, D]
    where it lies `by_position`."""
    width = copy.key.out_features
    keys = layer_linear(graph, copy.key, memory)
    out = graph.output("copy_keys", graph.float_type, ["B", "S", width])
    graph.op("Transpose", keys, perm=[1, 0, 2] if by_position else [0, 1, 2], out=out)
    graph.op("Identity", source, out=graph.output("source_ids", TensorProto.INT64, ["B", "S"]))


def mixed_log_probs(graph: GraphBuilder, copy: CopyAttention, features: str, logits: str) -> str:
    """features [R, D] and logits [R, V] of what may be generated -> log-probabilities [R, V], copies included."""
    width = copy.query.in_features
    keys = graph.input("copy_keys", graph.float_type, ["B", "S", width])
    source = graph.input("source_ids", TensorProto.INT64, ["B", "S"])
    size = graph.op("Shape", source, start=1, end=2)
    is_real = graph.op("Unsqueeze", length_mask(graph, "memory_lengths", size), graph.integers(1))  # [B, 1, S]
    query = graph.op("Mul", layer_linear(graph, copy.query, features), graph.floats(copy.scale))
    query = group_rows(graph, query, "memory_lengths", width)  # [B, R / B, D]
    scores = graph.op("MatMul", query, graph.op("Transpose", keys, perm=[0, 2, 1]))
    weights = graph.op("Softmax", graph.op("Where", is_real, scores, graph.floats(MASKED_SCORE)), axis=-1)
    context = graph.op("Reshape", graph.op("MatMul", weights, keys), graph.integers(-1, width))
    logit = _gate_logit(graph, copy, graph.op("Concat", features, context, axis=-1))
    by_row = graph.op("Concat", graph.integers(-1), size, axis=0)
    places = graph.op("Expand", graph.op("Unsqueeze", source, graph.integers(1)), graph.op("Shape", weights))
    weights = in_float32(graph, graph.op("Reshape", weights, by_row))
    copied = graph.op("Mul", _logistic(graph, logit), weights)
    generated = graph.op("Mul", _logistic(graph, graph.op("Neg", logit)), graph.op("Softmax", logits, axis=-1))
    places = graph.op("Reshape", places, by_row)
    mixed = graph.op("ScatterElements", generated, places, copied, axis=1, reduction="add")
    return graph.op("Log", graph.op("Max", mixed, graph.constant(SMALLEST_PROBABILITY, np.float32)))


def _gate_logit(graph: GraphBuilder, copy: CopyAttention, x: str) -> str:
    """The logit of generating [R, 1] in float32; one number decides much, so int8 leaves it in float."""
    product = graph.op("MatMul", x, graph.floats(as_array(copy.gate.weight).T))
    logit = graph.op("Add", product, graph.floats(as_array(copy.gate.bias)))
    return in_float32(graph, logit)


def _logistic(graph: GraphBuilder, minus_x: str) -> str:
    """1 / (1 + exp(-x)) of -x. Not `Sigmoid`: ONNX Runtime's is exact to 1e-7, too little for a logarithm of it."""
    one = graph.constant(1.0, np.float32)
    return graph.op("Div", one, graph.op("Add", one, graph.op("Exp", minus_x)))
