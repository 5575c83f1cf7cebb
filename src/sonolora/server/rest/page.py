"""The page at `/` and its modules, styles and pictures at `/studio/`, none of which need a build step.

In: GET requests. Out: files of the package, with a content security policy that allows nothing but them.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response

from sonolora.server.api.responses import RejectedError, error_response
from sonolora.server.rest.sessions import Sessions

FOLDER = Path(str(files("sonolora.server"))) / "studio"
_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".woff2": "font/woff2"}
_INLINE = re.compile(r'<script type="importmap">(.*?)</script>', re.DOTALL)


@cache
def _page() -> tuple[str, dict[str, str]]:
    """The HTML and its headers. The one inline script, the import map, is allowed by its hash."""
    html = (FOLDER / "index.html").read_text("utf-8")
    digests = [hashlib.sha256(text.encode()).digest() for text in _INLINE.findall(html)]
    hashes = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    policy = (
        f"default-src 'none'; script-src 'self' {hashes}; style-src 'self'; img-src 'self' blob: data:; "
        "media-src 'self' blob:; connect-src 'self'; font-src 'self'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    )
    return html, {
        "content-security-policy": policy,
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
        "cache-control": "no-cache",
        "cross-origin-opener-policy": "same-origin",
    }


async def page(request: Request, sessions: Sessions) -> Response:
    """The page; with a ticket from the server's start, a session as well."""
    if (ticket := request.query_params.get("ticket")) is not None:
        key = await sessions.redeem(ticket)
        response: Response = RedirectResponse("./" if key else "./#/login/used", 303)
        if key is not None:
            sessions.begin(response, request, key)
        return response
    html, headers = _page()
    return HTMLResponse(html, headers=headers)


async def asset(request: Request) -> Response:
    """A file of the page."""
    path = (FOLDER / request.path_params["path"]).resolve()
    if not path.is_relative_to(FOLDER.resolve()) or path.suffix not in _TYPES or not path.is_file():
        raise RejectedError(error_response(404, "the page has no such file"))
    headers = {"x-content-type-options": "nosniff", "cache-control": "no-cache"}
    response = FileResponse(path, headers=headers, media_type=_TYPES[path.suffix])
    response.set_stat_headers(path.stat())
    if request.headers.get("if-none-match") == response.headers["etag"]:
        return Response(status_code=304, headers={**headers, "etag": response.headers["etag"]})
    return response
