"""What the server holds for the panels: the engine, the visitors, and how a stream of records becomes a page.

Handlers are top-level functions whose first argument is the `Desk`; `bind` makes gradio listeners of them. Records with
arrays (a Memory waiting for "keep") and receipts live in a `Visit`, found by the session's hash and freed when the
visitor leaves; gr.State, which is deep-copied, holds none of them.
"""

from __future__ import annotations

import functools
import inspect
import logging
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..problems import read_problems
from ..records import Distilled, Hit, LatentmemError, Problem, Vote
from .scene import Scene

if TYPE_CHECKING:
    import numpy as np

    from ..engine import Engine

log = logging.getLogger(__name__)
REFRESH = 0.125  # seconds between two pictures of a run: eight a second
MOST_VISITS = 200  # visitors remembered; the least recent is forgotten first
EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "problems.jsonl"
FALLBACK = (Problem("A shop sells pens at $3 each. Mia buys 4 pens and pays with a $20 note. How much change does she get?",
                    "change-0", "8", "examples/change"),)
SORRY = "Something went wrong inside latentmem; nothing was stored, and the details are in the server's log."


@dataclass(frozen=True, eq=False)
class Star:
    """A problem on the map: its key [d] of one kind, and the memories nearest to it."""

    text: str
    kind: str
    key: np.ndarray
    hits: tuple[Hit, ...]


@dataclass
class Run:
    """One long action of a visitor. `stop` is set by the Stop button, by a newer run, and when the visitor leaves."""

    stop: threading.Event = field(default_factory=threading.Event)
    scene: Scene = field(default_factory=Scene)
    error: str = ""
    problem: str = ""  # as typed
    settings: dict[str, Any] = field(default_factory=dict)  # as chosen


@dataclass
class Visit:
    """What the server remembers of one visitor."""

    runs: dict[str, Run] = field(default_factory=dict)
    pending: Distilled | None = None  # waits for keep or discard
    columns: list[tuple[str, Vote]] = field(default_factory=list)  # the counterfactual, side by side
    star: Star | None = None  # the problem on the map

    def start(self, panel: str) -> Run:
        """A new run of a panel; the one before is told to stop."""
        if panel in self.runs:
            self.runs[panel].stop.set()
        self.runs[panel] = Run()
        return self.runs[panel]


class Desk:
    """The engine and the visitors of one app."""

    def __init__(self, engine: Engine, examples: Path = EXAMPLES) -> None:
        self.engine = engine
        self.examples = load_examples(examples)
        self.planes: dict[str, Any] = {}  # key kind -> (ids, their projection)
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._visits: OrderedDict[str, Visit] = OrderedDict()
        self._lock = threading.Lock()

    def visit(self, request: Any) -> Visit:
        """The visitor of a request; gradio gives each browser tab its own `session_hash`."""
        name = getattr(request, "session_hash", None) or ""
        with self._lock:
            visit = self._visits.setdefault(name, Visit())
            self._visits.move_to_end(name)
            while len(self._visits) > MOST_VISITS:
                _forget(self._visits.popitem(last=False)[1])
            return visit

    def leave(self, request: Any) -> None:
        with self._lock:
            visit = self._visits.pop(getattr(request, "session_hash", None) or "", None)
        if visit is not None:
            _forget(visit)

    def folder(self) -> str:
        """Where exports wait to be downloaded; removed when the app ends."""
        with self._lock:
            if self._folder is None:
                self._folder = tempfile.TemporaryDirectory(prefix="latentmem-")
            return self._folder.name

    def problem(self, text: str) -> Problem:
        """The typed problem; one of the examples keeps its id and data set. Raises LatentmemError when it is empty."""
        clean = (text or "").encode("utf-8", "replace").decode().strip()
        known = self.examples.get(clean)
        return known.unlabelled() if known is not None else Problem(clean)


def _forget(visit: Visit) -> None:
    for run in visit.runs.values():
        run.stop.set()


def load_examples(path: Path) -> dict[str, Problem]:
    """Text -> problem. Without the file (an installed package has no examples folder) one built-in problem."""
    problems: Iterable[Problem] = FALLBACK
    if path.is_file():
        try:
            problems = list(read_problems(path)) or FALLBACK
        except LatentmemError as e:
            log.warning("%s", e)
    return {p.text.strip(): p for p in problems}


def family(problem: Problem) -> str:
    """'examples/change' -> 'change'."""
    return problem.source.rsplit("/", 1)[-1] or "other"


def bind(fn: Callable[..., Any], desk: Desk) -> Callable[..., Any]:
    """`fn` with its first argument given, as a function gradio can inspect.

    functools.partial will not do: gradio reads no type hints from it and would pass no Request.
    """
    signature = inspect.signature(fn)
    if inspect.isgeneratorfunction(fn):
        @functools.wraps(fn)
        def bound(*args: Any, **kwargs: Any) -> Iterator[Any]:
            yield from fn(desk, *args, **kwargs)
    else:
        @functools.wraps(fn)
        def bound(*args: Any, **kwargs: Any) -> Any:
            return fn(desk, *args, **kwargs)
    bound.__signature__ = signature.replace(parameters=list(signature.parameters.values())[1:])  # type: ignore[attr-defined]
    return bound


def follow(records: Iterator[Any], run: Run, refresh: float = REFRESH) -> Iterator[None]:
    """Feeds a stream into `run.scene` and yields when the page should be drawn again.

    Ends when the stream does, when `run.stop` is set, or with `run.error` set to one sentence. The stream is always
    closed, so that the engine stops working when the visitor stops looking.
    """
    drawn = 0.0
    try:
        for record in records:
            urgent = run.scene.add(record)
            if run.stop.is_set():
                break
            if urgent or time.monotonic() - drawn >= refresh:
                yield
                drawn = time.monotonic()
    except LatentmemError as e:
        run.error = str(e)
    except Exception:
        log.exception("a run failed")
        run.error = SORRY
    finally:
        close = getattr(records, "close", None)
        if close is not None:
            close()
        run.scene.stopped = run.stop.is_set() or bool(run.error)


def ready_engine(desk: Desk, settings: dict[str, Any]) -> Iterator[Any]:
    """Statuses of the model being loaded, if it is not; then the engine with these settings, as the return value."""
    engine = desk.engine.changed(**settings)
    if not engine.ready:
        yield from engine.load()
    return engine


def answer_records(desk: Desk, text: str, memory: str, settings: dict[str, Any]) -> Iterator[Any]:
    """Everything from the press of Solve to the receipt."""
    problem = desk.problem(text)
    engine = yield from ready_engine(desk, settings)
    yield from engine.answer(problem, memory=memory)


def star_of(engine: Engine, problem: Problem) -> Star:
    """A problem's place on the map and its five nearest memories. The engine must be ready."""
    kind = engine.settings.key
    return Star(problem.text, kind, engine.key(problem, kind), engine.search(problem, 5).hits)


def attempt(action: Callable[[], Any]) -> tuple[Any, str]:
    """(result, "") of a short action, or (None, one sentence)."""
    try:
        return action(), ""
    except LatentmemError as e:
        return None, str(e)
    except Exception:
        log.exception("an action failed")
        return None, SORRY
