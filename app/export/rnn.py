"""`app/models/rnn` as graphs: the encoder is ONNX's own LSTM, GRU or RNN operator, the decoder cells are products."""

import numpy as np
import numpy.typing as npt
from onnx import TensorProto
from torch import nn

from app.export.blocks import MASKED_SCORE, declare_memory_lengths, group_rows, layer_linear, length_mask
from app.export.builder import GraphBuilder, as_array
from app.export.copying import add_copy_memory
from app.export.head import add_head, projection_table
from app.export.linear import Embedding, linear, stored_int8
from app.models.rnn import MemoryAttention, Rnn

# Where ONNX's gates are found among PyTorch's: LSTM i o f c from i f g o, GRU z r h from r z n.
GATES = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2), "rnn": (0,)}
OPERATORS = {"lstm": "LSTM", "gru": "GRU", "rnn": "RNN"}


def build_encode(model: Rnn, graph: GraphBuilder) -> None:
    """source [B, S] -> memory, its keys [B, S, D] and the first values of the decoder's state [B, D]."""
    source = graph.input("source", TensorProto.INT64, ["B", "S"])
    lengths = graph.input("source_lengths", TensorProto.INT64, ["B"])
    embedded = Embedding(graph, as_array(model.embedding.weight)).lookup(source)
    memory = add_encoder(model, graph, embedded, lengths)
    if model.copy is not None:
        add_copy_memory(graph, model.copy, memory, source, by_position=True)


def add_encoder(model: Rnn, graph: GraphBuilder, embedded: str, lengths: str) -> str:
    """The encoder over embedded [B, S, D], and all outputs but a copy mechanism's -> memory [S, B, D]."""
    width = model.config.width
    memory, summary = _read(graph, model, embedded, lengths)
    zeros = graph.op("Mul", summary, graph.floats(0.0))
    for index, bridge in enumerate(model.bridges):
        assert isinstance(bridge, nn.Linear)
        hidden = graph.output(f"hidden.{index}", graph.float_type, ["B", width])
        graph.op("Tanh", layer_linear(graph, bridge, summary), out=hidden)
        if model.config.cell == "lstm":
            graph.op("Identity", zeros, out=graph.output(f"cell.{index}", graph.float_type, ["B", width]))
    if model.has_attention:
        key = model.attention.key
        # In this order: ONNX Runtime 1.32 crashes as it fuses a float16 product with a transposition before it.
        keys = layer_linear(graph, key, memory) if isinstance(key, nn.Linear) else memory
        for name, value in (("memory", memory), ("keys", keys)):
            out = graph.output(name, graph.float_type, ["B", "S", width])
            graph.op("Transpose", value, perm=[1, 0, 2], out=out)
        graph.op("Identity", zeros, out=graph.output("context", graph.float_type, ["B", width]))
    declare_memory_lengths(graph, lengths)
    return memory


def build_step(model: Rnn, graph: GraphBuilder) -> None:
    """One token for every row: ids [R] -> candidates, log_probs, logits and the state after it."""
    ids = graph.input("ids", TensorProto.INT64, ["R"])
    graph.input("positions", TensorProto.INT32, ["R"])
    graph.input("memory_lengths", TensorProto.INT64, ["B"])
    num_candidates = graph.input("num_candidates", TensorProto.INT64, [1])
    table = projection_table(graph, model.output)
    tied = model.output.weight is model.embedding.weight
    embedding = table if tied else Embedding(graph, as_array(model.embedding.weight))
    features = _advance(graph, model, embedding.lookup(ids))
    add_head(graph, features, table, model.output, num_candidates, model.copy)


def _read(graph: GraphBuilder, model: Rnn, embedded: str, lengths: str) -> tuple[str, str]:
    """embedded [B, S, D] -> memory [S, B, D], zero in the padding, and the last layer's last states [B, D]."""
    width = model.config.width
    lengths = graph.op("Cast", lengths, to=TensorProto.INT32)
    x = graph.op("Transpose", embedded, perm=[1, 0, 2])  # [S, B, D]
    last = ""
    for layer in range(model.config.encoder_layers):
        output, last = _sequence(graph, model, layer, x, lengths)  # [S, directions, B, D / directions]
        by_position = graph.op("Transpose", output, perm=[0, 2, 1, 3])
        x = graph.op("Reshape", by_position, graph.integers(0, 0, width))
    summary = graph.op("Reshape", graph.op("Transpose", last, perm=[1, 0, 2]), graph.integers(0, width))
    return x, summary


def _sequence(graph: GraphBuilder, model: Rnn, layer: int, x: str, lengths: str) -> tuple[str, str]:
    """One layer over whole sequences, in both directions where the model has two."""
    cell = model.config.cell
    suffixes = ["", "_reverse"] if model.config.bidirectional else [""]
    names = [f"_l{layer}{suffix}" for suffix in suffixes]
    input_weights, hidden_weights, biases = [], [], []
    for name in names:
        parts = {part: as_array(model.encoder.get_parameter(part + name)) for part in _PARTS}
        ordered = {part: _reordered(array, cell) for part, array in parts.items()}
        input_weights.append(ordered["weight_ih"])
        hidden_weights.append(ordered["weight_hh"])
        biases.append(np.concatenate([ordered["bias_ih"], ordered["bias_hh"]]))
    weights = [_stacked(graph, np.stack(stack)) for stack in (input_weights, hidden_weights)]
    inputs = (x, *weights, graph.floats(np.stack(biases)), lengths)
    width = model.config.width // len(names)
    direction = "bidirectional" if len(names) == 2 else "forward"
    # Only a GRU has a reset gate; PyTorch applies it after the product.
    reset = 1 if cell == "gru" else None
    output, last = graph.ops(
        OPERATORS[cell], *inputs, outs=2, hidden_size=width, direction=direction, linear_before_reset=reset
    )
    return output, last


_PARTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def _reordered(array: npt.NDArray[np.float32], cell: str) -> npt.NDArray[np.float32]:
    """PyTorch's gates [gates x D, ...] in ONNX's order."""
    gates = np.split(array, len(GATES[cell]))
    return np.concatenate([gates[place] for place in GATES[cell]])


def _stacked(graph: GraphBuilder, weights: npt.NDArray[np.float32]) -> str:
    """Weights of each direction [directions, N, D]; the operator multiplies in float."""
    flat = stored_int8(graph, weights.reshape(-1, weights.shape[-1]))
    return graph.op("Reshape", flat, graph.integers(*weights.shape))


def _advance(graph: GraphBuilder, model: Rnn, embedded: str) -> str:
    """embedded [R, D] -> features [R, D]; reads the state's inputs and writes its outputs."""
    kind = model.config.attention
    width = model.config.width
    hidden = [graph.input(f"hidden.{i}", graph.float_type, ["R", width]) for i in range(len(model.cells))]
    x = embedded
    context = ""
    if model.has_attention:
        for name in ("memory", "keys"):
            graph.input(name, graph.float_type, ["B", "S", width])
        context = graph.input("context", graph.float_type, ["R", width])
        after = graph.output("context.next", graph.float_type, ["R", width])
        if kind == "additive":
            context = graph.op("Identity", _attend(graph, model.attention, hidden[0], width), out=after)
        x = graph.op("Concat", embedded, context, axis=-1)
    for index, cell in enumerate(model.cells):
        assert isinstance(cell, nn.RNNCellBase)
        x = _cell(graph, cell, index, x, hidden[index])
    if not model.has_attention:
        return x
    if kind == "additive":
        return _mixed(graph, model, x, context)
    features = _mixed(graph, model, x, _attend(graph, model.attention, x, width))
    return graph.op("Identity", features, out=after)


def _mixed(graph: GraphBuilder, model: Rnn, x: str, context: str) -> str:
    return graph.op("Tanh", layer_linear(graph, model.mix, graph.op("Concat", x, context, axis=-1)))


def _attend(graph: GraphBuilder, attention: MemoryAttention, hidden: str, width: int) -> str:
    """hidden [R, D] -> context [R, D]; the rows of one source share its memory."""
    size = graph.op("Shape", "memory", start=1, end=2)
    is_real = graph.op("Unsqueeze", length_mask(graph, "memory_lengths", size), graph.integers(1))  # [B, 1, S]
    if attention.kind == "additive":
        query = group_rows(graph, layer_linear(graph, attention.query, hidden), "memory_lengths", width)
        query = graph.op("Unsqueeze", query, graph.integers(2))
        energies = graph.op("Tanh", graph.op("Add", query, graph.op("Unsqueeze", "keys", graph.integers(1))))
        energy = graph.floats(as_array(attention.energy.weight).T)
        scores = graph.op("Squeeze", graph.op("MatMul", energies, energy), graph.integers(-1))  # [B, R / B, S]
    else:
        query = group_rows(graph, hidden, "memory_lengths", width)
        scores = graph.op("MatMul", query, graph.op("Transpose", "keys", perm=[0, 2, 1]))
    weights = graph.op("Softmax", graph.op("Where", is_real, scores, graph.floats(MASKED_SCORE)), axis=-1)
    return graph.op("Reshape", graph.op("MatMul", weights, "memory"), graph.integers(-1, width))


def _cell(graph: GraphBuilder, cell: nn.RNNCellBase, index: int, x: str, hidden: str) -> str:
    """One step of a cell, as PyTorch defines it: x [R, ...], hidden [R, D] -> the next hidden [R, D]."""
    from_input = linear(graph, x, as_array(cell.weight_ih), as_array(cell.bias_ih))
    from_hidden = linear(graph, hidden, as_array(cell.weight_hh), as_array(cell.bias_hh))
    after = graph.output(f"hidden.{index}.next", graph.float_type, ["R", cell.hidden_size])
    if isinstance(cell, nn.LSTMCell):
        return _lstm(graph, index, cell.hidden_size, graph.op("Add", from_input, from_hidden), after)
    if isinstance(cell, nn.GRUCell):
        return _gru(graph, from_input, from_hidden, hidden, after)
    return graph.op("Tanh", graph.op("Add", from_input, from_hidden), out=after)


def _lstm(graph: GraphBuilder, index: int, width: int, gates: str, after: str) -> str:
    memory_cell = graph.input(f"cell.{index}", graph.float_type, ["R", width])
    cell_after = graph.output(f"cell.{index}.next", graph.float_type, ["R", width])
    let_in, forget, new, let_out = graph.ops("Split", gates, outs=4, axis=-1, num_outputs=4)
    kept = graph.op("Mul", graph.op("Sigmoid", forget), memory_cell)
    added = graph.op("Mul", graph.op("Sigmoid", let_in), graph.op("Tanh", new))
    graph.op("Add", kept, added, out=cell_after)
    return graph.op("Mul", graph.op("Sigmoid", let_out), graph.op("Tanh", cell_after), out=after)


def _gru(graph: GraphBuilder, from_input: str, from_hidden: str, hidden: str, after: str) -> str:
    reset_x, update_x, new_x = graph.ops("Split", from_input, outs=3, axis=-1, num_outputs=3)
    reset_h, update_h, new_h = graph.ops("Split", from_hidden, outs=3, axis=-1, num_outputs=3)
    reset = graph.op("Sigmoid", graph.op("Add", reset_x, reset_h))
    update = graph.op("Sigmoid", graph.op("Add", update_x, update_h))
    new = graph.op("Tanh", graph.op("Add", new_x, graph.op("Mul", reset, new_h)))
    difference = graph.op("Sub", hidden, new)
    return graph.op("Add", new, graph.op("Mul", update, difference), out=after)
