"""Where a run may start from: the weights and the tokenizer of a run, a checkpoint or an artifact."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from app.errors import TrainingError
from app.models.interface import Seq2Seq
from app.store.manifest import WEIGHTS_FILE, Tokenizer
from app.training import checkpoint


@dataclass(frozen=True, slots=True)
class Start:
    """Weights to go on with, and the tokenizer that they were trained with where it is known."""

    path: Path
    weights: dict[str, Tensor]
    tokenizer: Path | None

    def copy_tokenizer(self, to: Path) -> None:
        """Let the run have the tokenizer too: an embedding is of no use with another one."""
        if self.tokenizer is not None and not to.exists():
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.tokenizer, to)

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
        return Start(path, checkpoint.load(path)[0]["model"], None)
    if (path / "manifest.json").exists():
        return Start(path, _read_weights(path / WEIGHTS_FILE), path / Tokenizer().file)
    content, _ = checkpoint.load(path / "checkpoints" / "best.pt")
    tokenizer = path / "tokenizer.model"
    return Start(path, content["model"], tokenizer if tokenizer.exists() else None)


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
