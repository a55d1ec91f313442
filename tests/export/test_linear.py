"""Linear layers in 8 bits."""

import numpy as np
import pytest
from onnx import TensorProto

from app.export.builder import GraphBuilder
from app.export.linear import linear, relu_linear
from app.export.quantize import LayerInputs
from app.store.manifest import VariantName
from tests.export.running import Array, open_graph, run


def product(x: Array, weight: Array, bias: Array, variant: VariantName = "int8") -> Array:
    graph = GraphBuilder("product", variant)
    graph.input("x", TensorProto.FLOAT, ["R", x.shape[1]])
    graph.output("y", TensorProto.FLOAT, ["R", len(weight)])
    graph.op("Identity", linear(graph, "x", weight, bias), out="y")
    return run(open_graph(graph.model()), {"x": x})["y"]


@pytest.mark.parametrize("variant", ["int8", "int8-fast"])
@pytest.mark.parametrize("num_rows", [1, 2, 3, 8, 33])
def test_largest_products_do_not_overflow(num_rows: int, variant: VariantName) -> None:
    # Where processors have AVX2 alone, pairs of u8 x s8 products are added in 16 bits.
    x, weight = np.full((num_rows, 511), 3.0, np.float32), np.full((21, 511), -2.0, np.float32)
    y = product(x, weight, np.zeros(21, np.float32), variant)
    np.testing.assert_allclose(y, np.full((num_rows, 21), -3066.0), rtol=0.01)


@pytest.mark.parametrize("num_rows", [1, 2, 33])
def test_each_row_has_its_own_scale(num_rows: int) -> None:
    random = np.random.default_rng(0)
    x = random.normal(0, 1, (num_rows, 40)).astype(np.float32)
    x[0] *= 1e-4  # beside rows ten thousand times larger, a shared scale would round it to nothing
    weight, bias = random.normal(0, 1, (23, 40)).astype(np.float32), np.zeros(23, np.float32)
    expected = x @ weight.T
    error = np.abs(product(x, weight, bias) - expected).max(axis=1) / np.abs(expected).max(axis=1)
    assert (error < 0.02).all()


def test_a_row_of_zeros_gives_the_bias() -> None:
    bias = np.arange(3, dtype=np.float32)
    y = product(np.zeros((2, 8), np.float32), np.ones((3, 8), np.float32), bias)
    np.testing.assert_array_equal(y, np.stack([bias, bias]))


def test_fast_int8_multiplies_as_the_exact_form_does_but_for_rounding() -> None:
    draw = np.random.default_rng(5)
    x, weight = draw.standard_normal((6, 32), np.float32), draw.standard_normal((16, 32), np.float32)
    bias = draw.standard_normal(16, np.float32)
    expected = x @ weight.T + bias
    found = product(x, weight, bias, variant="int8-fast")
    assert np.abs(found - expected).max() < 0.03 * np.abs(expected).max()


def test_a_relu_before_a_product_costs_no_precision_and_no_operator() -> None:
    draw = np.random.default_rng(7)
    x, weight = draw.standard_normal((6, 32), np.float32), draw.standard_normal((16, 32), np.float32)
    bias = draw.standard_normal(16, np.float32)
    inputs = LayerInputs(float(np.abs(x).max()), np.eye(32))
    graph = GraphBuilder("product", "int8")
    graph.input("x", TensorProto.FLOAT, ["R", 32])
    graph.output("y", TensorProto.FLOAT, ["R", 16])
    graph.op("Identity", relu_linear(graph, "x", weight, bias, inputs), out="y")
    model = graph.model()
    assert "Relu" not in {node.op_type for node in model.graph.node}
    found = run(open_graph(model), {"x": x})["y"]
    expected = np.maximum(x, 0) @ weight.T + bias
    assert np.abs(found - expected).max() < 0.02 * np.abs(expected).max()
