"""From a verified artifact folder to a model that answers: sessions, warm-up, golden cases, worker."""

from dataclasses import dataclass
from pathlib import Path

from app.engine.model import load_model
from app.engine.session import Device
from app.serving.scheduler import Limits, Scheduler
from app.serving.worker import Worker
from app.store.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Placement:
    """Where and how a model runs; `variant` None takes the best for the device, `num_threads` 0 every core."""

    device: Device
    variant: str | None
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
    model = load_model(folder, manifest, placement.variant, placement.device, placement.num_threads)
    model.warm_up()
    model.check_golden(folder)
    worker = Worker(model, Scheduler(placement.limits), manifest.task, manifest.name)
    worker.start()
    return RunningModel(manifest, model.variant, model.provider, worker)
