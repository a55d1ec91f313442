"""model.bin is read to the last byte, or refused with the reason."""

from pathlib import Path

import numpy as np
import pytest

from app.errors import CheckpointError
from app.pretrained.ctranslate2 import read_variables
from app.pretrained.reading import read_pretrained
from tests.pretrained import checkpoint

VARIABLES = {
    "a/weight": np.array([[1, -2, 127], [4, 5, 6]], np.int8),
    "a/weight_scale": np.array([2.0, 4.0], np.float32),
    "b": np.array([7, 9], np.int16),
    "b_scale": np.array(2.0, np.float32),
    "c": np.array([[0.5], [0.25]], np.float16),
    "heads": np.array(6, np.int16),
}


def test_quantized_variables_and_aliases_become_what_they_stand_for(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    checkpoint.write_model_bin(path, VARIABLES, {"tied/weight": "a/weight"}, kind="TransformerSpec")
    found = read_variables(path)
    assert found.kind == "TransformerSpec" and found.settings == {"heads": 6.0}
    assert found.weights.keys() == {"a/weight", "tied/weight", "b", "c"}
    np.testing.assert_array_equal(found.weights["a/weight"], [[0.5, -1, 63.5], [1, 1.25, 1.5]])
    np.testing.assert_array_equal(found.weights["tied/weight"], found.weights["a/weight"])
    np.testing.assert_array_equal(found.weights["b"], [3.5, 4.5])
    np.testing.assert_array_equal(found.weights["c"], [[0.5], [0.25]])


@pytest.mark.parametrize("size", [0, 3, 20, 60, -1])
def test_a_file_that_is_cut_short_is_refused(tmp_path: Path, size: int) -> None:
    path = tmp_path / "model.bin"
    checkpoint.write_model_bin(path, VARIABLES, {})
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CheckpointError, match=r"cut short|not readable"):
        read_variables(path)


def test_bytes_behind_the_end_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    checkpoint.write_model_bin(path, VARIABLES, {})
    path.write_bytes(path.read_bytes() + b"12345")
    with pytest.raises(CheckpointError, match="5 bytes are left over"):
        read_variables(path)


def test_other_versions_aliases_of_nothing_and_other_models_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    checkpoint.write_model_bin(path, VARIABLES, {}, version=7)
    with pytest.raises(CheckpointError, match="binary version 7 of CTranslate2, versions 2 to 6 are read"):
        read_variables(path)
    checkpoint.write_model_bin(path, VARIABLES, {"x": "y"})
    with pytest.raises(CheckpointError, match="x stands for y, which is not there"):
        read_variables(path)
    checkpoint.write_model_bin(path, VARIABLES, {}, kind="TransformerSpec")
    with pytest.raises(CheckpointError, match="is a TransformerSpec, of CTranslate2 only WhisperSpec is read"):
        read_pretrained(str(tmp_path))
    checkpoint.write_model_bin(path, VARIABLES, {})
    with pytest.raises(CheckpointError, match="describes no Whisper model"):
        read_pretrained(str(tmp_path))
