"""The head of every step graph: features to the K best candidates."""

from collections.abc import Sequence

from onnx import TensorProto
from torch import nn

from app.export.builder import GraphBuilder, as_array
from app.export.copying import mixed_log_probs
from app.export.linear import Embedding
from app.export.shortlist import add_short_head
from app.export.top_k import NEVER, add_top_k, block_size, padded
from app.models.copying import CopyAttention


def projection_table(graph: GraphBuilder, output: nn.Linear) -> Embedding:
    """The vocabulary projection [V, D], padded to whole blocks; may serve as the tied embedding too."""
    weight = as_array(output.weight)
    return Embedding(graph, padded(weight, len(weight), 0.0), graph.inputs_of.get(output))


def add_head(
    graph: GraphBuilder,
    features: str,
    table: Embedding,
    output: nn.Linear,
    num_candidates: str,
    copy: CopyAttention | None = None,
    probe_ids: Sequence[int] = (),
) -> None:
    """Write `logits`, `log_probs` and `candidates`, and `probes` [R, P] where there are `probe_ids`.

    Shapes: features [R, D], num_candidates [1]; `table` is the weight of `output`. With a copy mechanism `logits` are
    log-probabilities. With a lexicon there are candidates and their log-probabilities alone: see `shortlist`.
    """
    if graph.lexicon is not None:
        add_short_head(graph, features, output, num_candidates)
        return
    vocabulary_size = output.out_features
    biases = padded(as_array(output.bias), vocabulary_size, NEVER)
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
    add_top_k(graph, log_probs, block_size(vocabulary_size), num_candidates)
