"""`app/models/transformer` as graphs: the mathematics is defined there, the operators are chosen here.

Self-attention is GroupQueryAttention over slots that are written in place, with a length of its own for every row;
cross-attention is MultiHeadAttention over keys and values that encode made once a source.
"""

import math
from collections.abc import Sequence

import numpy as np
from onnx import TensorProto
from torch import nn

from app.errors import ExportError
from app.export.blocks import (
    MASKED_SCORE,
    declare_memory_lengths,
    group_rows,
    in_float32,
    layer_linear,
    length_mask,
)
from app.export.builder import CONTRIB, GraphBuilder, as_array
from app.export.copying import add_copy_memory
from app.export.head import add_head, projection_table
from app.export.linear import Embedding, linear, relu_linear, stored_small
from app.models.attention import CrossAttention, SelfAttention
from app.models.transformer import DecoderLayer, EncoderLayer, FeedForward, Residual, Transformer

# GroupQueryAttention works on whole vectors of this many numbers.
HEAD_WIDTH_MULTIPLE = 8


def check_exportable(model: Transformer) -> None:
    """Raises: ExportError if an operator cannot take the sizes of this model."""
    head_width = model.config.width // model.config.num_heads
    if head_width % HEAD_WIDTH_MULTIPLE:
        raise ExportError(
            f"head width {head_width} (width {model.config.width} / num_heads {model.config.num_heads}) is not a "
            f"multiple of {HEAD_WIDTH_MULTIPLE}, which ONNX Runtime's GroupQueryAttention needs; choose other sizes"
        )


def build_encode(model: Transformer, graph: GraphBuilder) -> None:
    """source [B, S] -> cross-attention keys and values of every decoder layer [B, H, S, K]."""
    source = graph.input("source", TensorProto.INT64, ["B", "S"])
    lengths = graph.input("source_lengths", TensorProto.INT64, ["B"])
    size = graph.op("Shape", source, start=1, end=2)
    x = Embedding(graph, as_array(model.embedding.weight)).lookup(source, model.embedding_scale)
    table = stored_small(graph, as_array(model.position_table))
    x = graph.op("Add", x, graph.op("Slice", table, graph.integers(0), size, graph.integers(0)))
    memory = add_encoder(model, graph, x, lengths)
    if model.copy is not None:
        add_copy_memory(graph, model.copy, memory, source, by_position=False)


def add_encoder(model: Transformer, graph: GraphBuilder, x: str, lengths: str, *, has_padding: bool = True) -> str:
    """All encoder layers over x [B, S, D], and the outputs that every step reads -> memory [B, S, D].

    `lengths` [B]; without padding all of x is real.
    """
    attended = _as_int32(graph, lengths) if has_padding else ""
    for layer in model.encoder_layers:
        assert isinstance(layer, EncoderLayer)
        x = _encoder_layer(graph, layer, x, attended)
    memory = _norm(graph, model.encoder_norm, x)
    _cross_keys_and_values(graph, model, memory)
    declare_memory_lengths(graph, lengths)
    return memory


def build_step(
    model: Transformer,
    graph: GraphBuilder,
    probe_ids: Sequence[int] = (),
    alignment_heads: Sequence[tuple[int, int]] = (),
) -> None:
    """One position of every row: ids [R] at positions [R] -> candidates, log_probs, logits and the slots after it.

    Also `probes` of `probe_ids`, and `alignment` of the (layer, head) of `alignment_heads`.
    """
    ids = graph.input("ids", TensorProto.INT64, ["R"])
    positions = graph.input("positions", TensorProto.INT32, ["R"])
    graph.input("total_length", TensorProto.INT32, [])
    lengths = graph.input("memory_lengths", TensorProto.INT64, ["B"])
    num_candidates = graph.input("num_candidates", TensorProto.INT64, [1])
    table = projection_table(graph, model.output)
    tied = model.output.weight is model.embedding.weight
    embedding = table if tied else Embedding(graph, as_array(model.embedding.weight))
    x = embedding.lookup(ids, model.embedding_scale)
    x = graph.op("Add", x, graph.op("Gather", stored_small(graph, as_array(model.position_table)), positions))
    attended_lengths = _as_int32(graph, lengths)
    attending: list[tuple[str, str]] = []  # queries [B, T, D] and keys [B, H, S, K] of every layer
    for index, layer in enumerate(model.decoder_layers):
        assert isinstance(layer, DecoderLayer)
        cross = [
            graph.input(f"cross_{part}.{index}", graph.float_type, ["B", *_head_shape(model, "S")])
            for part in ("key", "value")
        ]
        x, query = _decoder_layer(graph, layer, x, index, (cross[0], cross[1], attended_lengths))
        attending.append((query, cross[0]))
    if alignment_heads:
        _add_alignment(graph, model, attending, alignment_heads, lengths)
    features = _norm(graph, model.decoder_norm, x)
    add_head(graph, features, table, model.output, num_candidates, model.copy, probe_ids)


def _head_shape(model: Transformer, length: str) -> list[int | str]:
    return [model.config.num_heads, length, model.config.width // model.config.num_heads]


def _as_int32(graph: GraphBuilder, lengths: str) -> str:
    """How many positions MultiHeadAttention may attend to, as it wants it: int32 [B]."""
    return graph.op("Cast", lengths, to=TensorProto.INT32)


def _norm(graph: GraphBuilder, norm: nn.Module, x: str) -> str:
    if not isinstance(norm, nn.LayerNorm):
        return x
    weight, bias = graph.floats(as_array(norm.weight)), graph.floats(as_array(norm.bias))
    return graph.op("LayerNormalization", x, weight, bias, axis=-1, epsilon=norm.eps)


def _before(graph: GraphBuilder, residual: Residual, x: str) -> str:
    """What a residual block reads."""
    return _norm(graph, residual.norm, x) if residual.is_pre else x


def _after(graph: GraphBuilder, residual: Residual, x: str, y: str) -> str:
    """The sum of a residual block's input and its answer."""
    # Not `Add`: the optimizer would fuse it into SkipLayerNormalization, which is four times slower on the CPU.
    total = graph.op("Sum", x, y)
    return total if residual.is_pre else _norm(graph, residual.norm, total)


def _feed_forward(graph: GraphBuilder, layer: FeedForward, residual: Residual, x: str) -> str:
    hidden = layer_linear(graph, layer.up, _before(graph, residual, x))
    if layer.activation is nn.functional.relu:
        weight, bias = as_array(layer.down.weight), as_array(layer.down.bias)
        return _after(graph, residual, x, relu_linear(graph, hidden, weight, bias, graph.inputs_of.get(layer.down)))
    return _after(graph, residual, x, layer_linear(graph, layer.down, _activation(graph, layer, hidden)))


def _activation(graph: GraphBuilder, layer: FeedForward, x: str) -> str:
    if layer.activation is nn.functional.gelu:
        return graph.op("Gelu", x, domain=CONTRIB)
    if layer.activation is nn.functional.silu:
        return graph.op("QuickGelu", x, domain=CONTRIB, alpha=1.0)
    raise ExportError(f"activation {layer.activation} has no graph form; add it to app/export/transformer.py")


def _encoder_layer(graph: GraphBuilder, layer: EncoderLayer, x: str, lengths: str) -> str:
    attention, residual = layer.self_attention, layer.self_attention_residual
    fused = layer_linear(graph, attention.query_key_value, _before(graph, residual, x))
    query, key, value = graph.ops("Split", fused, outs=3, axis=-1, num_outputs=3)
    attended = _masked_attention(graph, attention, query, key, value, lengths)
    x = _after(graph, residual, x, layer_linear(graph, attention.output, attended))
    return _feed_forward(graph, layer.feed_forward, layer.feed_forward_residual, x)


def _masked_attention(
    graph: GraphBuilder, attention: SelfAttention | CrossAttention, query: str, key: str, value: str, lengths: str
) -> str:
    inputs = (query, key, value, "", lengths)
    heads = attention.num_heads
    return graph.op("MultiHeadAttention", *inputs, domain=CONTRIB, num_heads=heads, mask_filter_value=MASKED_SCORE)


def _cross_keys_and_values(graph: GraphBuilder, model: Transformer, memory: str) -> None:
    """All layers' keys and values from one product [B, S, 2 L D], cut up into the outputs [B, H, S, K]."""
    projections = []
    for layer in model.decoder_layers:
        assert isinstance(layer, DecoderLayer)
        projections.append(layer.cross_attention.key_value)
    weight = np.concatenate([as_array(projection.weight) for projection in projections])
    bias = np.concatenate([as_array(projection.bias) for projection in projections])
    heads, head_width = model.config.num_heads, model.config.width // model.config.num_heads
    # They all read the memory, and so have one range.
    fused = linear(graph, memory, weight, bias, graph.inputs_of.get(projections[0]))
    parts = graph.op("Reshape", fused, graph.integers(0, 0, 2 * len(projections), heads, head_width))
    parts = graph.op("Transpose", parts, perm=[2, 0, 3, 1, 4])  # [2 L, B, H, S, K]
    split = graph.ops("Split", parts, outs=2 * len(projections), axis=0, num_outputs=2 * len(projections))
    for place, part in enumerate(split):
        name = f"cross_{('key', 'value')[place % 2]}.{place // 2}"
        graph.output(name, graph.float_type, ["B", *_head_shape(model, "S")])
        graph.op("Squeeze", part, graph.integers(0), out=name)


def _decoder_layer(
    graph: GraphBuilder, layer: DecoderLayer, x: str, index: int, cross: tuple[str, str, str]
) -> tuple[str, str]:
    """x [R, D] -> [R, D], and the queries [B, R / B, D] to the memory; `cross` holds keys, values [B, H, S, K] and the
    lengths [B]."""
    residual = layer.self_attention_residual
    x = _after(graph, residual, x, _self_attention(graph, layer.self_attention, _before(graph, residual, x), index))
    residual = layer.cross_attention_residual
    attended, query = _cross_attention(graph, layer.cross_attention, _before(graph, residual, x), cross)
    x = _after(graph, residual, x, attended)
    return _feed_forward(graph, layer.feed_forward, layer.feed_forward_residual, x), query


def _self_attention(graph: GraphBuilder, attention: SelfAttention, x: str, index: int) -> str:
    width, heads = attention.output.in_features, attention.num_heads
    names = [f"self_{part}.{index}" for part in ("key", "value")]
    slots = [graph.input(name, graph.float_type, ["R", heads, "C", width // heads]) for name in names]
    after = [graph.output(f"{name}.next", graph.float_type, ["R", heads, "C", width // heads]) for name in names]
    fused = graph.op("Unsqueeze", layer_linear(graph, attention.query_key_value, x), graph.integers(1))  # [R, 1, 3 D]
    # `seqlens_k` is a row's total length - 1: with one new token that is its position.
    inputs = (fused, "", "", *slots, "positions", "total_length")
    outs = [f"self_attended.{index}", *after]
    graph.ops("GroupQueryAttention", *inputs, outs=outs, domain=CONTRIB, num_heads=heads, kv_num_heads=heads)
    return layer_linear(graph, attention.output, graph.op("Squeeze", outs[0], graph.integers(1)))


def _cross_attention(
    graph: GraphBuilder, attention: CrossAttention, x: str, cross: tuple[str, str, str]
) -> tuple[str, str]:
    keys, values, lengths = cross
    width = attention.output.in_features
    query = layer_linear(graph, attention.query, x)
    grouped = group_rows(graph, query, "memory_lengths", width)
    attended = _masked_attention(graph, attention, grouped, keys, values, lengths)
    return layer_linear(graph, attention.output, graph.op("Reshape", attended, graph.integers(-1, width))), grouped


def _add_alignment(
    graph: GraphBuilder,
    model: Transformer,
    attending: Sequence[tuple[str, str]],
    heads: Sequence[tuple[int, int]],
    lengths: str,
) -> None:
    """The output `alignment` [R, A, S]: how the `heads` attend to the memory; nothing where `num_alignments` is 0.

    It is computed beside MultiHeadAttention, which does not tell its weights, from the heads' slices of queries and
    keys: with 0 these are empty, and so is the work.
    """
    num_wanted = graph.input("num_alignments", TensorProto.INT64, [1])
    num_heads, head_width = model.config.num_heads, model.config.width // model.config.num_heads
    zero = graph.integers(0)
    by_layer = {layer: [head for of, head in heads if of == layer] for layer, _ in heads}
    assert [(layer, head) for layer, chosen in by_layer.items() for head in chosen] == list(heads), "not by layer"
    queries, keys = [], []
    for layer, chosen in by_layer.items():
        wanted = graph.op("Slice", graph.integers(*chosen), zero, num_wanted)
        query = graph.op("Reshape", attending[layer][0], graph.integers(0, 0, num_heads, head_width))
        queries.append(graph.op("Gather", query, wanted, axis=2))  # [B, T, A', K]
        keys.append(graph.op("Gather", attending[layer][1], wanted, axis=1))  # [B, A', S, K]
    query = graph.op("Concat", *queries, axis=2) if len(queries) > 1 else queries[0]
    key = graph.op("Concat", *keys, axis=1) if len(keys) > 1 else keys[0]
    query = graph.op("Transpose", query, perm=[0, 2, 3, 1])  # [B, A, K, T]
    # Keys first: turning the T queries is little, turning S keys is not.
    scores = graph.op("MatMul", key, graph.op("Mul", query, graph.floats(1 / math.sqrt(head_width))))  # [B, A, S, T]
    scores = in_float32(graph, graph.op("Transpose", scores, perm=[0, 3, 1, 2]))  # [B, T, A, S]
    size = graph.op("Shape", key, start=2, end=3)
    is_real = graph.op("Unsqueeze", length_mask(graph, lengths, size), graph.integers(1, 2))  # [B, 1, 1, S]
    scores = graph.op("Where", is_real, scores, graph.constant(MASKED_SCORE, np.float32))
    weights = graph.op("Softmax", scores, axis=-1)
    shape = graph.op("Concat", graph.op("Shape", "ids"), graph.op("Shape", weights, start=2, end=4), axis=0)
    out = graph.output("alignment", TensorProto.FLOAT, ["R", "A", "S"])
    graph.op("Reshape", weights, shape, allowzero=1, out=out)
