"""A published Transformer as a run's folder, so that anyone can compare engines on the weights that the project ships:

    python -m benchmarks.published_run translate-en-de runs/translate-en-de

The weights are those of its fp16 graphs. Where each one lies in them is found with a model of the same recipe and
random weights, exported the same way.
"""

import argparse
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import numpy_helper

from app.export.builder import as_array
from app.export.graphs import build_graphs
from app.models import build_model
from app.store.registry import Registry
from app.training import checkpoint
from app.training.checkpoint import Progress
from app.training.recipe import read_recipe
from app.training.run import RECIPE_FILE
from app.training.vocabulary import TOKENIZER_FILES

Floats = npt.NDArray[np.floating]
VARIANT = "fp16"


def write_run(name: str, store: Path, folder: Path) -> None:
    """Write the current version of `name` as a run: recipe, tokenizer, weights. Raises: LookupError."""
    version, manifest = Registry(store).resolve(name)
    recipe = read_recipe(version / "recipe.toml")
    model = build_model(recipe.model, manifest.vocabulary_size)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.1)
    graphs = build_graphs(model, VARIANT)
    files = manifest.variants[VARIANT]
    random = _tensors("encode", graphs.encode) | _tensors("step", graphs.step)
    published = _tensors("encode", onnx.load(version / files.encode))
    published |= _tensors("step", onnx.load(version / files.step))
    weights = {
        key: torch.from_numpy(_find(key, as_array(value), random, published))
        for key, value in model.state_dict().items()
    }
    folder.mkdir(parents=True)
    shutil.copyfile(version / "recipe.toml", folder / RECIPE_FILE)
    shutil.copyfile(version / manifest.tokenizer.file, folder / TOKENIZER_FILES[manifest.tokenizer.kind])
    checkpoint.save(folder / "checkpoints" / "best.pt", {"model": weights}, Progress())


def _tensors(graph: str, loaded: onnx.ModelProto) -> dict[str, Floats]:
    return {f"{graph}/{tensor.name}": numpy_helper.to_array(tensor) for tensor in loaded.graph.initializer}


def _find(key: str, value: Floats, random: dict[str, Floats], published: dict[str, Floats]) -> Floats:
    """The published values of the parameter that is `value` in the graphs of the random model."""
    for name, tensor in random.items():
        if tensor.dtype.kind != "f" or tensor.size < value.size:
            continue
        for is_transposed in (False, True):
            laid_out = tensor.T if is_transposed else tensor
            if laid_out.ndim != value.ndim or laid_out.shape[1:] != value.shape[1:]:
                continue
            for start in _places(value.astype(laid_out.dtype), laid_out):
                found = published[name].T if is_transposed else published[name]
                if found.shape != laid_out.shape:
                    raise LookupError(f"{name}: {found.shape}, expected {laid_out.shape}; was it exported otherwise?")
                return np.array(found[start : start + len(value)], np.float32)
    raise LookupError(f"{key}: not found in the graphs of {VARIANT}")


def _places(value: Floats, tensor: Floats) -> Iterator[int]:
    """Where the rows of `value` lie in `tensor`: alone, before padding, or among those of other layers."""
    for start in range(0, len(tensor) - len(value) + 1, len(value)):
        if np.array_equal(tensor[start : start + len(value)], value):
            yield start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="a model in the store")
    parser.add_argument("folder", type=Path, help="the run's folder, which must not be there yet")
    parser.add_argument("--store", type=Path, default=Path("model_store"))
    arguments = parser.parse_args()
    write_run(arguments.name, arguments.store, arguments.folder)


if __name__ == "__main__":
    main()
