"""Graphs are opened where they were asked to run, and refused if they need what an artifact does not bring."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from app.engine import session
from app.engine.graph_file import check_graph_file
from app.engine.session import CPU, CUDA, open_session
from app.errors import ArtifactError, DeviceError


def graph(path: Path, domain: str = "", weights: np.ndarray | None = None) -> Path:
    """y = x * weights, by an operator of `domain`."""
    names = [TensorProto.FLOAT, [1]]
    node = helper.make_node("Mul", ["x", "w"], ["y"], domain=domain)
    weight = numpy_helper.from_array(np.ones(1, np.float32) if weights is None else weights, "w")
    inputs = [helper.make_tensor_value_info("x", *names)]
    outputs = [helper.make_tensor_value_info("y", *names)]
    opsets = [helper.make_opsetid("", 21)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    model = helper.make_model(
        helper.make_graph([node], "g", inputs, outputs, [weight]), opset_imports=opsets, ir_version=10
    )
    onnx.save(model, path)
    return path


def test_an_opened_graph_runs_with_the_threads_asked_for(tmp_path: Path) -> None:
    opened = open_session(graph(tmp_path / "step.onnx"), CPU, 1)
    options = opened.get_session_options()
    assert options.intra_op_num_threads == 1
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert opened.run(None, {"x": np.array([3], np.float32)})[0] == 3


def test_weights_in_another_file_are_refused(tmp_path: Path) -> None:
    path = graph(tmp_path / "step.onnx", weights=np.ones(5000, np.float32))
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    with pytest.raises(ArtifactError, match="step.onnx: keeps weights in another file"):
        open_session(path, CPU, 1)


def test_weights_in_another_file_are_found_inside_branches_too(tmp_path: Path) -> None:
    hidden = numpy_helper.from_array(np.ones(2, np.float32), "hidden")
    hidden.data_location = TensorProto.EXTERNAL
    hidden.external_data.add(key="location", value="../../secret")
    inner = helper.make_graph([helper.make_node("Identity", ["hidden"], ["z"])], "inner", [], [], [hidden])
    node = helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)
    (tmp_path / "step.onnx").write_bytes(helper.make_model(helper.make_graph([node], "g", [], [])).SerializeToString())
    with pytest.raises(ArtifactError, match="keeps weights in another file"):
        check_graph_file(tmp_path / "step.onnx")


def test_operators_of_an_unknown_domain_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="step.onnx: needs operators of domain 'com.example'"):
        open_session(graph(tmp_path / "step.onnx", domain="com.example"), CPU, 1)


@pytest.mark.parametrize("content", [b"", b"not a graph at all", b"\x3a\xff\xff\x01", b"\xff" * 20])
def test_what_is_no_graph_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "step.onnx").write_bytes(content)
    with pytest.raises(ArtifactError, match="step.onnx: "):
        open_session(tmp_path / "step.onnx", CPU, 1)


def test_a_truncated_graph_is_refused(tmp_path: Path) -> None:
    path = graph(tmp_path / "step.onnx")
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ArtifactError, match="step.onnx: "):
        open_session(path, CPU, 1)


def test_a_graph_that_the_runtime_refuses_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="step.onnx: ONNX Runtime refuses it"):
        open_session(graph(tmp_path / "step.onnx", domain="com.microsoft"), CPU, 1)


@pytest.mark.skipif(CUDA in onnxruntime.get_available_providers(), reason="this ONNX Runtime has CUDA")
def test_cuda_without_the_gpu_package_is_a_device_error(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="built without CUDA"):
        open_session(graph(tmp_path / "step.onnx"), CUDA, 1)
    assert not session.may_have_cuda()


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_cuda_that_silently_became_the_cpu_is_a_device_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The GPU package without a GPU: CUDA is listed, and a session for it quietly runs on the CPU.
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    with pytest.raises(DeviceError, match="asked for CUDAExecutionProvider, ONNX Runtime gave CPUExecutionProvider"):
        open_session(graph(tmp_path / "step.onnx"), CUDA, 1)


@pytest.mark.parametrize("shell", ["None", "types.ModuleType('onnxruntime')"])
def test_a_missing_or_hollow_runtime_says_what_to_install(shell: str) -> None:
    program = f"import sys, types; sys.modules['onnxruntime'] = {shell}; import app.engine.session"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "DeviceError: " in result.stderr and "install" in result.stderr.splitlines()[-1]
