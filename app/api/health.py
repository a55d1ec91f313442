"""`GET /health`, `/health/live`, `/health/ready` and `/metrics`: no key, no body, no waiting."""

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from app.api.schemas import Problem
from app.api.service import service_of

router = APIRouter(tags=["operation"])

_UNHEALTHY: dict[int | str, dict[str, Any]] = {503: {"model": Problem, "description": "Why not."}}


@router.api_route("/health", methods=["GET", "HEAD"], include_in_schema=False)
async def health() -> dict[str, str]:
    """The HTTP server answers."""
    return {"status": "ok"}


@router.get("/health/live", responses=_UNHEALTHY)
async def live(request: Request) -> JSONResponse:
    """The workers do their rounds; if not, only a restart helps."""
    service = service_of(request)
    return _health(service.why_not_alive())


@router.get("/health/ready", responses=_UNHEALTHY)
async def ready(request: Request) -> JSONResponse:
    """A model is loaded and new work is taken."""
    service = service_of(request)
    return _health(service.why_not_ready())


@router.get("/metrics", response_class=Response)
async def metrics() -> Response:
    """Prometheus text format."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


def _health(reason: str | None) -> JSONResponse:
    return JSONResponse({"status": "ok"}) if reason is None else JSONResponse({"error": reason}, 503)
