"""A speech model's graphs against its PyTorch module: windows of one length, and sources of any."""

import numpy as np
import pytest
import torch

from app.decoding.interface import Probes
from app.export.graphs import build_graphs
from app.models import build_model
from app.models.speech import Speech, SpeechConfig
from app.models.stepping import TorchModel
from app.store.manifest import Speech as Told
from app.store.manifest import VariantName
from tests.export.running import Array, GraphDecoder, TorchDecoder

VOCABULARY, NUM_MELS, MAX_FRAMES, NUM_STEPS = 203, 10, 36, 6
LENGTHS = np.array([13, 36, 1, 8])
TOLERANCE = 2e-5
SHAPES = [{"has_fixed_window": True, "source_positions": "learned", "scaled_embeddings": False}, {"norm": "post"}]


def speech(**options: object) -> Speech:
    sizes: dict[str, object] = {
        "width": 48,
        "num_heads": 3,
        "feed_forward_width": 80,
        "encoder_layers": 2,
        "decoder_layers": 3,
        "num_mels": NUM_MELS,
        "max_frames": MAX_FRAMES,
        "max_length": 20,
    }
    torch.manual_seed(3)
    model = build_model(SpeechConfig.model_validate(sizes | options), VOCABULARY).eval()
    assert isinstance(model, Speech)
    return model


def draw(model: Speech, seed: int = 0) -> tuple[Array, Array]:
    """Sources [B, F, M] and lengths; what is behind a source's end must not matter."""
    lengths = np.full(len(LENGTHS), MAX_FRAMES) if model.config.has_fixed_window else LENGTHS
    source = np.random.default_rng(seed).standard_normal((len(lengths), MAX_FRAMES, NUM_MELS))
    return source.astype(np.float32), lengths


def largest_difference(model: Speech, variant: VariantName, width: int) -> float:
    """Over the logits of a few steps."""
    source, lengths = draw(model)
    graphs = GraphDecoder.open(build_graphs(model, variant))
    encoded = graphs.start(source, lengths, width, NUM_STEPS)
    assert encoded["memory_lengths"].tolist() == [(length + 1) // 2 for length in lengths]
    expected = TorchDecoder.start(model, source, lengths, width, NUM_STEPS)
    random, differences = np.random.default_rng(1), []
    for step in range(NUM_STEPS):
        ids = random.integers(4, VOCABULARY, width * len(lengths))
        positions = np.full(len(ids), step)
        logits = graphs.advance(ids, positions, 1)["logits"]
        differences.append(np.abs(logits - expected.advance(ids, positions)).max())
    return float(np.max(differences))


@pytest.mark.parametrize("options", SHAPES)
@pytest.mark.parametrize(("variant", "tolerance"), [("fp32", TOLERANCE), ("fp16", 0.03), ("int8", 0.15)])
def test_graphs_equal_pytorch(options: dict[str, object], variant: VariantName, tolerance: float) -> None:
    assert largest_difference(speech(**options), variant, width=2) < tolerance


@pytest.mark.parametrize("variant", ["fp32", "fp16", "int8"])
def test_frames_behind_the_end_change_nothing(variant: VariantName) -> None:
    model = speech()
    first, lengths = draw(model, 1)
    second, _ = draw(model, 2)
    is_real = np.arange(MAX_FRAMES) < lengths[:, None]
    second[is_real] = first[is_real]
    logits = []
    for source in (first, second):
        decoder = GraphDecoder.open(build_graphs(model, variant))
        decoder.start(source, lengths, 1, 4)
        logits.append(decoder.advance(np.full(len(lengths), 9), np.zeros(len(lengths), np.int64), 1)["logits"])
    np.testing.assert_array_equal(*logits)


@pytest.mark.parametrize("options", SHAPES)
def test_an_int8_row_is_the_same_to_the_bit_whoever_stands_beside_it(options: dict[str, object]) -> None:
    model = speech(**options)
    graphs = build_graphs(model, "int8")
    source, lengths = draw(model)
    other, _ = draw(model, 5)

    def logits_of_first(rows: list[int], others: Array) -> bytes:
        decoder = GraphDecoder.open(graphs)
        decoder.start(np.concatenate([source[:1], others[rows[1:]]]), lengths[rows], 1, 4)
        outputs = decoder.advance(np.full(len(rows), 9), np.zeros(len(rows), np.int64), 1)
        return bytes(outputs["logits"][0].tobytes())

    alone = logits_of_first([0], source)
    assert logits_of_first([0, 1, 2, 3], source) == alone
    assert logits_of_first([0, 3], other) == alone


def test_a_fixed_window_is_declared_in_the_graph_and_any_other_length_an_error() -> None:
    graphs = build_graphs(speech(has_fixed_window=True), "fp32")
    (source,) = [value for value in graphs.encode.graph.input if value.name == "source"]
    assert [axis.dim_value or axis.dim_param for axis in source.type.tensor_type.shape.dim] == ["B", 36, 10]
    with pytest.raises(Exception, match=r"(?i)dimension"):
        GraphDecoder.open(graphs).start(np.zeros((1, 30, 10), np.float32), np.array([30]), 1, 1)


def test_convolutions_are_stored_as_float16_beside_int8() -> None:
    sizes = {variant: build_graphs(speech(), variant).encode.ByteSize() for variant in ("fp32", "int8")}  # type: ignore[arg-type]
    assert sizes["int8"] < 0.45 * sizes["fp32"]


PROBE_IDS, HEADS = [202, 7, 31], [(0, 2), (2, 0), (2, 1)]
TOLD = Told(num_mels=NUM_MELS, languages=["en"], probe_ids=PROBE_IDS, alignment_heads=HEADS)


@pytest.mark.parametrize("options", SHAPES)
@pytest.mark.parametrize(("variant", "tolerance"), [("fp32", TOLERANCE), ("fp16", 0.03), ("int8", 0.15)])
def test_probes_and_alignment_equal_pytorch(options: dict[str, object], variant: VariantName, tolerance: float) -> None:
    model, width = speech(**options), 2
    source, lengths = draw(model)
    graphs = GraphDecoder.open(build_graphs(model, variant, speech=TOLD))
    graphs.start(source, lengths, width, NUM_STEPS)
    probes = Probes(tuple(PROBE_IDS), (0.0,) * len(PROBE_IDS))
    reference = TorchModel(
        model, bos_id=1, eos_id=2, pad_id=0, max_target_length=20, probes=probes, alignment_heads=HEADS
    )
    state = reference.encode([one[:length] for one, length in zip(source, lengths, strict=True)], width)
    random = np.random.default_rng(1)
    for step in range(NUM_STEPS):
        ids = random.integers(4, VOCABULARY, width * len(lengths))
        outputs = graphs.advance(ids, np.full(len(ids), step), 1, num_alignments=len(HEADS))
        expected, state = reference.step(ids, state, 1, needs_attention=True)
        assert expected.probes is not None and expected.attention is not None
        np.testing.assert_allclose(outputs["probes"], expected.probes, atol=tolerance)
        assert outputs["alignment"].shape == (width * len(lengths), len(HEADS), MAX_FRAMES // 2)
        np.testing.assert_allclose(outputs["alignment"], expected.attention, atol=tolerance)
        np.testing.assert_allclose(outputs["alignment"].sum(axis=2), 1, atol=1e-3)
        is_real = np.arange(MAX_FRAMES // 2) < np.repeat((lengths + 1) // 2, width)[:, None]
        assert (outputs["alignment"].transpose(0, 2, 1)[~is_real] == 0).all()


@pytest.mark.parametrize("variant", ["fp32", "fp16", "int8"])
def test_alignment_is_empty_and_changes_nothing_where_it_is_not_asked_for(variant: VariantName) -> None:
    model = speech()
    source, lengths = draw(model)
    logits = []
    for num_alignments in (0, len(HEADS), None):
        told = None if num_alignments is None else TOLD
        decoder = GraphDecoder.open(build_graphs(model, variant, speech=told))
        decoder.start(source, lengths, 1, 4)
        outputs = decoder.advance(np.full(4, 9), np.zeros(4, np.int64), 1, num_alignments=num_alignments)
        logits.append(outputs["logits"])
        if num_alignments == 0:
            assert outputs["alignment"].shape == (4, 0, MAX_FRAMES // 2)
    np.testing.assert_array_equal(logits[0], logits[1])
    # float16 on the CPU: ONNX Runtime puts its casts elsewhere.
    np.testing.assert_allclose(logits[0], logits[2], atol=1e-3 if variant == "fp16" else 0)
