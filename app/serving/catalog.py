"""Which versions of which models are loaded, and which one answers: warm the new one, switch, drain the old one."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, Protocol, TypeVar

from app import telemetry
from app.errors import AppError, OverloadedError, UnknownModelError
from app.serving.worker import Worker
from app.store.manifest import Manifest, Task
from app.store.registry import Entry, Registry

logger = logging.getLogger(__name__)

VersionState = Literal["loading", "ready", "failed", "draining", "unloaded"]
_Files = frozenset[tuple[str, int, int]]  # paths, sizes and times of change
_STATES: tuple[VersionState, ...] = ("loading", "ready", "failed", "draining", "unloaded")
_RETRY_LOADING_S = 5.0


class Loaded(Protocol):
    """A model version that is ready to answer: warmed up, its golden cases reproduced.

    `variant` is the precision in use, `provider` the execution provider that it really runs on.
    """

    @property
    def manifest(self) -> Manifest: ...
    @property
    def variant(self) -> str: ...
    @property
    def provider(self) -> str: ...
    @property
    def worker(self) -> Worker: ...

    def close(self, drain_s: float) -> None:
        """Let its work end for at most `drain_s`, then free everything. Blocks."""


LoadedT = TypeVar("LoadedT", bound=Loaded)


@dataclass(frozen=True, slots=True)
class Status:
    """A version as the listing shows it; `reason` says why it failed."""

    name: str
    version: str
    is_current: bool
    state: VersionState
    reason: str | None
    manifest: Manifest | None
    variant: str | None
    provider: str | None


class _Version(Generic[LoadedT]):
    """One version and what became of it."""

    def __init__(self, name: str, version: str) -> None:
        self.name = name
        self.version = version
        self.state: VersionState = "unloaded"
        self.reason: str | None = None
        self.manifest: Manifest | None = None
        self.loaded: LoadedT | None = None
        self.num_leases = 0
        self.failed_files: _Files | None = None  # as they were when it failed

    def become(self, state: VersionState, reason: str | None = None) -> None:
        self.state, self.reason = state, reason
        for each in _STATES:
            telemetry.MODEL_STATE.labels(self.name, self.version, each).set(each == state)


class Catalog(Generic[LoadedT]):
    """Serves the current version of every model in the registry.

    `load` makes a version ready; what it raises quarantines that version, with the reason, until its files change. The
    others keep serving, and so does the version before it. All methods may be called from any thread; `refresh` and
    `close` block for long.
    """

    def __init__(
        self,
        registry: Registry,
        load: Callable[[Path, Manifest], LoadedT],
        default_model: str | None = None,
        drain_s: float = 30.0,
    ) -> None:
        self._registry = registry
        self._load = load
        self._default_model = default_model
        self._drain_s = drain_s
        self._versions: dict[tuple[str, str], _Version[LoadedT]] = {}
        self._current: dict[str, _Version[LoadedT]] = {}  # what answers, by model name
        self._changed = threading.Condition()  # guards the two above and the leases
        self._refreshing = threading.Lock()

    def refresh(self) -> None:
        """Bring what is loaded in line with the registry's aliases. Two calls at once run one after the other."""
        with self._refreshing:
            entries = self._registry.list()
            replaced: list[_Version[LoadedT]] = []
            for entry in entries:
                replaced += self._bring_in_line(entry)
            # Where the aliases can not be read nobody knows what is wanted: what serves keeps serving.
            kept = {entry.name for entry in entries if "current" in entry.aliases or entry.reason is not None}
            with self._changed:
                gone = [name for name in self._current if name not in kept]
                replaced += [self._current.pop(name) for name in gone]
            for version in replaced:
                self._retire(version)
            there = {(entry.name, entry.version) for entry in entries}
            with self._changed:
                for key in [key for key, version in self._versions.items() if version.loaded is None]:
                    if key not in there:
                        del self._versions[key]

    def get(self, name: str) -> LoadedT:
        """The version of `name` that answers now.

        Raises: UnknownModelError if there is none, with the reason if it failed; OverloadedError while it is loading.
        """
        with self._changed:
            return self._serving(name)[1]

    @contextmanager
    def lease(self, name: str) -> Iterator[LoadedT]:
        """As `get`, and the version is not closed before the lease ends, even if another one takes its place."""
        with self._changed:
            version, loaded = self._serving(name)
            version.num_leases += 1
        try:
            yield loaded
        finally:
            with self._changed:
                version.num_leases -= 1
                self._changed.notify_all()

    def find(self, task: Task, source: str | None = None, target: str | None = None) -> LoadedT:
        """The model that answers where a request names none: the default one if it can, else the first by name.

        Raises: UnknownModelError where no loaded model does the task for these languages.
        """
        able = [one for one in self.ready() if one.manifest.task == task and _speaks(one.manifest, source, target)]
        for loaded in able:
            if loaded.manifest.name == self._default_model:
                return loaded
        if able:
            return able[0]
        if source is None or target is None:
            raise UnknownModelError(f"no model that can {task} is loaded")
        raise UnknownModelError(f"no model that can {task} from {source!r} to {target!r} is loaded")

    def ready(self) -> list[LoadedT]:
        """Everything that answers now, by name."""
        with self._changed:
            current = [self._current[name].loaded for name in sorted(self._current)]
            return [loaded for loaded in current if loaded is not None]

    def statuses(self) -> list[Status]:
        """Every version that the registry has or that is still loaded, by name and version."""
        with self._changed:
            return [self._status(self._versions[key]) for key in sorted(self._versions)]

    def close(self, drain_s: float) -> None:
        """Refuse new work everywhere, let the rest end for at most `drain_s`, unload all."""
        with self._refreshing:
            with self._changed:
                leaving = [version for version in self._versions.values() if version.loaded is not None]
                self._current.clear()
            until = time.monotonic() + drain_s
            for version in leaving:
                version.become("draining")
                assert version.loaded is not None
                version.loaded.worker.drain()
            for version in leaving:
                self._unload(version, max(0.0, until - time.monotonic()))

    def _bring_in_line(self, entry: Entry) -> list[_Version[LoadedT]]:
        """Load what the entry wants loaded; the version that it took the place of, if it did."""
        with self._changed:
            version = self._versions.setdefault((entry.name, entry.version), _Version(entry.name, entry.version))
            version.manifest = entry.manifest
            before = self._current.get(entry.name)
        if version is before:
            return []
        if entry.reason is not None:
            self._fail(version, entry.reason, None)
            return []
        if "current" not in entry.aliases:
            if version.state != "failed":
                version.become("unloaded")
            return []
        if not self._bring_up(version):
            return []
        with self._changed:
            self._current[entry.name] = version
        logger.info("switched", extra={"model": entry.name, "version": entry.version})
        return [] if before is None else [before]

    def _bring_up(self, version: _Version[LoadedT]) -> bool:
        folder = self._registry.folder(version.name, version.version)
        files = _files(folder)
        if version.state == "failed" and version.failed_files == files:
            return False
        version.become("loading")
        started_at = time.monotonic()
        try:
            manifest = self._registry.verify(folder)
            loaded = self._load(folder, manifest)
        except Exception as error:
            telemetry.MODEL_LOAD_SECONDS.labels(version.name, "failed").observe(time.monotonic() - started_at)
            if not isinstance(error, AppError):
                logger.exception("load failed", extra={"model": version.name, "version": version.version})
            self._fail(version, str(error) or type(error).__name__, files)
            return False
        telemetry.MODEL_LOAD_SECONDS.labels(version.name, "ok").observe(time.monotonic() - started_at)
        telemetry.MODEL_INFO.labels(*_info(loaded)).set(1)
        with self._changed:
            version.manifest, version.loaded, version.failed_files = manifest, loaded, None
            version.become("ready")
        return True

    def _fail(self, version: _Version[LoadedT], reason: str, files: _Files | None) -> None:
        if version.reason != reason:
            fields = {"model": version.name, "version": version.version, "reason": reason}
            logger.error("model failed", extra=fields)
        version.failed_files = files
        version.become("failed", reason)

    def _retire(self, version: _Version[LoadedT]) -> None:
        """Wait for its leases to end, then let its work end and unload it."""
        version.become("draining")
        until = time.monotonic() + self._drain_s
        with self._changed:
            self._changed.wait_for(lambda: not version.num_leases, timeout=self._drain_s)
        self._unload(version, max(0.0, until - time.monotonic()))

    def _unload(self, version: _Version[LoadedT], drain_s: float) -> None:
        loaded = version.loaded
        assert loaded is not None
        loaded.close(drain_s)
        telemetry.MODEL_INFO.remove(*_info(loaded))
        with self._changed:
            version.loaded = None
            version.become("unloaded")
        logger.info("unloaded", extra={"model": version.name, "version": version.version})

    def _serving(self, name: str) -> tuple[_Version[LoadedT], LoadedT]:
        version = self._current.get(name)
        if version is not None and version.loaded is not None:
            return version, version.loaded
        others = [other for other in self._versions.values() if other.name == name]
        if any(other.state == "loading" for other in others):
            raise OverloadedError(f"model {name!r} is being loaded", _RETRY_LOADING_S)
        reasons = [f"{other.version}: {other.reason}" for other in others if other.state == "failed"]
        if reasons:
            raise UnknownModelError(f"model {name!r} could not be loaded; {'; '.join(reasons)}")
        if others:
            raise UnknownModelError(f"model {name!r} has no current version; promote one")
        raise UnknownModelError(f"there is no model {name!r}; loaded are: {', '.join(sorted(self._current)) or 'none'}")

    def _status(self, version: _Version[LoadedT]) -> Status:
        loaded = version.loaded
        return Status(
            name=version.name,
            version=version.version,
            is_current=self._current.get(version.name) is version,
            state=version.state,
            reason=version.reason,
            manifest=version.manifest,
            variant=None if loaded is None else loaded.variant,
            provider=None if loaded is None else loaded.provider,
        )


def _speaks(manifest: Manifest, source: str | None, target: str | None) -> bool:
    if source is None and target is None:
        return True
    return any(source in (None, one) and target in (None, other) for one, other in manifest.directions)


def _info(loaded: Loaded) -> tuple[str, str, str, str, str]:
    """The labels of `MODEL_INFO`; the checksum is that of the graph which runs every step."""
    manifest = loaded.manifest
    graphs = [variant.step for name, variant in manifest.variants.items() if name == loaded.variant]
    sha256 = manifest.files[graphs[0]].sha256 if graphs else ""
    return manifest.name, manifest.version, loaded.provider, loaded.variant, sha256[:12]


def _files(folder: Path) -> _Files:
    """Tells whether anything in a version's folder has changed, without reading it."""
    found = set()
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # went away just now
            status = path.lstat()
            found.add((path.relative_to(folder).as_posix(), status.st_size, status.st_mtime_ns))
    return frozenset(found)
