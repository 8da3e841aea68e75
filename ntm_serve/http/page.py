"""The page: files that were built, as they are.

Rules of this file: the page may load from, connect to and be framed by nobody but its own server; what has the hash of
its content in its name is kept for ever, and all else is asked for each time.
"""

from collections.abc import Sequence
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

PAGE = Path(__file__).parent / "page"
ASSETS = "assets/"

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "font-src 'self'",
        "connect-src 'self'",
        "manifest-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
FOR_EVER, EACH_TIME = "public, max-age=31536000, immutable", "no-cache"

NO_PAGE = (
    "the page is not in this installation: it was built without it (make web builds it); "
    "the API is there all the same: docs/http-api.md\n"
)


def page_routes(folder: Path = PAGE) -> Sequence[BaseRoute]:
    """The page at `/`. It is the last of all routes: it takes whatever no other did."""
    return (Mount("/", _Page(directory=folder, html=True, check_dir=False)),)


class _Page(StaticFiles):
    async def check_config(self) -> None:
        """It may be that there is no page."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        try:
            response = await super().get_response(path, scope)
        except HTTPException as refused:
            missing = path in ("", ".") and refused.status_code == 404
            said = NO_PAGE if missing else f"{refused.detail}\n"
            response = PlainTextResponse(said, refused.status_code, headers=refused.headers)
        response.headers.update(HEADERS)
        kept = path.startswith(ASSETS) and response.status_code in (200, 304)
        response.headers["cache-control"] = FOR_EVER if kept else EACH_TIME
        return response
