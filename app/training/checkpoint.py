"""Everything that a run needs to go on as if it had never stopped, in one file that is replaced atomically."""

import os
import random
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from app.errors import TrainingError


@dataclass(slots=True)
class Progress:
    """Where a run is. `position` counts the batches of `epoch` that have been used."""

    step: int = 0
    epoch: int = 0
    position: int = 0
    num_tokens: int = 0
    seconds: float = 0.0
    best_metric: float | None = None
    best_step: int = 0
    evaluations_without_gain: int = 0
    smoothed_loss: float | None = None
    lowest_smoothed_loss: float = field(default=float("inf"))


def random_state() -> dict[str, Any]:
    """The state of every generator that training draws from."""
    state: dict[str, Any] = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def restore_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([generator.cpu() for generator in state["cuda"]])


def save(path: Path, content: dict[str, Any], progress: Progress) -> None:
    """Write a checkpoint; a crash leaves the old one whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        torch.save({**content, "progress": asdict(progress), "random": random_state()}, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def load(path: Path) -> tuple[dict[str, Any], Progress]:
    """Read a checkpoint without running any code that it might hold. Raises: TrainingError."""
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return content, Progress(**content.pop("progress"))
    except FileNotFoundError as error:
        raise TrainingError(f"{path}: no such checkpoint; start the run without --resume") from error
    except Exception as error:  # torch raises many kinds for a damaged file
        raise TrainingError(f"{path}: not a readable checkpoint ({type(error).__name__}: {error})") from error


def seed_everything(seed: int) -> None:
    """Start all generators from `seed`."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
