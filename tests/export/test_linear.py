"""8-bit weights."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from onnx import TensorProto

from app.export.builder import GraphBuilder
from app.export.linear import linear, quantize, relu_linear
from app.store.manifest import VariantName
from tests.export.running import Array, open_graph, run

WEIGHTS = arrays(np.float32, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.floats(-50, 50, width=32))


@given(WEIGHTS)
@example(np.array([[3.66e-43]], np.float32))
def test_codes_are_within_half_a_step_of_the_weights(weight: Array) -> None:
    codes, scales = quantize(weight)
    restored = codes.astype(np.float32) * scales[:, None]
    assert (np.abs(restored - weight) <= scales[:, None] * 0.5001).all()
    assert ((codes >= -127) & (codes <= 127)).all()


def product(x: Array, weight: Array, bias: Array, is_unsigned: bool = False, variant: VariantName = "int8") -> Array:
    graph = GraphBuilder("product", variant)
    graph.input("x", TensorProto.FLOAT, ["R", x.shape[1]])
    graph.output("y", TensorProto.FLOAT, ["R", len(weight)])
    graph.op("Identity", linear(graph, "x", weight, bias), out="y")
    return run(open_graph(graph.model(), is_unsigned=is_unsigned), {"x": x})["y"]


@pytest.mark.parametrize("is_unsigned", [False, True])
def test_largest_products_do_not_saturate(is_unsigned: bool) -> None:
    # Pairs of u8 x s8 products overflow 16 bits on AVX2 when both are at their largest: u8 x u8 must not.
    x, weight = np.full((2, 512), 3.0, np.float32), np.full((5, 512), -2.0, np.float32)
    y = product(x, weight, np.zeros(5, np.float32), is_unsigned)
    np.testing.assert_allclose(y, np.full((2, 5), -3072.0), rtol=1e-4)


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


@pytest.mark.parametrize("is_unsigned", [False, True])
def test_a_relu_before_a_product_costs_no_precision_and_no_operator(is_unsigned: bool) -> None:
    draw = np.random.default_rng(7)
    x, weight = draw.standard_normal((6, 32), np.float32), draw.standard_normal((16, 32), np.float32)
    bias, largest = draw.standard_normal(16, np.float32), float(np.abs(x).max())
    graph = GraphBuilder("product", "int8")
    graph.input("x", TensorProto.FLOAT, ["R", 32])
    graph.output("y", TensorProto.FLOAT, ["R", 16])
    graph.op("Identity", relu_linear(graph, "x", weight, bias, largest), out="y")
    model = graph.model()
    assert "Relu" not in {node.op_type for node in model.graph.node}
    found = run(open_graph(model, is_unsigned=is_unsigned), {"x": x})["y"]
    expected = np.maximum(x, 0) @ weight.T + bias
    assert np.abs(found - expected).max() < 0.02 * np.abs(expected).max()
