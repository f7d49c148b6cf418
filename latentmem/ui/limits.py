"""What the web server refuses before it reads it, and the address that says that it lives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.middleware import Middleware
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_BODY = 1 << 20  # bytes of a request that is no upload; the longest problem takes 400 KB
UPLOADS = ("/gradio_api/upload", "/upload")  # gradio holds these to `max_file_size` itself
HEALTH = "/healthz"


class BodyLimit:
    """Answers 413 to a request whose body is longer than `most` bytes, without keeping it.

    A request that names its length is refused before a byte of it is read; one that does not (or
    lies) is cut off where it passes the limit. Uploads of files pass: gradio counts them.
    """

    def __init__(self, app: ASGIApp, most: int = MOST_BODY) -> None:
        self.app, self.most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].endswith(UPLOADS):
            await self.app(scope, receive, send)
            return
        named = dict(scope["headers"]).get(b"content-length", b"0")
        if not named.isdigit() or int(named) > self.most:
            await self._refusal(scope, receive, send)
            return
        read, answered = 0, False

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self.most:
                raise _TooLong
            return message

        async def noted(message: Message) -> None:
            nonlocal answered
            answered = answered or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, counted, noted)
        except _TooLong:
            if not answered:
                await self._refusal(scope, receive, send)

    async def _refusal(self, scope: Scope, receive: Receive, send: Send) -> None:
        words = f"The request is longer than {self.most} bytes: send less, or upload a file."
        await PlainTextResponse(words, 413)(scope, receive, send)


class _TooLong(Exception):
    """More came than was named."""


async def _health(request: Request) -> JSONResponse:
    return JSONResponse({"status": "ok"})


def server_options() -> dict[str, Any]:
    """Keyword arguments for the server's application (`app_kwargs` of `Blocks.launch`)."""
    return {"routes": [Route(HEALTH, _health)], "middleware": [Middleware(BodyLimit)]}
