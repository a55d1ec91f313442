"""A translator that runs: the tiny artifact, loaded by the real pipeline, fp32 so that answers are exact."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.serving.loading import Placement
from app.serving.scheduler import Limits
from app.store.registry import Registry
from app.tasks.build import LoadedTranslator, build


@pytest.fixture(scope="session")
def placement() -> Placement:
    return Placement(device="cpu", variant="fp32", num_batches=1, num_threads=1, limits=Limits())


@pytest.fixture(scope="session")
def loaded(tiny_store: Path, placement: Placement) -> Iterator[LoadedTranslator]:
    folder, manifest = Registry(tiny_store).resolve("tiny-en-de")
    translator = build(folder, manifest, placement)
    yield translator
    translator.close(drain_s=1)
