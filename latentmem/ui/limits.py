"""What the web server refuses: long requests, more uploads than there is room for, and more calls
than are fair. And the address that says that it lives."""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from asyncio import QueueEmpty
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from fastapi import HTTPException  # fastapi answers starlette's own, met in a body, with 400
from starlette.middleware import Middleware
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from .session import Visit, Visits

log = logging.getLogger(__name__)
MOST_BODY = 1 << 20  # bytes of a request that is no upload; the longest problem takes 400 KB
UPLOAD = "/upload"  # gradio holds each file to `max_file_size` itself
DIRECT = re.compile(r"/(run|api)/[^/]+/?$")  # calls that do not queue
HEALTH = "/healthz"
MIB = 1 << 20
# In a shared app. An address may be that of a school, or of a proxy that all visitors come through.
OF_VISITOR, OF_ADDRESS, OF_ALL = 64 * MIB, 256 * MIB, 1024 * MIB  # bytes of uploads kept
UNCLAIMED = 1800.0  # seconds for which an upload is kept that no call has named
AT_ONCE = 32  # calls of an address that do not queue and are at work; the server has 80 threads
# Calls that wait or work, of a page and of an address: those that use the model (of these also in
# all: `hosted_queue`), and the quick ones.
MODEL_OF_PAGE = 4
QUICK_OF_PAGE, QUICK_OF_ADDRESS, QUICK = 16, 32, 64
STRANGERS = 50  # pages that are no visitors and of which gradio's state is kept
UNREAD = 20  # answers that a page has not fetched; one may take 100 KB
GONE = "The server no longer keeps what this page asked for: ask again."


# ---------- Uploads


@dataclass(eq=False)
class Upload:
    """A file, or the part of one that came before its sender broke off."""

    address: str
    bytes: int
    since: float
    path: Path | None = None
    visit: Visit | None = None  # whose call named it


class Uploads:
    """The files that visitors sent: which are kept, for whom and until when.

    Gradio's upload names no visitor. So a file belongs to an address, and to the visitor whose call
    is the first to name it; it goes with that visitor, or after UNCLAIMED seconds without one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._kept: list[Upload] = []
        self._lock = threading.Lock()

    def begin(self, address: str, size: int) -> Upload:
        """Room for an upload. Raises HTTPException 429 where there is none."""
        self._sweep()
        with self._lock:
            upload = Upload(address, 0, time.monotonic())
            self._grow(upload, size)
            self._kept.append(upload)
        return upload

    def grow(self, upload: Upload, size: int) -> None:
        """More came than was named. Raises HTTPException 429."""
        with self._lock:
            self._grow(upload, size)

    def _grow(self, upload: Upload, size: int) -> None:
        others = [u for u in self._kept if u is not upload]
        mine = [u for u in others if u.address == upload.address]
        self._room(mine, size, OF_ADDRESS, "The uploads of your address take", "try again")
        self._room(others, size, OF_ALL, "The uploads of all visitors take", "try again")
        upload.bytes = size

    def _room(self, uploads: list[Upload], size: int, most: int, what: str, remedy: str) -> None:
        there = sum(u.bytes for u in uploads)
        if there + size > most:
            raise HTTPException(
                429,
                f"{what} {there // MIB} of {most // MIB} MiB, and there is no room for "
                f"{size / MIB:.1f} more: {remedy} in half an hour.",
            )

    def end(self, upload: Upload, paths: list[str]) -> None:
        """The server has answered: with the files' places, or without any."""
        with self._lock:
            if paths:
                self._kept.remove(upload)
            for path in map(Path, paths):
                size = path.stat().st_size if path.is_file() else 0
                self._kept.append(Upload(upload.address, size, upload.since, path))

    def claim(self, body: bytes, visit_of: Callable[[str], Visit]) -> None:
        """A call may name files: they are its visitor's from now on. Raises HTTPException 429."""
        with self._lock:
            new = [
                u
                for u in self._kept
                if u.visit is None and u.path is not None and u.path.parent.name.encode() in body
            ]
        new = list({u.path: u for u in reversed(new)}.values())  # two may have sent the same file
        name = re.search(rb'"session_hash"\s*:\s*"([^"\\]+)"', body) if new else None
        if name is None:
            return
        visit = visit_of(name[1].decode("utf-8", "replace"))
        for upload in new:
            with self._lock:
                mine = [u for u in self._kept if u.visit is visit]
            try:
                self._room(mine, upload.bytes, OF_VISITOR, "Your uploads take", "reload the page")
            except HTTPException:
                self.free(upload)
                raise
            upload.visit = visit
            visit.belongings.append(lambda upload=upload: self.free(upload))

    def free(self, upload: Upload) -> None:
        """Deletes a file, unless it was sent twice and the other is kept."""
        with self._lock:
            if upload not in self._kept:
                return
            self._kept.remove(upload)
            if upload.path is None or any(u.path == upload.path for u in self._kept):
                return
            upload.path.unlink(missing_ok=True)
            if upload.path.parent != self.folder and not any(upload.path.parent.iterdir()):
                upload.path.parent.rmdir()

    def _sweep(self) -> None:
        now = time.monotonic()
        for upload in [u for u in self._kept if u.visit is None and now - u.since > UNCLAIMED]:
            self.free(upload)
        for part in self.folder.glob("tmp*"):  # gradio leaves it when a sender breaks off
            if part.is_file() and time.time() - part.stat().st_mtime > UNCLAIMED:
                part.unlink(missing_ok=True)


# ---------- Requests


class Guard:
    """Answers 413 to a request whose body is longer than MOST_BODY, without keeping it, and a
    sentence to one that fails inside the server. With `uploads`, in a shared app, also 429 to what
    is more than one address may ask at once.

    A request that names its length is refused before a byte of it is read; one that does not (or
    lies) is cut off where it passes the limit.
    """

    def __init__(self, app: ASGIApp, uploads: Uploads | None = None) -> None:
        self.app, self.uploads = app, uploads
        self._at_work: list[str] = []  # the addresses of direct calls

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        answered = False

        async def noted(message: Message) -> None:
            nonlocal answered
            answered = answered or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._admitted(scope, receive, noted)
        except HTTPException as e:
            answer: Response = PlainTextResponse(e.detail, e.status_code)
        except Exception:
            log.exception("a request failed")
            answer = PlainTextResponse("The server could not answer this request.", 500)
        else:
            return
        if not answered:
            await answer(scope, receive, send)

    async def _admitted(self, scope: Scope, receive: Receive, send: Send) -> None:
        address = (scope.get("client") or [""])[0]
        if scope["path"].endswith(UPLOAD):
            await self._upload(scope, receive, send, address)
        elif self.uploads is not None and DIRECT.search(scope["path"]):
            if self._at_work.count(address) >= AT_ONCE:
                raise HTTPException(
                    429, f"{AT_ONCE} calls from your address are at work: wait for one to end."
                )
            self._at_work.append(address)
            try:
                await self.app(scope, self._counted(scope, receive), send)
            finally:
                self._at_work.remove(address)
        else:
            await self.app(scope, self._counted(scope, receive), send)

    def _counted(self, scope: Scope, receive: Receive) -> Receive:
        """`receive` for a request that is no upload. Raises HTTPException 413."""
        refusal = HTTPException(
            413, f"The request is longer than {MOST_BODY} bytes: send less, or upload a file."
        )
        if _named(scope) > MOST_BODY:
            raise refusal
        read, parts = 0, list[bytes]()

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > MOST_BODY:
                raise refusal
            if self.uploads is not None and message["type"] == "http.request":
                parts.append(message.get("body", b""))
                if not message.get("more_body"):
                    self.uploads.claim(b"".join(parts), partial(_visit, scope))
                    parts.clear()
            return message

        return counted

    async def _upload(self, scope: Scope, receive: Receive, send: Send, address: str) -> None:
        if self.uploads is None or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        uploads, read, status, answer = self.uploads, 0, 0, list[bytes]()
        upload = uploads.begin(address, _named(scope))

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > upload.bytes:
                uploads.grow(upload, read)
            return message

        async def noted(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            answer.append(message.get("body", b""))
            if message["type"] == "http.response.body" and not message.get("more_body"):
                uploads.end(upload, json.loads(b"".join(answer)) if status == 200 else [])
            await send(message)

        try:
            await self.app(scope, counted, noted)
        finally:
            upload.bytes = min(upload.bytes, read)  # of one that broke off, until it is swept


def _named(scope: Scope) -> int:
    """The length that a request says it has; none is 0, and what is no number is too long."""
    named = dict(scope["headers"]).get(b"content-length", b"0")
    return int(named[:19]) if named.isdigit() else 1 << 62


def _visit(scope: Scope, session_hash: str) -> Visit:
    return scope["app"].get_blocks().latentmem_session.visits.of(session_hash)


async def _health(request: Request) -> JSONResponse:
    return JSONResponse({"status": "ok"})


def server_options(uploads: Path | None = None) -> dict[str, Any]:
    """Keyword arguments for the server's application (`app_kwargs` of `Blocks.launch`). `uploads`:
    where gradio puts them, in a shared app."""
    guard = Middleware(Guard, Uploads(uploads) if uploads is not None else None)
    return {"routes": [Route(HEALTH, _health)], "middleware": [guard]}


# ---------- What gradio keeps of each page


class States(OrderedDict[str, Any]):
    """Gradio's state of each page: what a call changed of the components. Gradio makes one before a
    call is let in, and of 1000 drops the least recent, be it a visitor's. Here those of visitors
    stay as long as they do, and STRANGERS others."""

    def __init__(self, visits: Visits) -> None:
        super().__init__()
        self._visits = visits

    def __setitem__(self, page: str, state: Any) -> None:
        state.config_values = Nothing()
        super().__setitem__(page, state)
        strangers = [name for name in list(self) if not self._visits.knows(name)]
        for name in strangers[:-STRANGERS]:
            self.pop(name, None)


class Nothing(dict[Any, Any]):
    """Takes everything and keeps nothing."""

    def __contains__(self, key: object) -> bool:
        return True

    def __getitem__(self, key: Any) -> Any:
        return {}

    def __setitem__(self, key: Any, value: Any) -> None:
        pass


def lighten(holder: Any, visits: Visits) -> None:
    """Makes gradio's `StateHolder` keep 19 KiB of a page in the place of 414, which take 50 ms to
    make: a description of every component, for links to a page as it is, which this app has not.
    """
    blocks = holder.blocks
    holder.blocks = SimpleNamespace(default_config=blocks.default_config, blocks={})
    holder.session_data, holder.time_last_used = States(visits), Nothing()


# ---------- Places in the queue


@dataclass(frozen=True)
class Place:
    """Of a call that waits or is at work."""

    model: bool  # it uses the model
    page: str
    address: str


class Places:
    """Who may join gradio's queue: of those that use the model so many may wait, and the quick ones
    are counted apart. In a shared app nobody takes all places.

    Gradio itself would count all calls together, and forget those whose validator it still asks.
    """

    def __init__(self, queue: Any, most: int, shared: bool, model: str) -> None:
        self._queue, self._model, self._coming = queue, model, list[Place]()
        half = (most + 1) // 2
        self._limits = {  # whether with the model -> of a page, of an address, in all
            True: (MODEL_OF_PAGE, half, most + 1) if shared else (most + 1,) * 3,
            False: (QUICK_OF_PAGE, QUICK_OF_ADDRESS, QUICK) if shared else (QUICK,) * 3,
        }
        self._unread = UNREAD if shared else 1000
        self._push, queue.push, queue.max_size = queue.push, self.push, None
        # Gradio counts its last 10,000 calls anew after each, with pandas, for a page that is off.
        queue.compute_analytics_summary, queue.ANALYTICS_MAX_EVENTS = lambda records: {}, 1

    async def push(self, body: Any, request: Any, username: Any) -> Any:
        """`Queue.push` of gradio. Raises HTTPException 429."""
        from gradio.route_utils import get_fn

        fn = get_fn(self._queue.blocks, None, body)
        place = self._place(fn, body.session_hash, request)
        if why := self._refusal(place):
            raise HTTPException(429, why)
        if place.page:  # a visitor from now on, whose state stays
            self._queue.blocks.latentmem_session.visits.of(place.page)
        self._coming.append(place)
        try:
            return await self._push(body=body, request=request, username=username)
        finally:
            self._coming.remove(place)

    def full(self, request: Any) -> bool:
        """Whether a press of this visitor would be refused."""
        return bool(self._refusal(Place(True, _page(request), _address(request))))

    def forget(self, page: str) -> None:
        """Drops what a page that is gone has not fetched: gradio would keep that of 2,000 pages. A
        caller that still comes for it reads that it is gone."""
        from gradio.server_messages import ProcessCompletedMessage

        waiting = self._queue.pending_messages_per_session
        names: dict[str, set[str]] = self._queue.pending_event_ids_session
        for event in list(self._queue.event_ids_to_events.values()):
            if event.session_hash == page:
                event.alive = False  # gradio sends nothing more
        if (messages := waiting.get(page)) is not None:
            with suppress(QueueEmpty):
                while True:
                    messages.get_nowait()
            for ident in list(names.get(page, ())):
                end = ProcessCompletedMessage(output={"error": GONE}, success=False)
                end.event_id = ident
                messages.put_nowait(end)
        for name in [name for name in list(names) if name not in waiting]:
            names.pop(name, None)

    def _fetched(self, page: str) -> bool:
        """Whether a page fetches its answers, or has few of them."""
        messages = self._queue.pending_messages_per_session.get(page)
        answers = [] if messages is None else list(messages._queue)
        return sum(m.msg == "process_completed" for m in answers) < self._unread

    def ahead(self, request: Any) -> int:
        """How many runs of other pages use the model or wait for it."""
        return sum(p.page != _page(request) for p in self._taken(model=True))

    def _place(self, fn: Any, page: str | None, request: Any) -> Place:
        return Place(fn.concurrency_id == self._model, page or "", _address(request))

    def _taken(self, model: bool) -> list[Place]:
        events = list(self._queue.event_ids_to_events.values())
        taken = [*self._coming, *(self._place(e.fn, e.session_hash, e.request) for e in events)]
        return [p for p in taken if p.model == model]

    def _refusal(self, place: Place) -> str:
        taken = self._taken(place.model)
        of_page, of_address, of_all = self._limits[place.model]
        if place.page and not self._fetched(place.page):
            return f"This page has not fetched its last {self._unread} answers: fetch them first."
        if place.page and sum(p.page == place.page for p in taken) >= of_page:
            return f"{of_page} calls of this page wait or are at work: wait for one to end."
        if sum(p.address == place.address for p in taken) >= of_address:
            return f"{of_address} calls from your address wait or are at work: wait for one to end."
        if len(taken) >= of_all:
            return f"The queue is full, {of_all} calls wait or are at work: try again in a minute."
        return ""


def _page(request: Any) -> str:
    return getattr(request, "session_hash", None) or ""


def _address(request: Any) -> str:
    return getattr(getattr(request, "client", None), "host", None) or ""
