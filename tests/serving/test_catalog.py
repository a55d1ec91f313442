"""The catalog: real artifacts in a real store; the models are small NumPy ones with real workers."""

import math
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import REGISTRY

from app.decoding.interface import SearchOptions
from app.errors import ArtifactError, DrainingError, OverloadedError, UnknownModelError
from app.serving.catalog import Catalog
from app.serving.generation import Generation
from app.serving.scheduler import Limits, Scheduler
from app.serving.worker import Worker
from app.store.manifest import Manifest, Tokenizer, Variant
from app.store.registry import Registry, describe_files
from tests.decoding.recurrent import RecurrentModel


class Small:
    """A loaded version."""

    variant = "fp32"
    provider = "CPUExecutionProvider"

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.worker = Worker([RecurrentModel(end_bias=2.0)], Scheduler(Limits()), manifest.task, manifest.name)
        self.worker.start()

    def close(self, drain_s: float) -> None:
        self.worker.close(drain_s)


class Loader:
    """Loads what is asked for, remembers it, and fails for versions in `broken`."""

    def __init__(self) -> None:
        self.loaded: list[tuple[str, str]] = []
        self.broken: dict[str, Exception] = {}

    def __call__(self, folder: Path, manifest: Manifest) -> Small:
        assert (folder / "manifest.json").is_file()
        self.loaded.append((manifest.name, manifest.version))
        if manifest.version in self.broken:
            raise self.broken[manifest.version]
        return Small(manifest)


def publish(registry: Registry, name: str, version: str, directions: list[tuple[str, str]] | None = None) -> None:
    with registry.staging(name) as folder:
        (folder / "tokenizer").mkdir()
        for file in ("encode.onnx", "step.onnx", "tokenizer/tokenizer.model"):
            (folder / file).write_text(f"{name} {version} {file}")
        manifest = Manifest(
            name=name,
            version=version,
            task="translate",
            architecture="rnn",
            num_parameters=1,
            created_at=datetime.now(UTC),
            created_by={},
            directions=directions or [("en", "de")],
            vocabulary_size=11,
            pad_id=0,
            unk_id=2,
            bos_id=0,
            eos_id=1,
            max_source_length=40,
            max_target_length=40,
            tokenizer=Tokenizer(),
            variants={"fp32": Variant(encode="encode.onnx", step="step.onnx", state=[])},
            files=describe_files(folder),
        )
        (folder / "manifest.json").write_text(manifest.model_dump_json())
        registry.publish(folder)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    registry = Registry(tmp_path)
    publish(registry, "m", "1")
    registry.promote("m", "1")
    return registry


@pytest.fixture
def loader() -> Loader:
    return Loader()


@pytest.fixture
def catalog(registry: Registry, loader: Loader) -> "Catalog[Small]":
    return Catalog(registry, loader, drain_s=30)


def translate(loaded: Small) -> Generation:
    generation = Generation(np.array([4, 1]), SearchOptions(30), math.inf, time.monotonic())
    loaded.worker.submit([generation])
    while not generation.has_ended:
        time.sleep(0.001)
    return generation


def states(catalog: "Catalog[Small]") -> dict[tuple[str, str], str]:
    return {(status.name, status.version): status.state for status in catalog.statuses()}


def test_the_current_versions_are_loaded_and_answer(
    registry: Registry, loader: Loader, catalog: "Catalog[Small]"
) -> None:
    publish(registry, "m", "2")
    publish(registry, "other", "1")
    catalog.refresh()
    assert loader.loaded == [("m", "1")], "what nobody promoted must not be loaded"
    assert states(catalog) == {("m", "1"): "ready", ("m", "2"): "unloaded", ("other", "1"): "unloaded"}
    assert translate(catalog.get("m")).ending in ("stop", "length")
    catalog.refresh()
    assert loader.loaded == [("m", "1")], "what is loaded must not be loaded again"
    (status, *_) = catalog.statuses()
    assert status.is_current and (status.variant, status.provider) == ("fp32", "CPUExecutionProvider")
    labels = {"model": "m", "version": "1", "state": "ready"}
    assert REGISTRY.get_sample_value("seq2serve_model_state", labels) == 1
    catalog.close(drain_s=30)
    assert REGISTRY.get_sample_value("seq2serve_model_state", labels) == 0


def test_promotion_switches_and_unloads_the_old_one(registry: Registry, catalog: "Catalog[Small]") -> None:
    catalog.refresh()
    old = catalog.get("m")
    publish(registry, "m", "2")
    registry.promote("m", "2")
    catalog.refresh()
    assert catalog.get("m").manifest.version == "2"
    assert not old.worker.is_alive
    assert states(catalog) == {("m", "1"): "unloaded", ("m", "2"): "ready"}
    registry.rollback("m")
    catalog.refresh()
    assert catalog.get("m").manifest.version == "1" and catalog.get("m") is not old
    catalog.close(drain_s=30)


def test_a_lease_keeps_the_old_version_alive_through_a_switch(registry: Registry, catalog: "Catalog[Small]") -> None:
    catalog.refresh()
    publish(registry, "m", "2")
    registry.promote("m", "2")
    with catalog.lease("m") as leased:
        refreshing = threading.Thread(target=catalog.refresh)
        refreshing.start()
        while catalog.get("m") is leased:
            time.sleep(0.001)
        assert leased.manifest.version == "1"
        assert translate(leased).ending in ("stop", "length"), "a request that began on it must still be taken"
        assert states(catalog)[("m", "2")] == "ready" and refreshing.is_alive()
    refreshing.join(30)
    assert not leased.worker.is_alive
    catalog.close(drain_s=30)


def test_no_request_fails_while_versions_are_switched(registry: Registry, catalog: "Catalog[Small]") -> None:
    catalog.refresh()
    for version in "234":
        publish(registry, "m", version)
    stop, failures, served = threading.Event(), list[Exception](), set[str]()

    def use() -> None:
        while not stop.is_set():
            try:
                with catalog.lease("m") as leased:
                    assert translate(leased).ending in ("stop", "length")
                    served.add(leased.manifest.version)
            except Exception as error:
                failures.append(error)

    clients = [threading.Thread(target=use) for _ in range(4)]
    for client in clients:
        client.start()
    for version in ("2", "3", "4", "2"):
        registry.promote("m", version)
        catalog.refresh()
        while version not in served:
            time.sleep(0.001)
    stop.set()
    for client in clients:
        client.join(30)
    assert not failures and served == {"1", "2", "3", "4"}
    catalog.close(drain_s=30)


def test_a_version_that_fails_is_quarantined_and_the_old_one_keeps_serving(
    registry: Registry, loader: Loader, catalog: "Catalog[Small]"
) -> None:
    catalog.refresh()
    publish(registry, "m", "2")
    registry.promote("m", "2")
    loader.broken["2"] = ArtifactError("step.onnx: the golden cases do not come out")
    catalog.refresh()
    catalog.refresh()
    assert loader.loaded == [("m", "1"), ("m", "2")], "it must not be tried again as it is"
    assert catalog.get("m").manifest.version == "1"
    failed = next(status for status in catalog.statuses() if status.version == "2")
    assert failed.state == "failed" and failed.reason == "step.onnx: the golden cases do not come out"
    catalog.close(drain_s=30)


def test_a_damaged_artifact_never_reaches_the_loader_until_it_is_mended(
    registry: Registry, loader: Loader, catalog: "Catalog[Small]"
) -> None:
    publish(registry, "sound", "1")
    registry.promote("sound", "1")
    graph = registry.folder("m", "1") / "step.onnx"
    content = graph.read_text()
    graph.write_text("damaged")
    catalog.refresh()
    assert loader.loaded == [("sound", "1")] and catalog.get("sound")
    with pytest.raises(UnknownModelError, match=r"step\.onnx"):
        catalog.get("m")
    graph.write_text(content)
    catalog.refresh()
    assert catalog.get("m").manifest.version == "1"
    catalog.close(drain_s=30)


def test_unreadable_aliases_leave_what_serves_serving(registry: Registry, catalog: "Catalog[Small]") -> None:
    catalog.refresh()
    (registry.root / "m" / "aliases.json").write_text("{")
    catalog.refresh()
    assert catalog.get("m").manifest.version == "1"
    catalog.close(drain_s=30)


def test_a_model_that_left_the_store_is_unloaded(registry: Registry, catalog: "Catalog[Small]") -> None:
    catalog.refresh()
    old = catalog.get("m")
    (registry.root / "m" / "aliases.json").unlink()
    catalog.refresh()
    assert not old.worker.is_alive and catalog.ready() == []
    with pytest.raises(UnknownModelError, match="promote"):
        catalog.get("m")


def test_a_model_that_is_being_loaded_asks_to_come_back(registry: Registry) -> None:
    began, may_end = threading.Event(), threading.Event()

    def load(folder: Path, manifest: Manifest) -> Small:
        began.set()
        assert may_end.wait(30)
        return Small(manifest)

    catalog = Catalog(registry, load)
    refreshing = threading.Thread(target=catalog.refresh)
    refreshing.start()
    assert began.wait(30)
    with pytest.raises(OverloadedError, match="being loaded"):
        catalog.get("m")
    may_end.set()
    refreshing.join(30)
    assert catalog.get("m")
    catalog.close(drain_s=30)


def test_an_unknown_model_is_refused_with_the_known_ones(catalog: "Catalog[Small]") -> None:
    catalog.refresh()
    with pytest.raises(UnknownModelError, match="no model 'x'; loaded are: m"):
        catalog.get("x")
    catalog.close(drain_s=30)


def test_a_request_without_a_model_gets_the_default_one_or_the_first_that_can(
    registry: Registry, loader: Loader
) -> None:
    for name, direction in [("a", ("fr", "de")), ("b", ("en", "de")), ("z", ("en", "de"))]:
        publish(registry, name, "1", [direction])
        registry.promote(name, "1")
    catalog = Catalog(registry, loader, default_model="m")
    catalog.refresh()
    assert catalog.find("translate", "en", "de").manifest.name == "m"
    assert catalog.find("translate", "fr", "de").manifest.name == "a"
    with pytest.raises(UnknownModelError, match="from 'de' to 'en'"):
        catalog.find("translate", "de", "en")
    with pytest.raises(UnknownModelError, match="summarize"):
        catalog.find("summarize")
    catalog.close(drain_s=30)
    catalog = Catalog(registry, loader)
    catalog.refresh()
    assert catalog.find("translate", "en", "de").manifest.name == "b"
    catalog.close(drain_s=30)


def test_closing_drains_and_refuses(registry: Registry, catalog: "Catalog[Small]") -> None:
    catalog.refresh()
    loaded = catalog.get("m")
    catalog.close(drain_s=30)
    assert not loaded.worker.is_alive
    with pytest.raises(DrainingError):
        loaded.worker.submit([Generation(np.array([4, 1]), SearchOptions(3), math.inf, 0.0)])
