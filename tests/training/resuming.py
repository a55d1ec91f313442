"""What every kind of run has to hold: stopped and resumed, it ends as if it had never stopped."""

from pathlib import Path

import torch

from app.training import checkpoint
from app.training.run import train


def assert_resume_equals_no_stop(recipe: Path, data: Path, folder: Path) -> None:
    """The `recipe` of 12 steps, in one go and with a stop after 7, gives the same weights to the bit."""
    train(recipe, data, folder / "whole", device="cpu")
    half = recipe.with_name("half.toml")
    half.write_text(recipe.read_text().replace("max_steps = 12", "max_steps = 7"))
    train(half, data, folder / "parts", device="cpu")
    train(recipe, data, folder / "parts", device="cpu", is_resumed=True)

    one, progress = checkpoint.load(folder / "whole" / "checkpoints" / "last.pt")
    two, other = checkpoint.load(folder / "parts" / "checkpoints" / "last.pt")
    assert (progress.step, progress.epoch, progress.position) == (other.step, other.epoch, other.position)
    for part in ("model", "average"):
        assert all(torch.equal(one[part][name], two[part][name]) for name in one[part])
