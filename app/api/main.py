"""The HTTP application, and the process that serves it until it is told to stop."""

import asyncio
import gc
import logging
import math
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from types import FrameType

import uvicorn
from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from app import __version__
from app.api import docs, health, languages, models, summarize, transcribe, translate
from app.api.access import read_keys
from app.api.dialects import openai
from app.api.middleware import BodyLimit, RequestContext
from app.api.problems import add_problem_handlers
from app.api.service import Service
from app.errors import AppError
from app.logs import configure_logs
from app.settings import ServiceSettings

logger = logging.getLogger(__name__)

# A model's thread comes back from every step to Python, where the event loop is busy under load: by default it may be
# kept waiting for 5 ms, longer than the step took.
_SWITCH_INTERVAL_S = 0.0005
# New objects between two collections: a request makes a few hundred that live until it is answered, and by default all
# young ones would be searched for cycles at every second request.
_COLLECT_EVERY = 20_000
# Where bodies are recordings.
_UPLOAD_PATHS = ("/transcribe", "/v1/audio/transcriptions", "/v1/audio/translations")


def create_app(settings: ServiceSettings) -> FastAPI:
    """The application; its models are loaded in the background when it starts, `/health/ready` tells when they are.

    Raises: AppError if the keys file can not be read.
    """
    service = Service(settings, read_keys(settings))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        refreshing = asyncio.create_task(service.keep_models_fresh())
        yield
        service.start_draining()
        refreshing.cancel()
        with suppress(asyncio.CancelledError):
            await refreshing
        await asyncio.to_thread(service.catalog.close, 0.0)

    app = FastAPI(
        title="seq2serve",
        version=__version__,
        description=(
            "Translation, summaries and transcripts by sequence-to-sequence models; speaks LibreTranslate's protocol "
            "and that of OpenAI for audio."
        ),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        middleware=[
            Middleware(RequestContext),
            Middleware(
                CORSMiddleware,
                allow_origins=list(settings.cors_origins),
                allow_methods=["GET", "POST"],
                allow_headers=["Authorization", "Content-Type"],
            ),
            Middleware(
                BodyLimit,
                max_bytes=settings.max_body_bytes,
                by_path=dict.fromkeys(_UPLOAD_PATHS, settings.max_upload_bytes),
            ),
        ],
    )
    app.state.service = service
    add_problem_handlers(app)
    for route in (translate, summarize, transcribe, openai, languages, models, health, docs):
        app.include_router(route.router)
    return app


def serve(settings: ServiceSettings) -> None:
    """Serve until SIGTERM or SIGINT, then drain; returns when all is closed.

    SIGTERM: not ready at once, the listener stays open for `drain_delay_s` so that balancers notice; then running work
    has `drain_timeout_s`. SIGINT skips the delay, and a second signal the rest.
    Raises: AppError if the address can not be listened on or the keys file can not be read.
    """
    configure_logs(settings.log_format, settings.log_level)
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    gc.set_threshold(_COLLECT_EVERY, *gc.get_threshold()[1:])
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        # Longer than clients and balancers keep idle connections: they should be the ones that close.
        timeout_keep_alive=75,
        timeout_graceful_shutdown=math.ceil(settings.drain_timeout_s),
    )
    try:
        _DrainingServer(config, app.state.service).run()
    except SystemExit as error:
        # Uvicorn has logged why, and would leave with a code of its own.
        raise AppError(f"can not serve on {settings.host}:{settings.port}; see the log above") from error


class _DrainingServer(uvicorn.Server):
    """Uvicorn, but a signal first makes the service refuse new work, and the process ends with exit code 0."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self._signal: int | None = None
        self._stop_at_s: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._signal is not None:
            self.should_exit = self.force_exit = True
        self._signal = sig

    async def on_tick(self, counter: int) -> bool:
        if self._signal is not None and self._stop_at_s is None:
            logger.info("draining", extra={"signal": signal.Signals(self._signal).name})
            self._service.start_draining()
            delay_s = self._service.settings.drain_delay_s if self._signal == signal.SIGTERM else 0.0
            self._stop_at_s = time.monotonic() + delay_s
        if self._stop_at_s is not None and time.monotonic() >= self._stop_at_s:
            self.should_exit = True
        return await super().on_tick(counter)
