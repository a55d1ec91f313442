"""From a verified artifact folder to a model that answers: sessions, warm-up, golden cases, worker."""

import os
from dataclasses import dataclass
from pathlib import Path

from app.engine.model import load_model
from app.engine.session import CPU, Device
from app.serving.scheduler import Limits, Scheduler
from app.serving.worker import Worker
from app.store.manifest import Manifest

# More batches than that would each be small; the steps of fewer can use the cores.
_MOST_BATCHES = 4


@dataclass(frozen=True, slots=True)
class Placement:
    """Where and how a model runs; `variant` None takes the best for the device.

    `num_batches` run side by side, 0: one a core, up to four, and one alone on CUDA; each takes its steps on
    `num_threads` threads, 0: its share of the cores.
    """

    device: Device
    variant: str | None
    num_batches: int
    num_threads: int
    limits: Limits


@dataclass(frozen=True, slots=True)
class RunningModel:
    """A model whose worker takes generations; `variant` and `provider` are what it really runs as."""

    manifest: Manifest
    variant: str
    provider: str
    worker: Worker


def start_model(folder: Path, manifest: Manifest, placement: Placement) -> RunningModel:
    """Load, warm up and check the model in a verified folder, and start its worker.

    Raises: ArtifactError if it is not what its manifest says or a golden case differs, DeviceError.
    """
    num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    num_batches = placement.num_batches or min(num_cores, _MOST_BATCHES)
    num_threads = placement.num_threads or max(1, num_cores // num_batches)
    model = load_model(folder, manifest, placement.variant, placement.device, num_threads)
    model.warm_up()
    model.check_golden(folder)
    models = [model, *(model.twin() for _ in range(num_batches - 1))] if model.provider == CPU else [model]
    worker = Worker(models, Scheduler(placement.limits), manifest.task, manifest.name)
    worker.start()
    return RunningModel(manifest, model.variant, model.provider, worker)
