"""`GET /languages` and `GET /frontend/settings`, as LibreTranslate answers them."""

from typing import Any

from fastapi import APIRouter, Request

from app.api.names import language_name
from app.api.schemas import Language
from app.api.service import service_of

router = APIRouter(tags=["models"])

_FRONTEND_TIMEOUT_MS = 500


@router.get("/languages")
async def languages(request: Request) -> list[Language]:
    """The languages of all loaded models, and into which ones each can be translated."""
    service = service_of(request)
    directions = service.directions()
    codes = sorted({code for direction in directions for code in direction})
    return [
        Language(code=code, name=language_name(code), targets=sorted({t for s, t in directions if s == code}))
        for code in codes
    ]


@router.get("/frontend/settings")
async def frontend_settings(request: Request) -> dict[str, Any]:
    """What a web page needs to know before it asks for a translation."""
    service = service_of(request)
    directions = service.directions()
    source, target = next((d for d in directions if d[0] == "en"), directions[0] if directions else ("en", "en"))
    return {
        "charLimit": service.settings.max_characters,
        "frontendTimeout": _FRONTEND_TIMEOUT_MS,
        "apiKeys": len(service.keys) > 0,
        "keyRequired": service.keys.is_required,
        "suggestions": False,
        "filesTranslation": False,
        "supportedFilesFormat": [],
        "language": {
            "source": {"code": source, "name": language_name(source)},
            "target": {"code": target, "name": language_name(target)},
        },
    }
