"""The training loop: steps, evaluations, checkpoints, and the reasons to stop."""

import logging
import math
import os
import signal
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import torch
import torch.distributed as distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from app.errors import TrainingError
from app.models.interface import Seq2Seq
from app.training import checkpoint
from app.training.batching import Batch, Batches
from app.training.checkpoint import Progress
from app.training.objective import Objective
from app.training.optimizer import MovingAverage, build_optimizer, freeze, gradient_norm, learning_rate
from app.training.progress import RunMonitor
from app.training.recipe import Recipe
from app.training.validation import Validation

logger = logging.getLogger(__name__)

# A smoothed loss this many nats above its lowest means that training has come apart.
DIVERGENCE_NATS = 1.5
# What is better the lower it is.
LOWER_IS_BETTER = ("loss", "wer", "cer")
StopReason = Literal["finished", "early stopping", "interrupted"]


@dataclass(frozen=True, slots=True)
class Place:
    """Where this process stands: its device, and its rank among those that train together."""

    device: torch.device
    rank: int = 0
    world_size: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0


def is_first_process() -> bool:
    """Whether this process is the one of its `torchrun` that writes and reports; alone it always is."""
    return int(os.environ.get("RANK", "0")) == 0


@contextmanager
def training_place(device: str) -> Iterator[Place]:
    """This process's place; under `torchrun` it joins the others for as long as the context lasts."""
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    rank, local_rank = int(os.environ.get("RANK", "0")), int(os.environ.get("LOCAL_RANK", "0"))
    has_cuda = device in ("auto", "cuda") and torch.cuda.is_available()
    if device == "cuda" and not has_cuda:
        raise TrainingError(
            "device cuda: PyTorch sees no CUDA device here; use --device cpu, or install its CUDA build"
        )
    place = Place(torch.device("cuda", local_rank) if has_cuda else torch.device("cpu"), rank, world_size)
    if world_size == 1:
        yield place
        return
    distributed.init_process_group("nccl" if has_cuda else "gloo")
    try:
        yield place
    finally:
        distributed.destroy_process_group()


class StopSignal:
    """Set by SIGTERM or SIGINT, so that the loop saves and ends between two steps."""

    def __init__(self) -> None:
        self.is_set = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.is_set = True

    @contextmanager
    def installed(self) -> Iterator[None]:
        previous = {number: signal.signal(number, self) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


class Trainer:
    """One run: a model, its batches and its folder. `run` trains until there is a reason to stop."""

    def __init__(
        self, recipe: Recipe, model: Seq2Seq, batches: Batches, validation: Validation, folder: Path, place: Place
    ) -> None:
        self.recipe = recipe
        self.model = model.to(place.device)
        self.batches = batches
        self.validation = validation
        self.folder = folder
        self.place = place
        self.progress = Progress()
        freeze(model, recipe.optimization.freeze)
        self.optimizer = build_optimizer(model, recipe.optimization)
        self.average = MovingAverage(model, recipe.optimization.ema_decay) if recipe.optimization.ema_decay else None
        self.scaler = torch.amp.GradScaler(place.device.type, enabled=recipe.training.precision == "fp16")
        objective = Objective(model, batches.vocabulary.pad_id, recipe.optimization.label_smoothing)
        self.objective: nn.Module = DistributedDataParallel(objective) if place.world_size > 1 else objective
        self.stop = StopSignal()

    @property
    def last_checkpoint(self) -> Path:
        return self.folder / "checkpoints" / "last.pt"

    @property
    def best_checkpoint(self) -> Path:
        return self.folder / "checkpoints" / "best.pt"

    def resume(self) -> None:
        """Go on where `last.pt` stopped, to the bit."""
        content, self.progress = checkpoint.load(self.last_checkpoint)
        self.model.load_state_dict(content["model"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.scaler.load_state_dict(content["scaler"])
        if self.average is not None:
            self.average.weights = {name: value.to(self.place.device) for name, value in content["average"].items()}
        checkpoint.restore_random_state(content["random"])

    def run(self) -> StopReason:
        """Train. Raises: TrainingError if the loss is not finite or training diverges."""
        schedule = self.recipe.training
        monitor = RunMonitor(self.folder, schedule.max_steps, is_silent=not self.place.is_first)
        with monitor, self.stop.installed():
            reason = self._run(monitor)
            self._save(self.last_checkpoint)
            if not self.best_checkpoint.exists():
                self._evaluate(monitor)
            monitor.message(f"{reason} at step {self.progress.step}; best step {self.progress.best_step}")
        return reason

    def _run(self, monitor: RunMonitor) -> StopReason:
        schedule, progress = self.recipe.training, self.progress
        window = Window()
        if progress.step >= schedule.max_steps:
            return "finished"
        for group in self._steps():
            loss, norm, num_tokens = self._step(group)
            window.add(loss, norm, num_tokens)
            if progress.step % schedule.log_every == 0:
                self._check_divergence(window.loss)
                monitor.step(progress.step, window.metrics(self._rate()))
                progress.seconds += window.seconds
                window = Window()
            if progress.step % schedule.checkpoint_every == 0:
                self._save(self.last_checkpoint)
            if progress.step % schedule.evaluate_every == 0:
                if self._evaluate(monitor):
                    return "early stopping"
                window.restart()
            if progress.step >= schedule.max_steps:
                return "finished"
            if self._should_stop():
                return "interrupted"
        raise AssertionError("epochs never end")

    def _should_stop(self) -> bool:
        """Whether any process was asked to stop; all must agree, or the others would wait for it for ever."""
        if self.place.world_size == 1:
            return self.stop.is_set
        asked = torch.tensor(int(self.stop.is_set), device=self.place.device)
        distributed.all_reduce(asked, op=distributed.ReduceOp.MAX)
        return bool(asked)

    def _steps(self) -> Iterator[list[Batch]]:
        """The batches of every step, `accumulation` at a time, epoch after epoch."""
        place, progress = self.place, self.progress
        while True:
            group = []
            start = progress.position
            for position, batch in self.batches.epoch(progress.epoch, start, place.rank, place.world_size):
                group.append(batch.to(place.device))
                if len(group) == self.recipe.optimization.accumulation:
                    progress.position = position
                    yield group
                    group = []
            progress.epoch, progress.position = progress.epoch + 1, 0

    def _rate(self) -> float:
        width = self.recipe.model.width
        return learning_rate(self.progress.step, self.recipe.optimization, self.recipe.training.max_steps, width)

    def _autocast(self) -> AbstractContextManager[Any]:
        precision = self.recipe.training.precision
        if precision == "fp32":
            return nullcontext()
        return torch.autocast(self.place.device.type, torch.bfloat16 if precision == "bf16" else torch.float16)

    def _step(self, group: list[Batch]) -> tuple[float, float, int]:
        """One update; gives loss a target token, gradient norm and tokens, over all processes."""
        self.model.train()
        options = self.recipe.optimization
        counts = torch.tensor(
            [sum(batch.num_target_tokens for batch in group), sum(batch.num_tokens for batch in group)],
            device=self.place.device,
        )
        if self.place.world_size > 1:
            distributed.all_reduce(counts)
        num_targets, num_tokens = (int(count) for count in counts)
        total = torch.zeros((), device=self.place.device)
        for index, batch in enumerate(group):
            is_last = index == len(group) - 1
            silent = isinstance(self.objective, DistributedDataParallel) and not is_last
            with self.objective.no_sync() if silent else nullcontext():  # type: ignore[operator]  # DDP only
                with self._autocast():
                    summed = self.objective(batch.source, batch.lengths, batch.target, batch.gold)
                # DDP takes the mean over processes; the loss is a mean over all of their tokens.
                self.scaler.scale(summed * (self.place.world_size / num_targets)).backward()
            total += summed.detach()
        self.scaler.unscale_(self.optimizer)
        norm = gradient_norm(self.model.parameters(), options.clip_norm)
        loss = self._mean_loss(total, num_targets)
        self.progress.step += 1
        self.progress.num_tokens += num_tokens
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = self._rate()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(self.model, self.progress.step)
        return loss, float(norm), num_tokens

    def _mean_loss(self, total: Tensor, num_targets: int) -> float:
        if self.place.world_size > 1:
            distributed.all_reduce(total)
        loss = float(total) / num_targets
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss became {loss} at step {self.progress.step + 1} (learning rate {self._rate():.2e}); "
                "lower optimization.learning_rate, raise warmup_steps or lower clip_norm, and resume"
            )
        return loss

    def _check_divergence(self, loss: float) -> None:
        progress = self.progress
        progress.smoothed_loss = loss if progress.smoothed_loss is None else 0.7 * progress.smoothed_loss + 0.3 * loss
        progress.lowest_smoothed_loss = min(progress.lowest_smoothed_loss, progress.smoothed_loss)
        if progress.smoothed_loss > progress.lowest_smoothed_loss + DIVERGENCE_NATS:
            raise TrainingError(
                f"training diverges: at step {progress.step} the loss is {progress.smoothed_loss:.2f} after "
                f"{progress.lowest_smoothed_loss:.2f}; lower optimization.learning_rate or raise warmup_steps"
            )

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """The model holds the averaged weights as long as the context lasts."""
        if self.average is None:
            yield
            return
        current = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        self.model.load_state_dict(self.average.weights)
        try:
            yield
        finally:
            self.model.load_state_dict(current)

    def _evaluate(self, monitor: RunMonitor) -> bool:
        """Score the dev set, keep the best weights; True if it is time to stop early."""
        progress, schedule = self.progress, self.recipe.training
        if self.place.is_first:
            with self._averaged():
                metrics = self.validation.run(self.model)
                metric = metrics[f"dev/{schedule.metric}"] * (-1 if schedule.metric in LOWER_IS_BETTER else 1)
                if progress.best_metric is None or metric > progress.best_metric:
                    progress.best_metric, progress.best_step = metric, progress.step
                    progress.evaluations_without_gain = 0
                    checkpoint.save(self.best_checkpoint, {"model": self.model.state_dict()}, progress)
                else:
                    progress.evaluations_without_gain += 1
            monitor.evaluation(progress.step, metrics)
        is_over = bool(schedule.patience) and progress.evaluations_without_gain >= schedule.patience
        if self.place.world_size == 1:
            return is_over
        decided = torch.tensor(int(is_over), device=self.place.device)
        distributed.broadcast(decided, src=0)
        return bool(decided)

    def _save(self, path: Path) -> None:
        if self.place.is_first:
            content = {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "average": self.average.weights if self.average is not None else {},
            }
            checkpoint.save(path, content, self.progress)


class Window:
    """What happened since the last line of the log."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.losses: list[float] = []
        self.norms: list[float] = []
        self.num_tokens = 0

    def add(self, loss: float, norm: float, num_tokens: int) -> None:
        self.losses.append(loss)
        self.norms.append(norm)
        self.num_tokens += num_tokens

    def restart(self) -> None:
        """Leave the time of an evaluation out, if nothing was measured yet."""
        if not self.losses:
            self.started = time.monotonic()

    @property
    def loss(self) -> float:
        return sum(self.losses) / len(self.losses)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def metrics(self, rate: float) -> dict[str, float]:
        seconds = max(self.seconds, 1e-9)
        return {
            "train/loss": self.loss,
            "train/gradient_norm": sum(self.norms) / len(self.norms),
            "train/learning_rate": rate,
            "train/tokens_per_second": self.num_tokens / seconds,
            "train/seconds_per_step": seconds / len(self.losses),
        }
