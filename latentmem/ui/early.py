"""The map of a page that opens on it, beside gradio's own way: gradio's page takes a second until it can ask for anything,
and by then the points are there.

The answer to such a page says in its head that the browser is to fetch `ADDRESS` at once, so the bank is opened and the
picture computed while the page loads; `map_early.js` takes it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from starlette.datastructures import MutableHeaders, QueryParams
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..bank_reads import stamp
from .map_picture import atlas_of, drawn, sheet_now
from .session import Desk, attempt

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from starlette.types import ASGIApp, Receive, Scope, Send

ADDRESS = "latentmem/map"  # no file's name: gradio would compress it anew for every visitor, before the first byte
HINT = f"<{ADDRESS}>; rel=preload; as=fetch; crossorigin=anonymous"


def opens_map(asked: Any) -> bool:
    """Whether a page with these parameters in its address opens on the map."""
    return bool(asked.get("memory") or asked.get("receipt")) or asked.get("panel") == "memories"


def server_options() -> dict[str, Any]:
    """Keyword arguments for the server's application: the address of the map, and the hint in the head of the page."""
    return {"routes": [Route(f"/{ADDRESS}", answer)], "middleware": [Middleware(Hint)]}


def answer(request: Request) -> Response:
    """The first picture, one JSON object a line: first what is drawn, then the names. Nothing when there is no picture, or
    where visitors have to log in: then the page asks as it does for every other picture."""
    app = request.app
    if app.auth is not None or app.auth_dependency is not None:
        return Response(status_code=404)
    return Response(first_picture(app.get_blocks().latentmem_desk), media_type="application/x-ndjson",
                    headers={"Cache-Control": "no-cache"})


def first_picture(desk: Desk) -> bytes:
    """The lines of the picture that a new page shows, of the bank that all visitors see; empty without one."""
    def lines() -> bytes:
        now = stamp(desk.engine.bank)
        if desk.planes.get("early", (None, b""))[0] != now:
            desk.planes["early"] = now, _lines(desk)
        return desk.planes["early"][1]

    return attempt(lines)[0] or b""  # the page then asks in the usual way, and is told what is wrong


def _lines(desk: Desk) -> bytes:
    atlas = atlas_of(desk)
    sheet = sheet_now(atlas, desk.engine.settings.key, "pca")
    if sheet is None or not sheet.names:
        return b""
    parts = drawn(sheet, atlas.rows(), "", "source")
    points = parts["points"]
    words = {name: points.pop(name) for name in ("ids", "names")} | {"stamp": sheet.stamp}
    return b"\n".join(json.dumps(line).encode() for line in (parts, words))


class Hint:
    """Adds the hint to the page, if it opens on the map."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        wanted = (scope["type"] == "http" and scope["method"] == "GET" and scope["path"] in ("", "/")
                  and opens_map(QueryParams(scope["query_string"])))

        async def hinted(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start" and message["status"] == 200:
                MutableHeaders(scope=message).append("Link", HINT)
            await send(message)

        await self.app(scope, receive, hinted if wanted else send)
