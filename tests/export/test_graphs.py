"""Every architecture's graphs against its PyTorch module. Each axis has another size, so a swapped one cannot pass."""

import itertools

import numpy as np
import onnx
import pytest
import torch

from app.errors import ExportError
from app.export.graphs import build_graphs
from app.models import build_model
from app.models.convolutional import ConvolutionalConfig
from app.models.interface import Seq2Seq
from app.models.rnn import RnnConfig
from app.models.transformer import TransformerConfig
from tests.export.running import Array, GraphDecoder, TorchDecoder, open_graph, run

VOCABULARY = 203  # prime: the top-k blocks do not divide it
LENGTHS = np.array([7, 3, 1, 6, 5])
STARTS = np.array([0, 3, 1, 5, 2])  # the step at which each source's rows begin
NUM_STEPS = 9
# float32 sums in another order; logits here are below 10.
TOLERANCE = 2e-5


def transformer(**options: object) -> Seq2Seq:
    sizes: dict[str, object] = {
        "width": 48,
        "num_heads": 3,
        "feed_forward_width": 80,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "max_length": 32,
    }
    torch.manual_seed(3)
    return build_model(TransformerConfig.model_validate(sizes | options), VOCABULARY).eval()


def rnn(**options: object) -> Seq2Seq:
    torch.manual_seed(4)
    sizes: dict[str, object] = {"width": 34, "encoder_layers": 2, "decoder_layers": 2}
    model = build_model(RnnConfig.model_validate(sizes | options), VOCABULARY).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.0)  # attention of small random weights is flat: it would hide a wrong mask
    return model


def convolutional(**options: object) -> Seq2Seq:
    torch.manual_seed(5)
    sizes: dict[str, object] = {"width": 34, "encoder_layers": 3, "decoder_layers": 2, "kernel_width": 5}
    model = build_model(ConvolutionalConfig.model_validate(sizes | options), VOCABULARY).eval()
    with torch.no_grad():
        model.get_parameter("embedding.weight").mul_(4.0)
    return model


def copying_convolutional() -> Seq2Seq:
    return convolutional(copying=True, tied_embeddings=False, kernel_width=3)


def copying_transformer() -> Seq2Seq:
    return transformer(copying=True)


def copying_rnn() -> Seq2Seq:
    return rnn(copying=True)


def random_sources(seed: int = 0) -> Array:
    """[B, S]; the padding holds ids too, which must not matter."""
    return np.random.default_rng(seed).integers(4, VOCABULARY, (len(LENGTHS), int(LENGTHS.max())))


def largest_difference(model: Seq2Seq, graphs: GraphDecoder, width: int) -> float:
    """Over the logits of rows that began at different steps."""
    source, random = random_sources(), np.random.default_rng(1)
    graphs.start(source, LENGTHS, width, capacity=NUM_STEPS + 2)
    expected = TorchDecoder.start(model, source, LENGTHS, width, capacity=NUM_STEPS)
    largest = 0.0
    for step in range(NUM_STEPS):
        # A row that has not begun feeds its first position over and over.
        positions = np.maximum(step - STARTS, 0).repeat(width)
        ids = random.integers(4, VOCABULARY, len(positions))
        logits = graphs.advance(ids, positions, 1)["logits"]
        difference = np.abs(logits - expected.advance(ids, positions))
        largest = float(np.maximum(largest, difference.max()))
    return largest


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize(
    ("norm", "activation", "tied", "positions"),
    [
        ("pre", "relu", True, "sinusoidal"),
        ("post", "relu", False, "learned"),
        ("pre", "gelu", False, "learned"),
        ("post", "gelu", True, "sinusoidal"),
        ("pre", "swish", True, "learned"),
        ("post", "swish", False, "sinusoidal"),
    ],
)
def test_transformer_graphs_equal_pytorch_for_rows_of_different_ages(
    norm: str, activation: str, tied: bool, positions: str, width: int
) -> None:
    model = transformer(norm=norm, activation=activation, tied_embeddings=tied, positions=positions)
    graphs = GraphDecoder.open(build_graphs(model, "fp32"))
    assert largest_difference(model, graphs, width) < TOLERANCE


@pytest.mark.parametrize(
    ("cell", "attention", "bidirectional"),
    list(itertools.product(("lstm", "gru", "rnn"), ("none", "additive", "dot", "general"), (True, False))),
)
def test_recurrent_graphs_equal_pytorch(cell: str, attention: str, bidirectional: bool) -> None:
    layers = 2 if bidirectional else 1
    model = rnn(cell=cell, attention=attention, bidirectional=bidirectional, decoder_layers=layers)
    if cell == "lstm":
        model = rnn(cell=cell, attention=attention, bidirectional=bidirectional, tied_embeddings=False)
    graphs = GraphDecoder.open(build_graphs(model, "fp32"))
    assert largest_difference(model, graphs, width=3) < TOLERANCE


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("make", [convolutional, copying_transformer, copying_rnn, copying_convolutional])
def test_graphs_of_other_models_equal_pytorch(make: type, width: int) -> None:
    model: Seq2Seq = make()
    graphs = GraphDecoder.open(build_graphs(model, "fp32"))
    assert largest_difference(model, graphs, width) < TOLERANCE


@pytest.mark.parametrize("make", [transformer, rnn, convolutional, copying_transformer, copying_rnn])
def test_encode_equals_pytorch_at_every_real_position(make: type) -> None:
    model: Seq2Seq = make()
    source = random_sources()
    found = GraphDecoder.open(build_graphs(model, "fp32")).start(source, LENGTHS, 1, 1)
    with torch.inference_mode():
        expected = model.encode(torch.from_numpy(source), torch.from_numpy(LENGTHS))
    axes = {spec.name: spec.length_axis for spec in model.state_specs() if spec.kind == "memory"}
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        for row, length in enumerate(LENGTHS):
            window = (slice(None),) * (axes[name] - 1) + (slice(length),) if axes.get(name) else ()
            np.testing.assert_allclose(found[name][row][window], value[row].numpy()[window], atol=1e-5)


@pytest.mark.parametrize("variant", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("make", [transformer, rnn, convolutional, copying_transformer, copying_rnn])
def test_ids_in_the_padding_change_nothing(make: type, variant: str) -> None:
    graphs = build_graphs(make(), variant)  # type: ignore[arg-type]
    first, second = random_sources(1), random_sources(2)
    is_real = np.arange(first.shape[1]) < LENGTHS[:, None]
    second[is_real] = first[is_real]
    logits = []
    for source in (first, second):
        decoder = GraphDecoder.open(graphs)
        decoder.start(source, LENGTHS, 1, 4)
        logits.append(decoder.advance(np.full(len(LENGTHS), 9), np.zeros(len(LENGTHS), np.int64), 1)["logits"])
    np.testing.assert_array_equal(*logits)


@pytest.mark.parametrize("make", [transformer, rnn, convolutional, copying_transformer, copying_rnn])
def test_what_stands_behind_the_memory_changes_nothing(make: type) -> None:
    # Where a long source left and a short one took its place, the engine leaves the end of the long one behind it.
    graphs = build_graphs(make(), "fp32")
    decoder = GraphDecoder.open(graphs)
    rows, ids, positions = len(LENGTHS), np.full(len(LENGTHS), 9), np.zeros(len(LENGTHS), np.int64)
    decoder.start(random_sources(), LENGTHS, 1, 4)
    expected = decoder.advance(ids, positions, 1)["logits"]
    decoder.start(random_sources(), LENGTHS, 1, 4)
    random = np.random.default_rng(5)
    for spec in graphs.state:
        if spec.kind != "memory":
            continue
        axis = spec.length_axis or 0
        memory = decoder.state[spec.name]
        shape = list(memory.shape)
        shape[axis] = 6
        junk = random.integers(4, VOCABULARY, shape) if spec.dtype == "int64" else random.normal(0, 30, shape)
        longer = np.concatenate([memory, junk.astype(memory.dtype)], axis)
        for row in range(rows):
            window = (row, *(slice(None),) * (axis - 1), slice(LENGTHS[row], None))
            longer[window] = random.normal(0, 30, longer[window].shape)
        decoder.state[spec.name] = longer
    np.testing.assert_allclose(decoder.advance(ids, positions, 1)["logits"], expected, atol=1e-5)


@pytest.mark.parametrize("make", [transformer, rnn, convolutional, copying_transformer, copying_rnn])
@pytest.mark.parametrize(("variant", "tolerance"), [("fp16", 0.03), ("int8", 0.15)])
def test_small_variants_stay_near_pytorch(make: type, variant: str, tolerance: float) -> None:
    # Random weights spread the rounding more than trained ones do; logits are up to 6.
    model: Seq2Seq = make()
    graphs = GraphDecoder.open(build_graphs(model, variant))  # type: ignore[arg-type]
    assert largest_difference(model, graphs, width=2) < tolerance


@pytest.mark.parametrize("make", [transformer, rnn, convolutional, copying_transformer, copying_rnn])
def test_an_int8_row_is_the_same_to_the_bit_whoever_stands_beside_it(make: type) -> None:
    graphs = build_graphs(make(), "int8")
    source, random = random_sources(), np.random.default_rng(7)
    ids, positions = random.integers(4, VOCABULARY, len(LENGTHS)), np.zeros(len(LENGTHS), np.int64)

    def logits_of_first(rows: list[int], others: Array) -> bytes:
        decoder = GraphDecoder.open(graphs)
        decoder.start(np.concatenate([source[:1], others[rows[1:]]]), LENGTHS[rows], 1, 4)
        for _ in range(2):
            outputs = decoder.advance(ids[rows], positions[rows], 1)
        return bytes(outputs["logits"][0].tobytes())

    alone = logits_of_first([0], source)
    assert logits_of_first([0, 1, 2, 3, 4], source) == alone
    assert logits_of_first([0, 1, 2, 3, 4], random_sources(8)) == alone
    assert logits_of_first([0, 3], source) == alone


@pytest.mark.parametrize("vocabulary_size", [16, 64, 97, 203, 500, 1001, 8000])
def test_candidates_are_the_best_of_the_vocabulary_for_every_k(vocabulary_size: int) -> None:
    torch.manual_seed(0)
    config = TransformerConfig(width=8, num_heads=1, feed_forward_width=8, encoder_layers=1, decoder_layers=1)
    decoder = GraphDecoder.open(build_graphs(build_model(config, vocabulary_size).eval(), "fp32"))
    for num_candidates in {1, 2, 7, 16, vocabulary_size - 1, vocabulary_size}:
        decoder.start(random_sources() % vocabulary_size, LENGTHS, 1, 2)
        outputs = decoder.advance(np.arange(len(LENGTHS)), np.zeros(len(LENGTHS), np.int64), num_candidates)
        log_probs = torch.from_numpy(outputs["logits"]).log_softmax(-1).numpy()
        best = np.sort(log_probs, axis=1)[:, ::-1][:, :num_candidates]
        np.testing.assert_allclose(outputs["log_probs"], best, atol=1e-5)
        # Whichever of two equal ones is taken, its id must carry its log probability, and no id comes twice.
        carried = np.take_along_axis(log_probs, outputs["candidates"], axis=1)
        np.testing.assert_allclose(carried, outputs["log_probs"], atol=1e-5)
        assert all(len(set(row)) == num_candidates for row in outputs["candidates"].tolist())


def test_graphs_declare_what_the_contract_names() -> None:
    model = transformer()
    graphs = build_graphs(model, "fp16")
    names = {spec.name for spec in model.state_specs() if spec.kind == "memory"}
    assert {output.name for output in graphs.encode.graph.output} == names | {"memory_lengths"}
    carried = {spec.name for spec in model.state_specs() if spec.kind == "growing"}
    outputs = {"candidates", "log_probs", "logits"} | {f"{name}.next" for name in carried}
    assert {output.name for output in graphs.step.graph.output} == outputs
    inputs = {"ids", "positions", "total_length", "memory_lengths", "num_candidates"} | names | carried
    assert {value.name for value in graphs.step.graph.input} == inputs
    assert {spec.dtype for spec in graphs.state} == {"float16"}
    types = {output.name: output.type.tensor_type.elem_type for output in graphs.step.graph.output}
    assert types["logits"] == types["log_probs"] == onnx.TensorProto.FLOAT


def test_int8_is_stored_in_a_third_and_fp16_in_about_half() -> None:
    model = transformer(width=128, num_heads=4, feed_forward_width=256)
    sizes = {}
    for variant in ("fp32", "fp16", "int8"):
        graphs = build_graphs(model, variant)  # type: ignore[arg-type]
        sizes[variant] = graphs.encode.ByteSize() + graphs.step.ByteSize()
    assert sizes["fp16"] < 0.55 * sizes["fp32"]
    assert sizes["int8"] < 0.33 * sizes["fp32"]


def test_tied_weights_are_stored_once_in_a_graph() -> None:
    tied, untied = (build_graphs(transformer(tied_embeddings=tied), "fp32").step.ByteSize() for tied in (True, False))
    assert untied - tied > 0.9 * 4 * 48 * VOCABULARY


def test_a_head_width_that_the_operator_cannot_take_is_refused_with_the_numbers() -> None:
    with pytest.raises(ExportError, match=r"head width 12 \(width 48 / num_heads 4\) is not a multiple of 8"):
        build_graphs(transformer(num_heads=4), "fp32")


def test_position_beyond_the_table_is_an_error_and_no_garbage() -> None:
    decoder = GraphDecoder.open(build_graphs(transformer(max_length=8), "fp32"))
    decoder.start(random_sources(), LENGTHS, 1, 12)
    with pytest.raises(Exception, match="out of"):
        decoder.advance(np.full(5, 9), np.full(5, 8), 1)


def test_a_source_longer_than_the_table_is_an_error_and_no_garbage() -> None:
    session = open_graph(build_graphs(transformer(max_length=8), "fp32").encode)
    with pytest.raises(Exception, match=r"(?i)broadcast|dimension"):
        run(session, {"source": np.full((1, 9), 5), "source_lengths": np.array([9])})
