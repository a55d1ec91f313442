"""`seq2serve train`: a run from recipe to published artifact."""

from pathlib import Path

from rich.console import Console

from app.training.loop import is_first_process
from app.training.recipe import read_recipe
from app.training.run import train


def train_and_publish(
    recipe: Path,
    data: Path,
    output: Path | None,
    device: str,
    is_resumed: bool,
    start_from: Path | None,
    num_threads: int,
    store: Path | None,
    console: Console,
) -> None:
    """Train; if that came to its end, evaluate, export and publish into `store` (None: do not)."""
    import torch

    if num_threads:
        torch.set_num_threads(num_threads)
    folder = output or Path("runs") / read_recipe(recipe).name
    run, reason = train(
        recipe, data, folder, device=device, is_resumed=is_resumed, start_from=start_from, console=console
    )
    if not is_first_process():
        return
    if reason == "interrupted":
        console.print(f"go on with: seq2serve train {recipe} --output {folder} --resume", highlight=False)
    elif store is not None:
        from app.commands.publish import Extras, publish_run

        publish_run(run.folder, data, store, None, None, Extras(), console)
