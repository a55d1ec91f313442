"""`app/models/speech` and `speech_rnn` as graphs: encode begins with convolutions over frames, the rest is the
Transformer's, or the recurrent model's."""

from collections.abc import Sequence

from onnx import TensorProto
from torch import nn

from app.export.blocks import length_mask
from app.export.builder import CONTRIB, GraphBuilder, as_array
from app.export.linear import stored_small
from app.export.rnn import add_encoder as add_recurrent_encoder
from app.export.transformer import add_encoder
from app.models.speech import Speech, SpeechConfig
from app.models.speech_rnn import SpeechRnn, SpeechRnnConfig


def build_encode(model: Speech, graph: GraphBuilder) -> None:
    """source [B, F, M] float32 -> cross-attention keys and values of every decoder layer [B, H, ceil(F / 2), K]."""
    config = model.config
    source, lengths = _inputs(graph, config, config.max_frames if config.has_fixed_window else "F")
    is_masked = not config.has_fixed_window
    x, lengths = _convolve(graph, (model.convolution_1, model.convolution_2), source, lengths, is_masked=is_masked)
    if model.embedding_scale != 1.0:
        x = graph.op("Mul", x, graph.floats(model.embedding_scale))
    table = stored_small(graph, as_array(model.source_position_table))
    if config.has_fixed_window:
        # Not masked: ONNX Runtime's attention is faster without, and all of a window is real.
        add_encoder(model, graph, graph.op("Add", x, table), lengths, has_padding=False)
        return
    size = graph.op("Shape", x, start=1, end=2)
    x = graph.op("Add", x, graph.op("Slice", table, graph.integers(0), size, graph.integers(0)))
    add_encoder(model, graph, x, lengths)


def build_recurrent_encode(model: SpeechRnn, graph: GraphBuilder) -> None:
    """source [B, F, M] float32 -> memory, its keys [B, ceil(F / 4), D] and the first values of the decoder's state."""
    source, lengths = _inputs(graph, model.config, "F")
    convolutions = (model.convolution_1, model.convolution_2)
    x, lengths = _convolve(graph, convolutions, source, lengths, is_masked=True)
    add_recurrent_encoder(model, graph, x, lengths)


def _inputs(graph: GraphBuilder, config: SpeechConfig | SpeechRnnConfig, num_frames: int | str) -> tuple[str, str]:
    """The sources in the precision of the graph [B, F, M], and their lengths [B]."""
    source = graph.input("source", TensorProto.FLOAT, ["B", num_frames, config.num_mels])
    lengths = graph.input("source_lengths", TensorProto.INT64, ["B"])
    if graph.float_type != TensorProto.FLOAT:
        source = graph.op("Cast", source, to=graph.float_type)
    return source, lengths


def _convolve(
    graph: GraphBuilder, convolutions: Sequence[nn.Conv1d], source: str, lengths: str, *, is_masked: bool
) -> tuple[str, str]:
    """source [B, F, M] -> [B, S, D], and the real lengths [B] of that."""
    x = graph.op("Transpose", source, perm=[0, 2, 1])  # [B, M, F]
    for convolution in convolutions:
        if is_masked:
            is_real = length_mask(graph, lengths, graph.op("Shape", x, start=2, end=3))
            is_real = graph.op("Unsqueeze", graph.op("Cast", is_real, to=graph.float_type), graph.integers(1))
            x = graph.op("Mul", x, is_real)
        x = _convolution(graph, convolution, x)
        stride = convolution.stride[0]
        if stride > 1:
            rounded_up = graph.op("Add", lengths, graph.integers(stride - 1))
            lengths = graph.op("Div", rounded_up, graph.integers(stride))
    return graph.op("Transpose", x, perm=[0, 2, 1]), lengths


def _convolution(graph: GraphBuilder, convolution: nn.Conv1d, x: str) -> str:
    """x [B, C, F] -> [B, D, F / stride], after GELU. In int8 the weights are float16: they are few."""
    assert convolution.bias is not None
    weight, bias = (stored_small(graph, as_array(part)) for part in (convolution.weight, convolution.bias))
    convolved = graph.op("Conv", x, weight, bias, strides=list(convolution.stride), pads=[1, 1])
    return graph.op("Gelu", convolved, domain=CONTRIB)
