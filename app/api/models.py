"""`GET /models`: every version in the store, what became of it and why."""

from fastapi import APIRouter, Request

from app.api.schemas import Model
from app.api.service import service_of

router = APIRouter(tags=["models"])


@router.get("/models")
async def models(request: Request) -> list[Model]:
    """All versions by name; `variant` and `provider` are what a loaded one really runs as."""
    service = service_of(request)
    return [
        Model(
            name=status.name,
            version=status.version,
            task=status.manifest.task if status.manifest else None,
            directions=status.manifest.directions if status.manifest else [],
            variant=status.variant,
            provider=status.provider,
            state=status.state,
            reason=status.reason,
            is_current=status.is_current,
        )
        for status in service.catalog.statuses()
    ]
