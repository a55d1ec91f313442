"""8-bit codes of weights."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from onnx import TensorProto

from app.export.builder import CONTRIB, GraphBuilder
from app.export.quantize import LayerInputs, quantize
from tests.export.running import Array, open_graph, run

WEIGHTS = arrays(np.float32, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.floats(-50, 50, width=32))


def assert_no_pair_overflows(codes: Array) -> None:
    pairs = codes[:, : codes.shape[1] // 2 * 2].reshape(len(codes), -1, 2).astype(int).sum(axis=2)
    assert (np.abs(pairs) <= 128).all()
    assert ((codes >= -127) & (codes <= 127)).all()


@given(WEIGHTS)
@example(np.array([[3.66e-43]], np.float32))
def test_codes_are_within_half_a_step_of_the_weights(weight: Array) -> None:
    codes, scales = quantize(weight)
    restored = codes.astype(np.float32) * scales[:, None]
    assert (np.abs(restored - weight) <= scales[:, None] * 0.5001).all()
    assert_no_pair_overflows(codes)


@given(WEIGHTS, st.integers(0, 2**32 - 1))
def test_codes_made_for_inputs_overflow_neither(weight: Array, seed: int) -> None:
    x = np.random.default_rng(seed).standard_normal((20, weight.shape[1]))
    codes, scales = quantize(weight, LayerInputs(1.0, x.T @ x))
    np.testing.assert_array_equal(scales, quantize(weight)[1])
    assert_no_pair_overflows(codes)


@pytest.mark.parametrize("width", [1, 63, 64, 200])
def test_codes_made_for_inputs_multiply_with_them_more_exactly(width: int) -> None:
    draw = np.random.default_rng(width)
    # Inputs that depend on one another, as those of real layers do; one of them is never seen.
    x = draw.standard_normal((500, 12)) @ draw.standard_normal((12, width)) + 0.1 * draw.standard_normal((500, width))
    x[:, width // 2] *= width == 1
    weight = draw.standard_normal((30, width)).astype(np.float32)

    def error(codes: Array, scales: Array) -> float:
        return float(np.abs(x @ (codes * scales[:, None] - weight).T).mean())

    nearest, fitted = error(*quantize(weight)), error(*quantize(weight, LayerInputs(1.0, x.T @ x)))
    assert fitted <= nearest * (1.001 if width == 1 else 0.7)


@pytest.mark.parametrize("num_rows", [1, 3, 8, 33])
@pytest.mark.parametrize("depth", [62, 63, 256])
def test_integer_products_are_exact(depth: int, num_rows: int) -> None:
    # Where processors have AVX2 alone, pairs of u8 x s8 products are added in 16 bits.
    draw = np.random.default_rng(depth)
    codes, scales = quantize(draw.choice(np.array([-1, 0.1, 1], np.float32), (19, depth)))
    activations = draw.choice(np.array([0, 128, 255], np.uint8), (num_rows, depth), p=[0.2, 0.1, 0.7])
    graph = GraphBuilder("product", "int8")
    graph.input("a", TensorProto.UINT8, ["R", depth])
    graph.output("y", TensorProto.FLOAT, ["R", len(codes)])
    one, zero = graph.constant(1.0, np.float32), graph.constant(128, np.uint8)
    names = graph.constant(codes.T, np.int8), one, graph.constant(np.ones_like(scales), np.float32)
    graph.op("MatMulIntegerToFloat", "a", *names, zero, domain=CONTRIB, out="y")
    expected = (activations.astype(int) - 128) @ codes.T.astype(int)
    np.testing.assert_array_equal(run(open_graph(graph.model()), {"a": activations})["y"], expected)
