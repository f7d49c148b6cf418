"""The visitors of one app: what the server remembers of each, and when it forgets them."""

from __future__ import annotations

import re
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..records import Distilled, Hit, Vote
from .runs import Run

if TYPE_CHECKING:
    import numpy as np

    from .session import Desk

MOST_VISITS = 200  # visitors remembered; the least recent is forgotten first
PATIENCE = 1800.0  # seconds that a tab which went away is remembered: a reload, a walk back from another site
IDLE = 3600.0  # ... and that a program is remembered which calls no more
ORPHAN = 60.0  # seconds that a run goes on when its page is gone
TOKEN = re.compile(r"[0-9a-zA-Z-]{16,64}")
LONG = ("solve", "distil", "stream")  # the panels whose runs a reloaded page takes up again


@dataclass(frozen=True, eq=False)
class Star:
    """A problem on the map: its key [d] of one kind, and the memories nearest to it."""

    text: str
    kind: str
    key: np.ndarray
    hits: tuple[Hit, ...]


@dataclass(eq=False)
class Visit:
    """What the server remembers of one visitor."""

    runs: dict[str, Run] = field(default_factory=dict)
    pending: Distilled | None = None  # waits for keep or discard
    columns: list[tuple[str, Vote]] = field(default_factory=list)  # the counterfactual, side by side
    trials: list[tuple[str, Vote, Vote]] = field(default_factory=list)  # problem, vote before and after the distillation
    near: list[str] = field(default_factory=list)  # examples like the problem that was distilled, the nearest first
    star: Star | None = None  # the problem on the map
    looked: bool = False  # a memory was opened since the page was loaded
    desk: Desk | None = None  # an own one, with an own bank, in a shared app
    page: str = ""  # gradio's name of the page that went
    token: str = ""  # of the browser tab, kept over a reload; "" for a program
    seen: float = field(default_factory=time.monotonic)

    def start(self, panel: str) -> Run:
        """A new run of a panel; the one before is told to stop."""
        if panel in self.runs:
            self.runs[panel].end()
        self.runs[panel] = Run(patience=ORPHAN if self.token and panel in LONG else 0.0)
        return self.runs[panel]

    def end(self, *panels: str) -> None:
        """Tells the runs of these panels to stop."""
        for name in panels:
            if name in self.runs:
                self.runs[name].end()

    def busy(self, *panels: str) -> bool:
        """Whether a run of these panels goes on or waits for its turn: Stop would end it."""
        return any(run.busy or run.pressed for name in panels if (run := self.runs.get(name)) is not None)

    def forsake(self) -> None:
        """The page is gone: runs go on for their patience, if they have any."""
        for run in self.runs.values():
            run.forsake()

    def free(self) -> None:
        """Stops the runs and forgets an own bank."""
        for run in self.runs.values():
            run.end()
        if self.desk is not None:
            self.desk.close()
            self.desk = None


class Visits:
    """Visitors by gradio's session hash, each of its pages having one. Thread-safe and bounded.

    A tab brings a token of its own, kept in the browser's sessionStorage. When the page goes, the visit is parked under
    it for `patience` seconds, and the page that comes back with it has everything as it was.
    """

    def __init__(self, most: int = MOST_VISITS, patience: float = PATIENCE) -> None:
        self.most, self.patience = most, patience
        self._live: OrderedDict[str, Visit] = OrderedDict()
        self._parked: OrderedDict[str, Visit] = OrderedDict()
        self._lock = threading.RLock()
        self._timer: tuple[float, threading.Timer] | None = None  # when it sweeps, if nobody calls until then

    def __len__(self) -> int:
        return len(self._live) + len(self._parked)

    def __contains__(self, name: object) -> bool:
        return name in self._live

    def of(self, name: str) -> Visit:
        """The visit of a page or a program, a new one if need be."""
        with self._lock:
            visit = self._live.setdefault(name, self._live.get(name) or self._back(name) or Visit())
            self._live.move_to_end(name)
            visit.seen = time.monotonic()
            self.sweep(but=visit)
            return visit

    def _back(self, name: str) -> Visit | None:
        """The parked visit of a page that was not gone after all: a sleeping phone only loses its connection, and gradio
        never says that the page is back."""
        token = next((t for t, v in self._parked.items() if v.page == name), None)
        return None if token is None else self._parked.pop(token)

    def claim(self, name: str, token: str) -> Visit:
        """The visit of a page that was just loaded: the one its tab had before, if that is still remembered."""
        with self._lock:
            if not TOKEN.fullmatch(token or ""):
                return self.of(name)
            self.sweep()
            visit = self._parked.pop(token, None)
            for other in [n for n, v in self._live.items() if v.token == token and n != name]:
                visit = self._live.pop(other)  # the new page may come before the end of the old one is noticed
                visit.forsake()
            fresh = self._live.get(name)
            if visit is None:
                visit = fresh or Visit()
            elif fresh is not None:
                fresh.free()
            visit.token, self._live[name] = token, visit
            return self.of(name)

    def leave(self, name: str) -> None:
        """The page is gone: its visit is parked if its tab may come back, else forgotten."""
        with self._lock:
            visit = self._live.pop(name, None)
            if visit is None:
                return
            if not visit.token:
                visit.free()
                return
            visit.forsake()
            visit.seen, visit.page = time.monotonic(), name
            self._parked[visit.token] = visit
            self.sweep()
            self._wake()

    def _wake(self) -> None:
        """Sees to it that the first of the parked visits to run out of time is forgotten then, with one timer for all."""
        if not self._parked:
            return
        due = min(v.seen for v in self._parked.values()) + self.patience + 1
        if self._timer is not None:
            if self._timer[0] <= due:
                return
            self._timer[1].cancel()
        timer = threading.Timer(max(0.0, due - time.monotonic()), self._rung)
        timer.daemon, self._timer = True, (due, timer)
        timer.start()

    def _rung(self) -> None:
        with self._lock:
            self._timer = None
            self.sweep()
            self._wake()

    def sweep(self, but: Visit | None = None) -> None:
        """Forgets who is past their time, and beyond the bound those who lose least (`_loses`), the least recent first."""
        with self._lock:
            now = time.monotonic()
            gone: list[Any] = [(self._parked, t) for t, v in self._parked.items() if now - v.seen > self.patience]
            gone += [(self._live, n) for n, v in self._live.items() if not v.token and now - v.seen > IDLE]
            for where, name in gone:
                where.pop(name).free()
            while len(self) > self.most:
                all_ = [(where, name, v) for where in (self._live, self._parked) for name, v in where.items() if v is not but]
                where, name, _ = min(all_, key=lambda x: self._loses(x[0], x[2]))  # the first of equals
                where.pop(name).free()

    def _loses(self, where: Mapping[str, Visit], visit: Visit) -> tuple[bool, bool, bool]:
        """A caller without a tab loses least, who may be a flood of them; then a page that went; a page at work loses most."""
        return bool(visit.token), where is self._live, visit.busy(*visit.runs)
