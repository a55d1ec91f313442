"""Where a run may start from: the weights and the tokenizer of a run, a checkpoint or an artifact."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from app.errors import TrainingError
from app.models.interface import Seq2Seq
from app.store.manifest import WEIGHTS_FILE, Manifest
from app.store.registry import MANIFEST
from app.training import checkpoint
from app.training.vocabulary import IMPORTED_FILE, TOKENIZER_FILES


@dataclass(frozen=True, slots=True)
class Start:
    """Weights to go on with, and the files that say what their ids mean, by their names in a run's folder."""

    path: Path
    weights: dict[str, Tensor]
    files: Mapping[str, Path] = field(default_factory=dict)

    def copy_files(self, folder: Path) -> None:
        """Let the run have the tokenizer too: an embedding is of no use with another one."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, path in self.files.items():
            if not (folder / name).exists():
                shutil.copyfile(path, folder / name)

    def fill(self, model: Seq2Seq) -> None:
        """Put the weights into `model`. Raises: TrainingError naming what does not fit."""
        try:
            model.load_state_dict(self.weights)
        except RuntimeError as error:
            raise TrainingError(f"{self.path}: its weights do not fit the recipe's model; {error}") from error


def read_start(path: Path) -> Start:
    """What to start from: a checkpoint file, a run's folder (its best weights), or the folder of an artifact.

    Raises: TrainingError.
    """
    if not path.is_dir():
        return Start(path, checkpoint.load(path)[0]["model"])
    if (path / MANIFEST).exists():
        return Start(path, _read_weights(path / WEIGHTS_FILE), _artifact_files(path))
    content, _ = checkpoint.load(path / "checkpoints" / "best.pt")
    names = [*TOKENIZER_FILES.values(), IMPORTED_FILE]
    return Start(path, content["model"], {name: path / name for name in names if (path / name).exists()})


def _artifact_files(folder: Path) -> dict[str, Path]:
    path = folder / MANIFEST
    try:
        tokenizer = Manifest.model_validate_json(path.read_bytes()).tokenizer
    except (OSError, ValidationError) as error:
        raise TrainingError(f"{path}: can not be read ({error})") from error
    files = {TOKENIZER_FILES[tokenizer.kind]: folder / tokenizer.file}
    # Its ids are not those of our own tokenizers: the manifest says which they are.
    return files if tokenizer.kind == "sentencepiece" else files | {IMPORTED_FILE: path}


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.exists():
        raise TrainingError(
            f"{path.parent}: this artifact was published without its weights; export it with --with-weights, "
            "or start from the run's folder"
        )
    try:
        return {name: value.float() for name, value in load_file(path).items()}
    except (SafetensorError, OSError) as error:
        raise TrainingError(f"{path}: can not be read ({error})") from error
