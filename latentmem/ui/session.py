"""What the server holds for the panels: the engine, the visitors, and how handlers reach both.

Handlers are top-level functions whose first argument is the `Desk`; `bind` makes gradio listeners of them. Records with
arrays (a Memory waiting for "keep") and receipts live in a `Visit`, found by the session's hash and freed when the
visitor leaves; gr.State, which is deep-copied, holds none of them.
"""

from __future__ import annotations

import copy
import functools
import inspect
import logging
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..overlay import Overlay
from ..problems import read_problems
from ..records import LatentmemError, MemoryInfo, Problem, Receipt, Status
from . import hosting
from .runs import SORRY, Run, follow, watch
from .views_about import family
from .visits import Star, Visit, Visits
from .warming import Warming

if TYPE_CHECKING:
    from ..engine import Engine

__all__ = ["Desk", "Run", "Star", "Visit", "answer_records", "attempt", "bind", "distil_records", "exclusively", "family",
           "follow", "load_examples", "nearest_examples", "ready_engine", "star_of", "think_records", "tried", "watch"]
log = logging.getLogger(__name__)
T = TypeVar("T")
EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "problems.jsonl"
EXPORTS_KEPT = 2  # of each kind: the newest, and the one before, which may still be on its way to a browser
FALLBACK = (Problem("A shop sells pens at $3 each. Mia buys 4 pens and pays with a $20 note. How much change does she get?",
                    "change-0", "8", "examples/change"),)


class Desk:
    """The engine and the visitors of one app. In a shared app each visitor has a desk with an own bank, by `at`."""

    def __init__(self, engine: Engine, examples: Path = EXAMPLES) -> None:
        self.engine = engine.changed(**hosting.clipped(engine.settings))
        self.hosted = engine.settings.hosted
        self.examples = load_examples(examples)
        self.visits, self.warming = Visits(), Warming()
        self.example_keys: dict[str, Any] = {}  # text -> its key; filled at first use
        self.keys_lock = threading.Lock()
        self.full: Callable[[], bool] = lambda: False  # whether gradio's queue takes no more; the layout knows
        self.model_work = threading.Lock()  # one piece of model work at a time, whoever asks for it
        self.app: Desk | None = None  # of a visitor's own desk in a shared app: the desk of the app
        self._own()

    def _own(self) -> None:
        """What no two desks share."""
        self.planes: dict[str, Any] = {}  # pictures of the bank, by what they are for
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._downloads: tempfile.TemporaryDirectory[str] | None = None
        self._exports: dict[str, list[Path]] = {}
        self._lock = threading.Lock()

    def visit(self, request: Any) -> Visit:
        """The visitor of a request; gradio gives each browser tab its own `session_hash`. Who has none is not remembered."""
        name = _name(request)
        return self.visits.of(name) if name else Visit()

    def at(self, request: Any) -> Desk:
        """The desk that a request works at: the visitor's own in a shared app, else this one."""
        if not self.hosted:
            return self
        visit = self.visit(request)
        with self._lock:
            if visit.desk is None:
                visit.desk = copy.copy(self)
                visit.desk.engine = self.engine.changed(
                    on_bank=Overlay(self.engine.bank, self.engine.settings.hosted_memories,  # type: ignore[arg-type]
                                    hosting.VIRTUAL_TOKENS))
                visit.desk.app = self
                visit.desk._own()
            return visit.desk

    def leave(self, request: Any) -> None:
        self.visits.leave(_name(request))

    def close(self) -> None:
        """Forgets the own bank and downloads of a visitor in a shared app."""
        for folder in (self._folder, self._downloads):
            if folder is not None:
                folder.cleanup()
        if isinstance(self.engine.bank, Overlay):
            self.engine.bank.close()

    def folder(self) -> str:
        """Where the files of this desk are kept; removed when the app ends."""
        with self._lock:
            if self._folder is None:
                self._folder = tempfile.TemporaryDirectory(prefix="latentmem-")
            return self._folder.name

    def export(self, kind: str, make: Callable[[Path], T]) -> T:
        """What `make` puts into an empty folder, to be downloaded. Of earlier exports of this kind only the last one stays.

        The folder lies in gradio's own: what lies elsewhere gradio copies there, and keeps the copy for a day.
        """
        from gradio.utils import get_upload_folder

        with self._lock:
            if self._downloads is None:
                Path(get_upload_folder()).mkdir(parents=True, exist_ok=True)
                self._downloads = tempfile.TemporaryDirectory(prefix="latentmem-", dir=get_upload_folder())
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
        """The typed problem; one of the examples keeps its id and data set. Raises LatentmemError when it is empty or
        longer than the settings allow."""
        clean = (text or "").encode("utf-8", "replace").decode().strip()
        most = self.engine.settings.max_problem_chars
        if len(clean) > most:
            raise LatentmemError(f"The problem has {len(clean)} characters and the limit is {most}: shorten it.")
        known = self.examples.get(clean)
        return known.unlabelled() if known is not None else Problem(clean)

    def tuned(self, settings: dict[str, Any]) -> Engine:
        """The engine with some settings of a visitor. Raises LatentmemError for one that does not fit."""
        made = self.engine.changed(**settings)  # first, since "256" from a program is 256, too
        hosting.check(self.engine.settings, {name: getattr(made.settings, name) for name in settings})
        return made


def _name(request: Any) -> str:
    return getattr(request, "session_hash", None) or ""


def load_examples(path: Path) -> dict[str, Problem]:
    """Text -> problem. Without the file (an installed package has no examples folder) one built-in problem."""
    problems: Iterable[Problem] = FALLBACK
    if path.is_file():
        try:
            problems = list(read_problems(path)) or FALLBACK
        except LatentmemError as e:
            log.warning("%s", e)
    return {p.text.strip(): p for p in problems}


def bind(fn: Callable[..., Any], desk: Desk, own: bool = True) -> Callable[..., Any]:
    """`fn` with its first argument given, the visitor's own desk, as a function gradio can inspect.

    functools.partial will not do: gradio reads no type hints from it and would pass no Request. `own=False` gives the
    app's desk, for what comes before and after a visitor.
    """
    import gradio as gr

    signature = inspect.signature(fn)
    parameters = list(signature.parameters.values())[1:]
    asks = any(p.name == "request" for p in parameters)

    def given(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Desk, tuple[Any, ...], dict[str, Any]]:
        request = kwargs.get("request") or next((a for a in args if isinstance(a, gr.Request)), None)
        if not asks:
            kwargs = {k: v for k, v in kwargs.items() if k != "request"}
            args = tuple(a for a in args if not isinstance(a, gr.Request))
        return (desk.at(request) if own else desk), args, kwargs

    if inspect.isgeneratorfunction(fn):
        @functools.wraps(fn)
        def bound(*args: Any, **kwargs: Any) -> Iterator[Any]:
            at, args, kwargs = given(args, kwargs)
            yield from fn(at, *args, **kwargs)
    else:
        @functools.wraps(fn)
        def bound(*args: Any, **kwargs: Any) -> Any:
            at, args, kwargs = given(args, kwargs)
            return fn(at, *args, **kwargs)
    if not asks:
        parameters.append(inspect.Parameter("request", inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None,
                                            annotation=gr.Request))
    bound.__annotations__ = {**fn.__annotations__, "request": gr.Request}
    bound.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return bound


def exclusively(desk: Desk, records: Iterator[Any]) -> Iterator[Any]:
    """A stream that uses the model, once no other does: a run whose page is being reloaded has left gradio's queue."""
    while not desk.model_work.acquire(timeout=0.5):
        yield Status("Waiting for another run to end")
    try:
        yield from records
    finally:
        desk.model_work.release()


def ready_engine(desk: Desk, settings: dict[str, Any]) -> Iterator[Any]:
    """Statuses of the model being loaded, if it is not; then the engine with these settings, as the return value."""
    engine = desk.tuned(settings)
    yield from desk.warming.follow(engine)
    return engine


def answer_records(desk: Desk, text: str, memory: str, settings: dict[str, Any]) -> Iterator[Any]:
    """Everything from the press of Solve to the receipt."""

    def records() -> Iterator[Any]:
        problem = desk.problem(text)
        engine = yield from ready_engine(desk, settings)
        yield from engine.answer(problem, memory=memory)

    return exclusively(desk, records())


def think_records(desk: Desk, text: str, memory: str, settings: dict[str, Any]) -> Iterator[Any]:
    """The traces and the vote of one memory on a problem, without a receipt and without events."""

    def records() -> Iterator[Any]:
        problem = desk.problem(text)
        engine = yield from ready_engine(desk, settings)
        yield from engine.think(problem, memory_id=memory)

    return exclusively(desk, records())


def distil_records(desk: Desk, text: str, settings: dict[str, Any], keep: bool = False) -> Iterator[Any]:
    """Everything from the press of Distil to the memory. Raises LatentmemError if a shared app has no room for it."""

    def records() -> Iterator[Any]:
        problem = desk.problem(text)
        if isinstance(desk.engine.bank, Overlay):
            desk.engine.bank.check_room()
        engine = yield from ready_engine(desk, settings)
        yield from engine.distil(problem, keep=keep)

    return exclusively(desk, records())


def nearest_examples(desk: Desk, problem: Problem, n: int) -> list[str]:
    """The texts of the examples most similar to a problem by sentence embedding, itself left out."""
    def key(one: Problem) -> Any:
        return desk.engine.key(one, "input")

    with desk.keys_lock:
        for text, example in desk.examples.items():
            if text not in desk.example_keys:
                desk.example_keys[text] = key(example)
        mine = key(problem)
        others = [t for t in desk.examples if t != problem.text.strip()]
        return sorted(others, key=lambda t: -float(desk.example_keys[t] @ mine))[:n]


def star_of(engine: Engine, problem: Problem) -> Star:
    """A problem's place on the map and its five nearest memories. The engine must be ready."""
    kind = engine.settings.key
    return Star(problem.text, kind, engine.key(problem, kind), engine.search(problem, 5).hits)


def tried(desk: Desk, r: Receipt) -> MemoryInfo | None:
    """What the bank knows of the memory that was tried for an answer; None without one, or when it is gone."""
    return attempt(lambda: desk.engine.bank.info(r.used.memory_id))[0] if r.used is not None else None  # type: ignore[union-attr]


def attempt(action: Callable[[], Any]) -> tuple[Any, str]:
    """(result, "") of a short action, or (None, one sentence)."""
    try:
        return action(), ""
    except LatentmemError as e:
        return None, str(e)
    except Exception:
        log.exception("an action failed")
        return None, SORRY
