"""What int8 knows of inputs beforehand."""

import numpy as np
import pytest
import torch
from onnx import TensorProto
from torch import nn

from app.export.builder import GraphBuilder
from app.export.calibration import measure_inputs
from app.export.linear import linear
from app.export.quantize import LayerInputs
from app.models.stepping import TorchModel
from tests.engine.conftest import build
from tests.export.running import Array, open_graph, run


def test_inputs_of_every_linear_layer_of_a_transformer_are_measured() -> None:
    model = build("transformer")
    reference = TorchModel(model, bos_id=2, eos_id=3, pad_id=0, max_target_length=20)
    measured = measure_inputs(reference, [np.array([5, 9, 3]), np.array([7, 3])], max_length=8)
    assert set(measured) == {layer for layer in model.modules() if isinstance(layer, nn.Linear)}
    for layer, inputs in measured.items():
        assert inputs.largest > 0
        assert inputs.moments.shape == (layer.in_features, layer.in_features)
        np.testing.assert_allclose(inputs.moments, inputs.moments.T)
    assert not any(layer._forward_pre_hooks for layer in measured)


def measured(x: Array) -> LayerInputs:
    """What is known of a layer that was given x [N, D]."""
    layer, reference = nn.Linear(x.shape[1], 1), build("transformer")
    reference.add_module("more", layer)
    told = TorchModel(reference, bos_id=2, eos_id=3, pad_id=0, max_target_length=20)

    def give(*_: object) -> None:
        layer(torch.from_numpy(x))

    reference.encoder_layers[0].register_forward_hook(give)
    return measure_inputs(told, [np.array([7, 3])], max_length=1)[layer]


def test_a_few_outliers_are_cut_so_that_all_others_are_finer() -> None:
    x = np.random.default_rng(0).standard_normal((20_000, 50)).astype(np.float32)
    assert 3.5 < measured(x).largest <= np.abs(x).max()
    x[7, 3] = 30.0
    assert measured(x).largest < 15
    x[:, 3] = 30.0  # no outlier: every row has it
    assert measured(x).largest == pytest.approx(30.0)


def product(x: Array, weight: Array, largest: float) -> Array:
    graph = GraphBuilder("product", "int8")
    graph.input("x", TensorProto.FLOAT, ["R", x.shape[1]])
    graph.output("y", TensorProto.FLOAT, ["R", len(weight)])
    bias = np.ones(len(weight), np.float32)
    inputs = LayerInputs(largest, np.eye(x.shape[1]))
    graph.op("Identity", linear(graph, "x", weight, bias, inputs), out="y")
    return run(open_graph(graph.model()), {"x": x})["y"]


@pytest.mark.parametrize("num_rows", [1, 2, 33])
def test_a_known_range_gives_the_product_and_the_same_row_beside_any_neighbours(num_rows: int) -> None:
    draw = np.random.default_rng(3)
    x, weight = draw.uniform(-2, 2, (num_rows, 40)).astype(np.float32), draw.standard_normal((23, 40), np.float32)
    expected = x @ weight.T + 1
    found = product(x, weight, 2.0)
    assert np.abs(found - expected).max() < 0.02 * np.abs(expected).max()
    x[1:] = 100.0
    np.testing.assert_array_equal(product(x, weight, 2.0)[0], found[0])


def test_what_lies_outside_the_range_is_cut() -> None:
    found = product(np.array([[9.0, -9.0]], np.float32), np.eye(2, dtype=np.float32), 2.0)
    np.testing.assert_allclose(found, [[3.0, -1.0]], atol=0.05)
