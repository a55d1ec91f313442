"""`GET /docs`: one page that reads `/openapi.json`. It loads nothing from elsewhere, so it works offline."""

import base64
import hashlib
import re
from importlib.resources import files

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

router = APIRouter(include_in_schema=False)

_PAGE = (files("app.api") / "page" / "docs.html").read_text("utf-8")


def _policy(page: str) -> str:
    """A content security policy that lets this page's own script and style run, and nothing else."""
    rules = ["default-src 'none'", "connect-src 'self'", "img-src data:", "frame-ancestors 'none'", "base-uri 'none'"]
    for tag in ("script", "style"):
        [content] = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        rules.append(f"{tag}-src 'sha256-{digest}'")
    return "; ".join(rules)


_HEADERS = {"Content-Security-Policy": _policy(_PAGE)}


@router.get("/docs")
async def docs() -> HTMLResponse:
    """What the service can do, and a form to try it."""
    return HTMLResponse(_PAGE, headers=_HEADERS)
