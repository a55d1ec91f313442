"""`app/models/speech` as graphs: encode begins with convolutions over frames, the rest is the Transformer's."""

from onnx import TensorProto
from torch import nn

from app.export.blocks import length_mask
from app.export.builder import CONTRIB, GraphBuilder, as_array
from app.export.linear import stored_small
from app.export.transformer import add_encoder, int_mask
from app.models.speech import SUBSAMPLING, Speech


def build_encode(model: Speech, graph: GraphBuilder) -> None:
    """source [B, F, M] float32 -> cross-attention keys and values of every decoder layer [B, H, ceil(F / 2), K]."""
    config = model.config
    num_frames = config.max_frames if config.has_fixed_window else "F"
    source = graph.input("source", TensorProto.FLOAT, ["B", num_frames, config.num_mels])
    lengths = graph.input("source_lengths", TensorProto.INT64, ["B"])
    if graph.float_type != TensorProto.FLOAT:
        source = graph.op("Cast", source, to=graph.float_type)
    frames = graph.op("Transpose", source, perm=[0, 2, 1])  # [B, M, F]
    table = stored_small(graph, as_array(model.source_position_table))
    memory_lengths = graph.op("Div", graph.op("Add", lengths, graph.integers(SUBSAMPLING - 1)), graph.integers(2))
    if config.has_fixed_window:
        x = _convolution(graph, model.convolution_2, _convolution(graph, model.convolution_1, frames))
        # Not masked: ONNX Runtime's attention is faster without, and all of a window is real.
        x = graph.op("Add", graph.op("Transpose", x, perm=[0, 2, 1]), table)
        add_encoder(model, graph, x, memory_lengths, "")
        return
    is_real = length_mask(graph, lengths, graph.op("Shape", source, start=1, end=2))  # [B, F]
    is_real = graph.op("Unsqueeze", graph.op("Cast", is_real, to=graph.float_type), graph.integers(1))
    x = _convolution(graph, model.convolution_1, graph.op("Mul", frames, is_real))
    x = _convolution(graph, model.convolution_2, graph.op("Mul", x, is_real))
    x = graph.op("Transpose", x, perm=[0, 2, 1])  # [B, S, D]
    size = graph.op("Shape", x, start=1, end=2)
    x = graph.op("Add", x, graph.op("Slice", table, graph.integers(0), size, graph.integers(0)))
    add_encoder(model, graph, x, memory_lengths, int_mask(graph, memory_lengths, size))


def _convolution(graph: GraphBuilder, convolution: nn.Conv1d, x: str) -> str:
    """x [B, C, F] -> [B, D, F / stride], after GELU. In int8 the weights are float16: they are few."""
    assert convolution.bias is not None
    weight, bias = (stored_small(graph, as_array(part)) for part in (convolution.weight, convolution.bias))
    convolved = graph.op("Conv", x, weight, bias, strides=list(convolution.stride), pads=[1, 1])
    return graph.op("Gelu", convolved, domain=CONTRIB)
