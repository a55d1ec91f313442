"""What the routes share: the settings, the loaded models, the keys; whether the service is ready."""

import asyncio
import functools
import logging
import time

from fastapi import Request

from app.api.access import KeyRing, bearer_key
from app.api.refusals import NotReadyError
from app.errors import InputError
from app.serving.catalog import Catalog
from app.serving.loading import Placement
from app.serving.scheduler import Limits
from app.settings import ServiceSettings
from app.store.registry import Registry
from app.tasks.build import LoadedTask, LoadedTranscriber, LoadedTranslator, build
from app.tasks.detect import Detector
from app.tasks.recordings import Recordings

logger = logging.getLogger(__name__)

_RETRY_LOADING_S = 2.0
_RETRY_NO_MODEL_S = 30.0


class Service:
    """One service in one event loop."""

    def __init__(self, settings: ServiceSettings, keys: KeyRing) -> None:
        self.settings = settings
        self.keys = keys
        self.detector = Detector()
        self.recordings = Recordings(settings.max_audio_s, settings.audio_queue_s)
        self.catalog: Catalog[LoadedTask] = Catalog(
            Registry(settings.model_store),
            functools.partial(build, placement=_placement(settings)),
            settings.default_model,
            settings.drain_timeout_s,
        )
        self._is_loading = True
        self._is_draining = False

    async def keep_models_fresh(self) -> None:
        """Load what the store says is current, then look every `refresh_s` whether that has changed. Runs for ever."""
        while True:
            try:
                await asyncio.to_thread(self.catalog.refresh)
            except Exception:
                logger.exception("refresh failed")
            self._is_loading = False
            if not self.catalog.ready():
                logger.error("no model is ready", extra={"model_store": str(self.settings.model_store)})
            await asyncio.sleep(self.settings.refresh_s)

    def start_draining(self) -> None:
        """Be not ready, refuse new work and let the work go on that is there."""
        self._is_draining = True
        for loaded in self.catalog.ready():
            loaded.worker.drain()

    def why_not_ready(self) -> str | None:
        """Why requests would fail now; None if they would not."""
        if self._is_draining:
            return "shutting down"
        # All of them: a client that asks for what is still to come would be told that it does not exist.
        if self._is_loading:
            return "models are being loaded"
        if self.catalog.ready():
            return self.why_not_alive()
        reasons = [f"{s.name} {s.version}: {s.reason}" for s in self.catalog.statuses() if s.reason is not None]
        return f"no model is loaded; {'; '.join(reasons) or 'the store has no current version of any model'}"

    def why_not_alive(self) -> str | None:
        """Which worker has stopped or hangs; None if all do their rounds."""
        oldest = time.monotonic() - self.settings.heartbeat_timeout_s
        for loaded in self.catalog.ready():
            if not loaded.worker.is_alive or loaded.worker.heartbeat_at < oldest:
                return f"the worker of {loaded.manifest.name} does not answer"
        return None

    def check_ready(self) -> None:
        """Raises: NotReadyError if no model is loaded, or some are still being loaded for the first time."""
        if self._is_loading or not self.catalog.ready():
            retry_after_s = _RETRY_LOADING_S if self._is_loading else _RETRY_NO_MODEL_S
            raise NotReadyError(self.why_not_ready() or "", retry_after_s)

    def directions(self) -> list[tuple[str, str]]:
        """What can be translated now: (source, target) codes, sorted."""
        return sorted({direction for loaded in self.translators() for direction in loaded.manifest.directions})

    def translators(self) -> list[LoadedTranslator]:
        """What translates now, by name."""
        return [loaded for loaded in self.catalog.ready() if isinstance(loaded, LoadedTranslator)]

    def transcribers(self) -> list[LoadedTranscriber]:
        """What transcribes now, by name."""
        return [loaded for loaded in self.catalog.ready() if isinstance(loaded, LoadedTranscriber)]

    def source_languages(self) -> list[str]:
        """Codes of the languages that a source may be in, English first, for it is LibreTranslate's default."""
        return sorted({source for source, _ in self.directions()}, key=lambda code: (code != "en", code))

    def deadline_s(self, request: Request, timeout_s: float | None = None) -> float:
        """When a request's time is up, on `time.monotonic`: `X-Request-Timeout` in seconds may shorten it.

        `timeout_s` None is that of a request with text.
        """
        timeout_s = timeout_s or self.settings.request_timeout_s
        try:
            asked_s = float(request.headers.get("x-request-timeout", timeout_s))
        except ValueError:
            raise InputError("Invalid request: X-Request-Timeout is not a number of seconds") from None
        if not asked_s > 0:
            raise InputError("Invalid request: X-Request-Timeout must be > 0")
        return time.monotonic() + min(timeout_s, asked_s)

    def check_key(self, request: Request, key: object) -> None:
        """Check the key among the parameters, else that of the header. Raises: as `KeyRing.check`."""
        self.keys.check(key if isinstance(key, str) and key else bearer_key(request))


def service_of(request: Request) -> Service:
    """The service that a request came to."""
    service = request.app.state.service
    assert isinstance(service, Service)
    return service


def _placement(settings: ServiceSettings) -> Placement:
    limits = Limits(
        max_queued=settings.queue_limit,
        max_queued_cost=settings.queue_token_limit,
        max_rows=settings.max_rows,
        max_tokens=settings.max_tokens,
    )
    variant = None if settings.variant == "auto" else settings.variant
    return Placement(settings.device, variant, settings.batches, settings.threads, limits)
