"""Ranges that int8 knows beforehand."""

import numpy as np
import pytest
from onnx import TensorProto
from torch import nn

from app.export.builder import GraphBuilder
from app.export.calibration import input_ranges
from app.export.linear import linear
from app.models.stepping import TorchModel
from tests.engine.conftest import build
from tests.export.running import Array, open_graph, run


def test_every_linear_layer_of_a_transformer_gets_a_range() -> None:
    model = build("transformer")
    reference = TorchModel(model, bos_id=2, eos_id=3, pad_id=0, max_target_length=20)
    ranges = input_ranges(reference, [np.array([5, 9, 3]), np.array([7, 3])], max_length=8)
    assert set(ranges) == {layer for layer in model.modules() if isinstance(layer, nn.Linear)}
    assert all(largest > 0 for largest in ranges.values())
    assert not any(layer._forward_pre_hooks for layer in ranges)


def product(x: Array, weight: Array, largest: float) -> Array:
    graph = GraphBuilder("product", "int8")
    graph.input("x", TensorProto.FLOAT, ["R", x.shape[1]])
    graph.output("y", TensorProto.FLOAT, ["R", len(weight)])
    bias = np.ones(len(weight), np.float32)
    graph.op("Identity", linear(graph, "x", weight, bias, largest), out="y")
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
