"""What the server holds for the panels: the engine, the visitors, and how handlers reach both.

The panels are objects over an `AppSession`; their bound methods are gradio's listeners. Records
with arrays (a Memory that waits for "keep") and receipts live in a `Visit`, which gradio's session
hash finds. gr.State serves neither: it is deep-copied, and it does not outlive a reload.
"""

from __future__ import annotations

import copy
import logging
import re
import shutil
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..bank import Overlay
from ..engine.run_state import Scene
from ..evaluation.reader import read_problems
from ..files import example
from ..records import (
    Distilled,
    Hit,
    LatentmemError,
    MemoryInfo,
    Problem,
    Receipt,
    Status,
    Vote,
)
from . import hosting
from .pace import Pace
from .runs import SORRY, Run

if TYPE_CHECKING:
    import numpy as np

    from ..engine import Engine

# ---------- The visitors of one app: what the server remembers of each, and when it forgets them.

MOST_VISITS = 200  # visitors remembered; the least recent is forgotten first
# seconds for which a closed tab is remembered: a reload, a walk back from another site
PATIENCE = 1800.0
IDLE = 3600.0  # ... and a program that has stopped calling
ORPHAN = 60.0  # seconds for which a run continues when its page is gone
TOKEN = re.compile(r"[0-9a-zA-Z-]{16,64}")
LONG = ("solve", "distil", "build", "stream")  # the panels whose runs a reloaded page resumes


@dataclass(frozen=True, eq=False)
class QueryPoint:
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
    # the counterfactual, side by side
    columns: list[tuple[str, Vote]] = field(default_factory=list)
    # problem, vote before and after the distillation
    trials: list[tuple[str, Vote, Vote]] = field(default_factory=list)
    # examples like the problem that was distilled, the nearest first
    near: list[str] = field(default_factory=list)
    star: QueryPoint | None = None  # the problem on the map
    looked: bool = False  # a memory was opened since the page was loaded
    session: AppSession | None = None  # an own one, with an own bank, in a shared app
    page: str = ""  # gradio's name of the page that went
    token: str = ""  # of the browser tab, kept over a reload; "" for a program
    seen: float = field(default_factory=time.monotonic)
    # how to free what else is theirs
    belongings: list[Callable[[], None]] = field(default_factory=list)

    def start(self, panel: str, scene: Any = None) -> Run:
        """A new run of a panel, folded into `scene`; the one before is told to stop."""
        if panel in self.runs:
            self.runs[panel].end()
        patience = ORPHAN if self.token and panel in LONG else 0.0
        self.runs[panel] = Run(scene=scene or Scene(), patience=patience)
        return self.runs[panel]

    def end(self, *panels: str) -> None:
        """Tells the runs of these panels to stop."""
        for name in panels:
            if name in self.runs:
                self.runs[name].end()

    def busy(self, *panels: str) -> bool:
        """Whether a run of these panels works or waits for its turn: Stop would end it."""
        return any(
            run.busy or run.pressed for name in panels if (run := self.runs.get(name)) is not None
        )

    def forsake(self) -> None:
        """The page is gone: runs continue for their patience, if they have any."""
        for run in self.runs.values():
            run.forsake()

    def free(self) -> None:
        """Stops the runs, and forgets an own bank and what was uploaded."""
        while self.belongings:
            self.belongings.pop()()
        for run in self.runs.values():
            run.end()
        if self.session is not None:
            self.session.close()
            self.session = None


class Visits:
    """Visitors by gradio's session hash, each of its pages having one. Thread-safe and bounded.

    A tab brings a token of its own, kept in the browser's sessionStorage. When the page goes, the
    visit is parked under it for `patience` seconds, and the page that comes back with it has
    everything as it was.
    """

    def __init__(self, most: int = MOST_VISITS, patience: float = PATIENCE) -> None:
        self.most, self.patience = most, patience
        # frees what gradio keeps of a page; `app.build` knows how
        self.forget: Callable[[str], None] = lambda name: None
        self._live: OrderedDict[str, Visit] = OrderedDict()
        self._parked: OrderedDict[str, Visit] = OrderedDict()
        self._lock = threading.RLock()
        # when it sweeps, if nobody calls until then
        self._timer: tuple[float, threading.Timer] | None = None

    def __len__(self) -> int:
        return len(self._live) + len(self._parked)

    def __contains__(self, name: object) -> bool:
        return name in self._live

    def knows(self, page: str) -> bool:
        """Whether a page is a visitor's, or was before it went."""
        with self._lock:
            return page in self._live or any(v.page == page for v in self._parked.values())

    def of(self, name: str) -> Visit:
        """The visit of a page or a program, a new one if need be."""
        with self._lock:
            visit = self._live.setdefault(name, self._live.get(name) or self._back(name) or Visit())
            self._live.move_to_end(name)
            visit.seen = time.monotonic()
            self.sweep(but=visit)
            return visit

    def _back(self, name: str) -> Visit | None:
        """The parked visit of a page that comes back under its old name: a sleeping phone only
        loses its connection, and gradio does not announce its return."""
        tokens = [token for token, visit in self._parked.items() if visit.page == name]
        return self._parked.pop(tokens[0]) if tokens else None

    def claim(self, name: str, token: str) -> Visit:
        """The visit of a page that was just loaded: the one its tab had before, if any."""
        with self._lock:
            if not TOKEN.fullmatch(token or ""):
                return self.of(name)
            self.sweep()
            visit = self._parked.pop(token, None)
            for other in [n for n, v in self._live.items() if v.token == token and n != name]:
                # the new page may come before the end of the old one is noticed
                visit = self._live.pop(other)
                visit.forsake()
                self.forget(other)
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
                self.forget(name)
                return
            visit.forsake()
            visit.seen, visit.page = time.monotonic(), name
            self._parked[visit.token] = visit
            self.sweep()
            self._wake()

    def _wake(self) -> None:
        """Sets one timer for all parked visits, to the moment when the first runs out of time."""
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
        """Forgets visits past their time, and beyond the bound those that lose least (`_loses`),
        the least recent first."""
        with self._lock:
            now = time.monotonic()
            for name, v in list(self._parked.items()):
                if now - v.seen > self.patience:
                    self._drop(self._parked, name)
            for name, v in list(self._live.items()):
                if not v.token and now - v.seen > IDLE:
                    self._drop(self._live, name)
            while len(self) > self.most:
                both = [(w, n) for w in (self._live, self._parked) for n in w if w[n] is not but]
                self._drop(*min(both, key=lambda x: self._loses(x[0], x[0][x[1]])))

    def _drop(self, where: dict[str, Visit], name: str) -> None:
        visit = where.pop(name)
        visit.free()
        self.forget(name if where is self._live else visit.page)

    def _loses(self, where: Mapping[str, Visit], visit: Visit) -> tuple[bool, bool, bool]:
        """What forgetting costs: least for a caller without a tab, of whom there may be a flood;
        more for a page that is gone; most for a page at work."""
        return bool(visit.token), where is self._live, visit.busy(*visit.runs)


# ---------- Loads the models while the first visitor reads, so that Solve need not wait for them.

log = logging.getLogger(__name__)
LOOK = 0.25  # seconds between two looks at the progress
TRIAL = 16  # tokens of an attempt


class Warming:
    """One load for all visitors, and a few tokens that show how fast the model is here. After a
    failure the next who needs the models tries again."""

    def __init__(self, pace: Pace) -> None:
        self.pace = pace
        self.status: Status | None = None
        self.error = ""
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    @property
    def busy(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def start(self, engine: Engine) -> None:
        """Begins to load, unless that is done or under way."""
        with self._lock:
            if engine.ready or self.busy:
                return
            self.status, self.error = Status("Loading the model"), ""
            self._thread = threading.Thread(
                target=self._load, args=(engine,), daemon=True, name="latentmem-warming"
            )
            self._thread.start()

    def _load(self, engine: Engine) -> None:
        try:
            for self.status in engine.load():
                pass
        except LatentmemError as e:
            self.error = str(e)
        except Exception:
            log.exception("the models could not be loaded")
            self.error = SORRY
        else:
            attempt(lambda: self._trial(engine.changed(max_new_tokens=TRIAL)))

    def _trial(self, engine: Engine) -> None:
        for record in engine.think(Problem("What is 12 + 30?")):
            self.pace.see(record)
        self.pace.length = 0.0  # they were cut off

    def follow(self, engine: Engine) -> Iterator[Status]:
        """Progress until the engine is ready. Raises LatentmemError when it cannot be."""
        if engine.ready and not self.busy:
            return
        self.start(engine)
        last = None
        while (thread := self._thread) is not None and thread.is_alive():
            if self.status is not None and self.status != last:
                last = self.status
                yield last
            thread.join(LOOK)
        if self.error:
            raise LatentmemError(self.error)
        # nothing to do, unless other models were asked for than those that were loading
        yield from engine.load()


# ---------- The session: the engine and the visitors, and what a run is made of.

T = TypeVar("T")
EXAMPLES = example("problems.jsonl")
# of each kind: the newest, and the one before, which may still be on its way to a browser
EXPORTS_KEPT = 2


class AppSession:
    """The engine and the visitors of one app. In a shared app, `at` gives each visitor a session
    with a bank of their own."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine.changed(**hosting.clipped(engine.settings))
        self.hosted = engine.settings.hosted
        self.examples = load_examples(EXAMPLES)
        self.visits, self.pace = Visits(), Pace()
        self.warming = Warming(self.pace)
        self.example_keys: dict[str, Any] = {}  # text -> its key; filled at first use
        self.keys_lock = threading.Lock()
        # of gradio's queue, which `app.build` knows: whether it takes no more from a visitor, and
        # how many runs of others are in it
        self.full: Callable[[Any], bool] = lambda request: False
        self.ahead: Callable[[Any], int] = lambda request: 0
        self.model_work = threading.Lock()  # one piece of model work at a time, whoever asks for it
        self.app: AppSession | None = None  # of a visitor's own session: that of the app
        self._own()

    def _own(self) -> None:
        """What no two sessions share."""
        self.planes: dict[str, Any] = {}  # pictures of the bank, by what they are for
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._downloads: tempfile.TemporaryDirectory[str] | None = None
        self._exports: dict[str, list[Path]] = {}
        self._lock = threading.Lock()

    def visit(self, request: Any) -> Visit:
        """The visitor of a request; gradio gives each browser tab its own `session_hash`. Who has
        none is not remembered."""
        name = _name(request)
        return self.visits.of(name) if name else Visit()

    def at(self, request: Any) -> AppSession:
        """The session that a request works in: the visitor's own in a shared app, else this one."""
        if not self.hosted or self.app is not None:
            return self
        visit = self.visit(request)
        with self._lock:
            if visit.session is None:
                most = self.engine.settings.hosted_memories
                bank = Overlay(self.engine.bank, most, hosting.VIRTUAL_TOKENS)
                mine = visit.session = copy.copy(self)
                mine.engine, mine.app = self.engine.changed(on_bank=bank), self
                mine._own()
            return visit.session

    def leave(self, request: Any) -> None:
        self.visits.leave(_name(request))

    def close(self) -> None:
        """Forgets the own bank and downloads of a visitor in a shared app."""
        for folder in (self._folder, self._downloads):
            if folder is not None:
                folder.cleanup()
        if self.app is not None:
            self.engine.bank.close()

    def folder(self) -> str:
        """Where the files of this session are kept; removed when the app ends."""
        with self._lock:
            if self._folder is None:
                self._folder = tempfile.TemporaryDirectory(prefix="latentmem-")
            return self._folder.name

    def export(self, kind: str, make: Callable[[Path], T]) -> T:
        """What `make` puts into an empty folder, to be downloaded. Of earlier exports of this kind
        only the last one stays.

        The folder lies in gradio's own: what lies elsewhere gradio copies there, and keeps the copy
        for a day.
        """
        from gradio.utils import get_upload_folder

        with self._lock:
            if self._downloads is None:
                Path(get_upload_folder()).mkdir(parents=True, exist_ok=True)
                self._downloads = tempfile.TemporaryDirectory(
                    prefix="latentmem-", dir=get_upload_folder()
                )
            fresh = Path(tempfile.mkdtemp(dir=self._downloads.name))
        try:
            made = make(fresh)
        except BaseException:
            shutil.rmtree(fresh, ignore_errors=True)
            raise
        with self._lock:
            kept = [*self._exports.get(kind, []), fresh]
            self._exports[kind] = kept[-EXPORTS_KEPT:]
        for old in kept[:-EXPORTS_KEPT]:
            shutil.rmtree(old, ignore_errors=True)
        return made

    def problem(self, text: str) -> Problem:
        """The typed problem; one of the examples keeps its id and data set. Raises LatentmemError
        when it is empty or longer than the settings allow."""
        clean = (text or "").encode("utf-8", "replace").decode().strip()
        most = self.engine.settings.max_problem_chars
        if len(clean) > most:
            raise LatentmemError(
                f"The problem has {len(clean)} characters and the limit is {most}: shorten it."
            )
        known = self.examples.get(clean)
        return known.unlabelled() if known is not None else Problem(clean)

    def tuned(self, settings: Mapping[str, Any]) -> Engine:
        """The engine with a visitor's settings. Raises LatentmemError for one that does not fit."""
        made = self.engine.changed(**settings)  # first, since "256" from a program is 256, too
        hosting.check(
            self.engine.settings, {name: getattr(made.settings, name) for name in settings}
        )
        return made


def _name(request: Any) -> str:
    return getattr(request, "session_hash", None) or ""


def load_examples(path: Path) -> dict[str, Problem]:
    """Text -> problem. Raises LatentmemError for a file that cannot be read."""
    return {p.text.strip(): p for p in read_problems(path)}


def exclusively(session: AppSession, records: Iterator[Any]) -> Iterator[Any]:
    """A stream that uses the model, once no other does: a run whose page is being reloaded has left
    gradio's queue."""
    while not session.model_work.acquire(timeout=0.5):
        yield Status("Waiting for another run to end")
    try:
        with closing(records):  # type: ignore[type-var]  # each is a generator
            for record in records:
                session.pace.see(record)
                yield record
    finally:
        session.model_work.release()


def ready_engine(session: AppSession, settings: Mapping[str, Any]) -> Iterator[Any]:
    """Statuses until the model is loaded; returns the engine with these settings."""
    engine = session.tuned(settings)
    yield from session.warming.follow(engine)
    return engine


def model_records(
    session: AppSession,
    text: str,
    settings: Mapping[str, Any],
    work: Callable[[Engine, Problem], Iterable[Any]],
) -> Iterator[Any]:
    """Everything from a press to its last record: the model's load, then what `work` gives for the
    typed problem, with these settings."""

    def records() -> Iterator[Any]:
        problem = session.problem(text)
        engine = yield from ready_engine(session, settings)
        yield from work(engine, problem)

    return exclusively(session, records())


def distil_records(
    session: AppSession,
    text: str,
    settings: Mapping[str, Any],
    keep: bool = False,
    enough: Callable[[], bool] = lambda: False,
) -> Iterator[Any]:
    """Everything from the press of Distil to the memory, the best so far once `enough()` is true.
    Raises LatentmemError if a shared app has no room for it."""

    def work(engine: Engine, problem: Problem) -> Iterator[Any]:
        session.engine.bank.check_room()
        return engine.distil(problem, keep=keep, enough=enough)

    return model_records(session, text, settings, work)


def nearest_examples(session: AppSession, problem: Problem, n: int) -> list[str]:
    """The texts of the `n` examples most similar to a problem by sentence embedding, without it."""
    with session.keys_lock:
        keys = session.example_keys
        for text, example in session.examples.items():
            if text not in keys:
                keys[text] = session.engine.key(example, "input")
        mine = session.engine.key(problem, "input")
        others = [t for t in session.examples if t != problem.text.strip()]
        return sorted(others, key=lambda t: -float(keys[t] @ mine))[:n]


def star_of(engine: Engine, problem: Problem) -> QueryPoint:
    """A problem's place on the map and its five nearest memories. The engine must be ready."""
    kind = engine.settings.key
    return QueryPoint(problem.text, kind, engine.key(problem, kind), engine.search(problem, 5).hits)


def tried(session: AppSession, r: Receipt) -> MemoryInfo | None:
    """What the bank still knows of the memory that was tried for an answer."""
    used = r.used
    return attempt(lambda: session.engine.bank.info(used.memory_id))[0] if used else None


def attempt(action: Callable[[], Any]) -> tuple[Any, str]:
    """(result, "") of a short action, or (None, one sentence)."""
    try:
        return action(), ""
    except LatentmemError as e:
        return None, str(e)
    except Exception:
        log.exception("an action failed")
        return None, SORRY


def last_receipt(visit: Visit) -> Receipt | None:
    run = visit.runs.get("solve")
    return run.scene.receipt if run is not None else None


def opening(session: AppSession, but: str = "") -> Problem:
    """The problem in the box of a first visitor, another one than `but`: one of a family that the
    bank has a memory of, if there is one."""
    rows = attempt(lambda: session.engine.bank.infos(limit=200))[0] or []
    learnt, families = {i.problem.text.strip() for i in rows}, {i.problem.source for i in rows}
    examples = session.examples.items()
    fresh = [p for t, p in examples if t not in learnt and p.source in families]
    return next(p for p in (*fresh, *session.examples.values()) if p.text.strip() != but.strip())


def another(session: AppSession, event: Any, text: str, seed: Any) -> tuple[str, int | None]:
    """(problem, seed) to ask where the vote on `text` cannot be learnt from, by which of the two
    buttons was pressed: the same with the next seed, or one whose family is known to work."""
    given = event._data.get("value") if isinstance(event._data, dict) else ""
    if given == "problem":
        return opening(session, but=text).text.strip(), seed
    return text, int(seed if seed is not None else session.engine.settings.seed) + 1


def family(problem: Problem) -> str:
    """'examples/change' -> 'change'."""
    return problem.source.rsplit("/", 1)[-1] or "other"
