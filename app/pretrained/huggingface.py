"""Checkpoints as Hugging Face's transformers keeps them: config.json and safetensors. Pickled weights are refused."""

import json
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open

from app.errors import CheckpointError

Array = npt.NDArray[Any]

_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
# What a model is read from; pickles and other frameworks' files are left where they are.
_FILES = ["*.json", "*.safetensors", "*.bin.index.json", "merges.txt", "model.bin", "vocabulary.*"]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises: CheckpointError if it is missing or no object."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable ({error}); get the whole folder") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds no JSON object")
    return content


def read_tensors(folder: Path) -> dict[str, Array]:
    """Every tensor of model.safetensors, or of the parts that its index lists, in float32.

    Raises: CheckpointError, also where there are only pickled weights.
    """
    files = [folder / _WEIGHTS]
    if (folder / _INDEX).exists():
        names = set(read_json(folder / _INDEX).get("weight_map", {}).values())
        files = [folder / Path(name).name for name in sorted(names)]
    tensors: dict[str, Array] = {}
    for path in files:
        if not path.exists():
            pickled = "; pickled weights are refused, they can run code" if list(folder.glob("*.bin")) else ""
            raise CheckpointError(f"{path}: is missing{pickled}; save the model with safetensors")
        try:
            with safe_open(path, framework="pt") as file:
                tensors |= {name: file.get_tensor(name).to(torch.float32).numpy() for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path}: not readable as safetensors ({error}); get the file again") from error
    return tensors


def download(name: str) -> Path:
    """The files of a model on the Hugging Face Hub, as `openai/whisper-small` -> the folder they are in.

    Raises: CheckpointError without huggingface_hub, without a network, or for an unknown name.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise CheckpointError(
            f"{name}: no such folder, and huggingface_hub is not installed to download it: "
            "pip install huggingface_hub, or give a folder"
        ) from error
    try:
        return Path(snapshot_download(name, allow_patterns=_FILES))
    except Exception as error:  # its errors, and those of the network library below it, share no narrower base
        raise CheckpointError(
            f"{name}: no such folder, and it could not be downloaded ({error}); give a folder"
        ) from error
