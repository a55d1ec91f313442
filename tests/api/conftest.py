"""The application inside the test's own event loop, for what needs no real process."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.api.main import create_app
from app.settings import ServiceSettings

OpenClient = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]


@pytest.fixture
def open_client(tiny_store: Path) -> OpenClient:
    """`async with open_client(**settings) as client`: a running application whose models are ready."""

    @asynccontextmanager
    async def open_it(**overrides: Any) -> AsyncIterator[httpx.AsyncClient]:
        settings = ServiceSettings(**{"model_store": tiny_store, "threads": 1, "variant": "fp32", **overrides})
        app = create_app(settings)
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://service") as client,
        ):
            while "being loaded" in (await client.get("/health/ready")).text:
                await asyncio.sleep(0.01)
            yield client

    return open_it


@pytest.fixture
def run() -> Callable[[Coroutine[Any, Any, None]], None]:
    """Runs a test's coroutine, for at most a minute."""

    def run_it(test: Coroutine[Any, Any, None]) -> None:
        asyncio.run(asyncio.wait_for(test, timeout=60))

    return run_it
