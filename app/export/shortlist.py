"""The vocabulary projection over a shortlist: only pieces that may translate a source are scored for its target.

encode tells for every source which pieces are allowed; the shortlist graph cuts their columns out of the projection,
once for all steps in which the same sources run together; step multiplies with these alone. What another source adds
to the columns is no candidate of this one: an answer stays independent of its neighbours.
"""

import numpy as np
from onnx import TensorProto
from torch import nn

from app.engine.shortlist import ALLOWED
from app.export.blocks import length_mask
from app.export.builder import GraphBuilder, as_array
from app.export.lexicon import Lexicon
from app.export.linear import product_int8
from app.export.quantize import quantize
from app.export.top_k import NEVER, add_top_k
from app.store.manifest import StateTensor

# What the shortlist graph tells and the step graph reads.
_IDS, _CODES, _SCALES, _BIAS = "shortlist_ids", "shortlist_codes", "shortlist_scales", "shortlist_bias"
# The shortlist is as many whole blocks, so that its best are found as those of a vocabulary are.
_BLOCK_SIZE = 64


def allowed_tensor(vocabulary_size: int) -> StateTensor:
    """Which pieces the target of each source may have [B, V]: 1 or 0."""
    return StateTensor(name=ALLOWED, kind="memory", dtype="uint8", shape=[vocabulary_size])


def add_allowed(graph: GraphBuilder, lexicon: Lexicon) -> None:
    """The encode graph's output `allowed` [B, V], of its inputs `source` [B, S] and `source_lengths` [B]."""
    vocabulary_size = len(lexicon.candidates)
    is_common = np.zeros((1, vocabulary_size), np.uint8)
    is_common[0, lexicon.common] = 1
    smallest = np.uint16 if vocabulary_size <= 1 << 16 else np.int32
    # What stands behind a source's end allows nothing: its first piece takes that place.
    is_real = length_mask(graph, "source_lengths", graph.op("Shape", "source", start=1, end=2))
    first = graph.op("Slice", "source", graph.integers(0), graph.integers(1), graph.integers(1))
    source = graph.op("Where", is_real, "source", first)
    found = graph.op("Gather", graph.constant(lexicon.candidates, smallest), source)  # [B, S, C]
    found = graph.op("Cast", graph.op("Reshape", found, graph.integers(0, -1)), to=TensorProto.INT64)
    num_sources = graph.op("Shape", source, start=0, end=1)
    shape = graph.op("Concat", num_sources, graph.integers(vocabulary_size), axis=0)
    common = graph.op("Expand", graph.constant(is_common, np.uint8), shape)
    ones = graph.op("Expand", graph.constant(1, np.uint8), graph.op("Shape", found))
    out = graph.output(ALLOWED, TensorProto.UINT8, ["B", vocabulary_size])
    graph.op("ScatterElements", common, found, ones, axis=1, out=out)


def build_shortlist(graph: GraphBuilder, output: nn.Linear) -> None:
    """allowed [B, V] and the U' pieces that some source allows -> these, padded to whole blocks and at least
    `num_candidates`, and what step multiplies with: codes [D, U], scales [U], and a bias [B, 1, U] that keeps out what
    a source does not allow."""
    allowed = graph.input(ALLOWED, TensorProto.UINT8, ["B", output.out_features])
    union = graph.input("union", TensorProto.INT64, ["U'"])
    num_candidates = graph.input("num_candidates", TensorProto.INT64, [1])
    num_found, block = graph.op("Shape", union), graph.integers(_BLOCK_SIZE)
    size = graph.op("Add", graph.op("Max", num_found, num_candidates), graph.integers(_BLOCK_SIZE - 1))
    num_missing = graph.op("Sub", graph.op("Mul", graph.op("Div", size, block), block), num_found)
    out = graph.output(_IDS, TensorProto.INT64, ["U"])
    ids = graph.op("Pad", union, graph.op("Concat", graph.integers(0), num_missing, axis=0), out=out)
    codes, scales = quantize(as_array(output.weight), graph.inputs_of.get(output))
    columns = graph.op("Gather", graph.constant(codes, np.int8), ids)
    graph.op("Transpose", columns, perm=[1, 0], out=graph.output(_CODES, TensorProto.INT8, ["D", "U"]))
    out = graph.output(_SCALES, TensorProto.FLOAT, ["U"])
    graph.op("Gather", graph.constant(scales, np.float32), ids, out=out)
    # Turned to and fro: columns of single bytes are gathered ten times as slowly as rows.
    rows = graph.op("Gather", graph.op("Transpose", allowed, perm=[1, 0]), union)
    pads = graph.op("Concat", graph.integers(0, 0, 0), num_missing, axis=0)
    is_allowed = graph.op("Pad", graph.op("Transpose", rows, perm=[1, 0]), pads)
    # 1 becomes 0, and 0 becomes NEVER.
    penalty = graph.op("DequantizeLinear", is_allowed, graph.floats(-NEVER), graph.constant(1, np.uint8))
    bias = graph.op("Gather", graph.constant(as_array(output.bias), np.float32), ids)
    out = graph.output(_BIAS, TensorProto.FLOAT, ["B", 1, "U"])
    graph.op("Add", graph.op("Unsqueeze", penalty, graph.integers(1)), bias, out=out)


def add_short_head(graph: GraphBuilder, features: str, output: nn.Linear, num_candidates: str) -> None:
    """features [R, D] -> `candidates` and `log_probs` [R, K] among the pieces that each row's source allows."""
    ids = graph.input(_IDS, TensorProto.INT64, ["U"])
    codes = graph.input(_CODES, TensorProto.INT8, [output.in_features, "U"])
    scales = graph.input(_SCALES, TensorProto.FLOAT, ["U"])
    bias = graph.input(_BIAS, TensorProto.FLOAT, ["B", 1, "U"])
    logits = product_int8(graph, features, codes, scales, inputs=graph.inputs_of.get(output))
    num_sources, num_pieces = graph.op("Shape", bias, start=0, end=1), graph.op("Shape", ids)
    grouped = graph.op("Reshape", logits, graph.op("Concat", num_sources, graph.integers(-1), num_pieces, axis=0))
    grouped = graph.op("Add", grouped, bias)  # [B, R / B, U]
    log_probs = graph.op("LogSoftmax", graph.op("Reshape", grouped, graph.op("Shape", logits)), axis=-1)
    add_top_k(graph, log_probs, _BLOCK_SIZE, num_candidates, ids)
