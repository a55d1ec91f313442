"""`GET /models`: every version in the store, what became of it and why."""

from typing import Annotated

from fastapi import APIRouter, Depends

from app.api.schemas import Model
from app.api.service import Service, service_of

router = APIRouter(tags=["models"])


@router.get("/models")
async def models(service: Annotated[Service, Depends(service_of)]) -> list[Model]:
    """All versions by name; `variant` and `provider` are what a loaded one really runs as."""
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
