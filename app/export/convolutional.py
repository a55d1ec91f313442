"""`app/models/convolutional` as graphs: a convolution is one product of the positions of a window side by side."""

import numpy as np
from onnx import TensorProto

from app.export.blocks import MASKED_SCORE, declare_memory_lengths, group_rows, layer_linear, length_mask
from app.export.builder import GraphBuilder, as_array
from app.export.copying import add_copy_memory
from app.export.head import add_head, projection_table
from app.export.linear import Embedding, stored_small
from app.models.convolutional import HALF, Convolutional, ConvolutionalDecoderLayer, GatedConvolution

_TO_THE_END = np.iinfo(np.int64).max


def build_encode(model: Convolutional, graph: GraphBuilder) -> None:
    """source [B, S] -> keys and values [B, S, D], and the decoder's first windows, which are zero."""
    source = graph.input("source", TensorProto.INT64, ["B", "S"])
    lengths = graph.input("source_lengths", TensorProto.INT64, ["B"])
    width = model.config.width
    size = graph.op("Shape", source, start=1, end=2)
    table = stored_small(graph, as_array(model.source_positions.weight))
    embedded = Embedding(graph, as_array(model.embedding.weight)).lookup(source)
    embedded = graph.op("Add", embedded, graph.op("Slice", table, graph.integers(0), size, graph.integers(0)))
    is_real = graph.op("Cast", length_mask(graph, lengths, size), to=graph.float_type)
    is_real = graph.op("Unsqueeze", is_real, graph.integers(2))
    x = embedded
    for layer in model.encoder_layers:
        assert isinstance(layer, GatedConvolution)
        gated = _convolved(graph, layer, graph.op("Mul", x, is_real))
        x = _half_sum(graph, x, gated)
    root = graph.op("Sqrt", graph.op("Cast", lengths, to=graph.float_type))
    root = graph.op("Unsqueeze", root, graph.integers(1, 2))
    values = graph.op("Mul", _half_sum(graph, x, embedded), root)
    for name, value in (("keys", x), ("values", values)):
        graph.op("Identity", value, out=graph.output(name, graph.float_type, ["B", "S", width]))
    num_before = model.config.kernel_width - 1
    shape = graph.op("Concat", graph.op("Shape", lengths), graph.integers(num_before, width), axis=0)
    zeros = graph.op("Expand", graph.floats(0.0), shape)
    for index in range(model.config.decoder_layers):
        out = graph.output(f"window.{index}", graph.float_type, ["B", num_before, width])
        graph.op("Identity", zeros, out=out)
    if model.copy is not None:
        add_copy_memory(graph, model.copy, x, source, by_position=False)
    declare_memory_lengths(graph, lengths)


def build_step(model: Convolutional, graph: GraphBuilder) -> None:
    """One token for every row: ids [R] at positions [R] -> candidates, log_probs, logits and the windows after it."""
    ids = graph.input("ids", TensorProto.INT64, ["R"])
    positions = graph.input("positions", TensorProto.INT32, ["R"])
    graph.input("memory_lengths", TensorProto.INT64, ["B"])
    num_candidates = graph.input("num_candidates", TensorProto.INT64, [1])
    width = model.config.width
    for name in ("keys", "values"):
        graph.input(name, graph.float_type, ["B", "S", width])
    size = graph.op("Shape", "keys", start=1, end=2)
    is_real = graph.op("Unsqueeze", length_mask(graph, "memory_lengths", size), graph.integers(1))  # [B, 1, S]
    turned = graph.op("Transpose", "keys", perm=[0, 2, 1])
    table = projection_table(graph, model.output)
    tied = model.output.weight is model.embedding.weight
    embedding = table if tied else Embedding(graph, as_array(model.embedding.weight))
    position_table = stored_small(graph, as_array(model.target_positions.weight))
    embedded = graph.op("Add", embedding.lookup(ids), graph.op("Gather", position_table, positions))
    x = embedded
    for index, layer in enumerate(model.decoder_layers):
        assert isinstance(layer, ConvolutionalDecoderLayer)
        gated = _gated(graph, layer.convolution, _window(graph, model, index, x))
        query = _half_sum(graph, layer_linear(graph, layer.query, gated), embedded)
        scores = graph.op("MatMul", group_rows(graph, query, "memory_lengths", width), turned)  # [B, R / B, S]
        weights = graph.op("Softmax", graph.op("Where", is_real, scores, graph.floats(MASKED_SCORE)), axis=-1)
        context = graph.op("Reshape", graph.op("MatMul", weights, "values"), graph.integers(-1, width))
        x = _half_sum(graph, x, _half_sum(graph, gated, layer_linear(graph, layer.output, context)))
    add_head(graph, x, table, model.output, num_candidates, model.copy)


def _window(graph: GraphBuilder, model: Convolutional, index: int, x: str) -> str:
    """The positions that a layer sees, side by side [R, kernel D]; the last of them are the next step's."""
    num_before, width = model.config.kernel_width - 1, model.config.width
    before = graph.input(f"window.{index}", graph.float_type, ["R", num_before, width])
    window = graph.op("Concat", before, graph.op("Unsqueeze", x, graph.integers(1)), axis=1)
    after = graph.output(f"window.{index}.next", graph.float_type, ["R", num_before, width])
    graph.op("Slice", window, graph.integers(1), graph.integers(_TO_THE_END), graph.integers(1), out=after)
    return graph.op("Reshape", window, graph.integers(-1, (num_before + 1) * width))


def _convolved(graph: GraphBuilder, layer: GatedConvolution, x: str) -> str:
    """x [B, S, D], each position with its neighbours on both sides."""
    last = layer.kernel_width - 1
    pads = graph.integers(0, last // 2, 0, 0, last // 2, 0)
    padded = graph.op("Pad", x, pads, graph.floats(0.0))
    shifted = [
        graph.op(
            "Slice",
            padded,
            graph.integers(offset),
            graph.integers(offset - last if offset < last else _TO_THE_END),
            graph.integers(1),
        )
        for offset in range(layer.kernel_width)
    ]
    return _gated(graph, layer, graph.op("Concat", *shifted, axis=-1))


def _gated(graph: GraphBuilder, layer: GatedConvolution, windows: str) -> str:
    value, gate = graph.ops("Split", layer_linear(graph, layer.linear, windows), outs=2, axis=-1, num_outputs=2)
    return graph.op("Mul", value, graph.op("Sigmoid", gate))


def _half_sum(graph: GraphBuilder, x: str, y: str) -> str:
    return graph.op("Mul", graph.op("Add", x, y), graph.floats(HALF))
