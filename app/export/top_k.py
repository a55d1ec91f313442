"""The head of every step graph: logits to the K best candidates, inside the graph."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from onnx import TensorProto
from torch import nn

from app.export.builder import GraphBuilder, as_array
from app.export.copying import mixed_log_probs
from app.export.linear import Embedding
from app.export.quantize import Weight
from app.models.copying import CopyAttention

# Blocks of the vocabulary: few enough maxima to sort, few enough entries a block to look at.
_BLOCK_SIZES = (128, 125, 100, 80, 64, 50, 40, 32)
_PADDED_BLOCK_SIZE = 64
# Below every real log probability, and finite: an infinite one would become NaN in a subtraction.
_NEVER = -1e30


def block_size(vocabulary_size: int) -> int:
    """The block that divides V, preferring about sqrt(V) entries; 64 where none does and V must be padded."""
    fitting = [size for size in _BLOCK_SIZES if vocabulary_size % size == 0]
    return min(fitting, key=lambda size: abs(size - vocabulary_size**0.5)) if fitting else _PADDED_BLOCK_SIZE


def padded(array: npt.NDArray[np.float32], vocabulary_size: int, fill: float) -> npt.NDArray[np.float32]:
    """`array` [V, ...] with rows of `fill` behind, up to whole blocks."""
    missing = -vocabulary_size % block_size(vocabulary_size)
    return np.concatenate([array, np.full((missing, *array.shape[1:]), fill, np.float32)]) if missing else array


def projection_table(graph: GraphBuilder, output: nn.Linear) -> Embedding:
    """The vocabulary projection [V, D], padded to whole blocks; may serve as the tied embedding too."""
    weight = as_array(output.weight)
    return Embedding(graph, padded(weight, len(weight), 0.0), graph.inputs_of.get(output))


def add_head(
    graph: GraphBuilder,
    features: str,
    table: Embedding,
    bias: Weight,
    num_candidates: str,
    copy: CopyAttention | None = None,
    probe_ids: Sequence[int] = (),
) -> None:
    """Write `logits`, `log_probs` and `candidates`, and `probes` [R, P] where there are `probe_ids`.

    Shapes: features [R, D], bias [V], num_candidates [1]. With a copy mechanism `logits` are log-probabilities.
    """
    vocabulary_size = len(bias)
    biases = padded(bias, vocabulary_size, _NEVER)
    out = graph.output("logits", TensorProto.FLOAT, ["R", vocabulary_size])
    is_padded = vocabulary_size % block_size(vocabulary_size) != 0
    logits = table.project(features, biases, None if is_padded or copy is not None else out)
    if copy is not None:
        log_probs = logits = mixed_log_probs(graph, copy, features, logits)
    else:
        # LogSoftmax of everything is eight times faster than ReduceLogSumExp and a subtraction.
        log_probs = graph.op("LogSoftmax", logits, axis=-1)
    if is_padded:
        graph.op("Slice", logits, graph.integers(0), graph.integers(vocabulary_size), graph.integers(1), out=out)
    elif copy is not None:
        graph.op("Identity", logits, out=out)
    if probe_ids:
        probes = graph.output("probes", TensorProto.FLOAT, ["R", len(probe_ids)])
        graph.op("Gather", log_probs, graph.integers(*probe_ids), axis=1, out=probes)
    _add_top_k(graph, log_probs, len(biases), block_size(vocabulary_size), num_candidates)


def _add_top_k(graph: GraphBuilder, log_probs: str, vocabulary_size: int, size: int, num_candidates: str) -> None:
    """The K best of each row lie in the K blocks with the highest maxima: four times faster than one `TopK` over V."""
    candidates = graph.output("candidates", TensorProto.INT64, ["R", "K"])
    best = graph.output("log_probs", TensorProto.FLOAT, ["R", "K"])
    blocks = graph.op("Reshape", log_probs, graph.integers(0, -1, size))  # [R, N, size]
    maxima = graph.op("ReduceMax", blocks, graph.integers(-1), keepdims=1)  # [R, N, 1]
    num_blocks = graph.op("Min", num_candidates, graph.integers(vocabulary_size // size))
    chosen = graph.ops("TopK", maxima, num_blocks, outs=2, axis=1, sorted=1)[1]  # [R, N', 1]
    flat = graph.integers(0, -1)
    entries = graph.op("Reshape", graph.op("GatherND", blocks, chosen, batch_dims=1), flat)  # [R, N' x size]
    where = graph.ops("TopK", entries, num_candidates, outs=[best, "top_k_where"], axis=1, sorted=1)[1]
    ids = graph.op("Add", graph.op("Mul", chosen, graph.integers(size)), graph.integers(*range(size)))
    graph.op("GatherElements", graph.op("Reshape", ids, flat), where, axis=1, out=candidates)
