"""What a run shows: bars on a terminal or lines in a log, TensorBoard, a table of metrics and a plot of the curves."""

import json
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

METRICS_FILE = "metrics.jsonl"


class RunMonitor:
    """Shows and records the metrics of one run in its folder; a silent one (other ranks) does nothing."""

    def __init__(self, folder: Path, max_steps: int, *, is_silent: bool = False) -> None:
        self.folder = folder
        self.max_steps = max_steps
        self.is_silent = is_silent
        self.console = Console(stderr=True)

    def __enter__(self) -> Self:
        if self.is_silent:
            return self
        # Imported here: TensorBoard takes a second, and only a run needs it.
        from torch.utils.tensorboard import SummaryWriter

        self.folder.mkdir(parents=True, exist_ok=True)
        self._writer = SummaryWriter(str(self.folder / "tensorboard"))
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._bar.start()
        self._task = self._bar.add_task("training", total=self.max_steps, note="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self.is_silent:
            self._bar.stop()
            self._writer.close()
            plot_curves(self.folder)

    def message(self, text: str) -> None:
        """One line for whoever watches."""
        if not self.is_silent:
            self.console.print(text, markup=False, highlight=False)

    def step(self, step: int, metrics: dict[str, float]) -> None:
        """The training metrics of the steps since the last call."""
        if self.is_silent:
            return
        self._record(step, metrics)
        note = f"loss {metrics['train/loss']:.3f} | {metrics['train/tokens_per_second']:,.0f} tokens/s"
        self._bar.update(self._task, completed=step, note=note)
        if not self.console.is_terminal:
            remaining = (self.max_steps - step) * metrics["train/seconds_per_step"]
            rate = metrics["train/learning_rate"]
            self.message(f"step {step}/{self.max_steps} | {note} | rate {rate:.2e} | {remaining / 60:.0f} min left")

    def evaluation(self, step: int, metrics: dict[str, float]) -> None:
        """The dev metrics at a step."""
        if self.is_silent:
            return
        self._record(step, metrics)
        self.message(f"step {step}: " + ", ".join(f"{name} {value:.3f}" for name, value in metrics.items()))
        plot_curves(self.folder)

    def _record(self, step: int, metrics: dict[str, float]) -> None:
        with (self.folder / METRICS_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)


def read_metrics(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """All recorded (step, value) points of a run by metric; a resumed run's later points replace earlier ones."""
    points: dict[str, dict[int, float]] = {}
    path = folder / METRICS_FILE
    if path.exists():
        for line in path.read_text("utf-8").splitlines():
            record = json.loads(line)
            step = record.pop("step")
            for name, value in record.items():
                points.setdefault(name, {})[step] = value
    return {name: sorted(values.items()) for name, values in points.items()}


def plot_curves(folder: Path) -> None:
    """Losses and scores over steps as `curves.png`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    metrics = read_metrics(folder)
    figure, (losses, scores) = pyplot.subplots(1, 2, figsize=(11, 4), constrained_layout=True)
    for name, points in metrics.items():
        axes = losses if name.endswith("loss") else scores if name.startswith("dev/") else None
        if axes is not None:
            axes.plot(*zip(*points, strict=True), label=name, marker="." if name.startswith("dev/") else None)
    for axes, title in ((losses, "loss (nats a token)"), (scores, "dev scores")):
        axes.set_title(title)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    figure.savefig(folder / "curves.png", dpi=110)
    pyplot.close(figure)
