"""One long action of a visitor: a thread feeds the engine's stream into a scene, and pages watch
the scene. A run survives a reload of its page for a while, and the reloaded page watches it again.
"""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import inf
from typing import Any

from ..engine.run_state import Scene
from ..records import Hit, LatentmemError

log = logging.getLogger(__name__)
REFRESH = 0.125  # seconds between two pictures of a run: eight a second
LOOK = 0.5  # seconds between a watcher's looks at `stop`
SORRY = (
    "Something went wrong inside latentmem; nothing was stored, and the details are in the "
    "server's log."
)


@dataclass(eq=False)
class Run:
    """`stop` is set by the Stop button, by a newer run, and when the visitor leaves. Draw the scene
    under `lock`."""

    stop: threading.Event = field(default_factory=threading.Event)
    # what its records are folded into: a Scene, or what the panel has in its place
    scene: Any = field(default_factory=Scene)
    error: str = ""
    asked: Any = None  # the panel's record of what the press asked; None before a press
    near: tuple[Hit, ...] = ()  # the memories nearest to the answered problem
    before: Run | None = None  # what the page returns to if this one never has its turn
    refusal: str = ""  # why a later press was refused while this run is shown
    away: bool = False  # the visitor followed a link to another problem
    patience: float = 0.0  # seconds for which it continues when nobody watches
    lock: threading.Condition = field(default_factory=threading.Condition)
    begun: bool = False
    done: bool = False
    news: int = 0  # records so far
    urgent: bool = False
    watching: set[object] = field(default_factory=set)
    unwatched: float = inf  # when the last watcher left
    thread: threading.Thread | None = None

    @property
    def busy(self) -> bool:
        """Whether it has begun and neither ended nor been stopped."""
        return self.begun and not self.done and not self.stop.is_set()

    @property
    def pressed(self) -> bool:
        """Whether its button was pressed and it has not begun: it waits in gradio's queue, or did
        when its page was closed."""
        return self.asked is not None and not (
            self.begun or self.done or self.stop.is_set() or self._given_up()
        )

    def end(self) -> None:
        """Tells it to stop; its watchers stop at once."""
        with self.lock:
            self.stop.set()
            self.lock.notify_all()

    def forsake(self) -> None:
        """The visitor's page is gone, whether or not its stream was closed."""
        with self.lock:
            self.watching.clear()
            self.unwatched = time.monotonic()

    def _given_up(self) -> bool:
        return not self.watching and time.monotonic() - self.unwatched > self.patience


def follow(
    records: Iterator[Any],
    run: Run,
    finish: Callable[[], None] | None = None,
    refresh: float | None = None,
    beat: float = inf,
) -> Iterator[None]:
    """Feeds a stream into `run.scene` and yields when the page should be drawn again.

    Ends when the stream does, when `run.stop` is set, or with `run.error` set to one sentence. The
    stream is always closed, so that the engine stops when the visitor stops looking. `finish` is
    called at a good end, also when nobody watches.
    """
    run.begun, run.unwatched = True, time.monotonic()
    run.watching.add(records)
    around = contextvars.copy_context()
    run.thread = threading.Thread(
        target=around.run, args=(_pump, records, run, finish), daemon=True, name="latentmem-run"
    )
    run.thread.start()
    yield from watch(run, records, refresh, seen=0, beat=beat)


def watch(
    run: Run,
    who: object = None,
    refresh: float | None = None,
    seen: int | None = None,
    beat: float = inf,
) -> Iterator[None]:
    """Yields when the page of a run should be drawn again, until it has ended or was stopped.

    `seen`: the records that the page shows already; by default all so far. `beat`: seconds after
    which it yields without news, too: gradio cancels a generator only between two of its yields.
    """
    who = object() if who is None else who
    refresh = REFRESH if refresh is None else refresh
    seen, drawn = run.news if seen is None else seen, 0.0
    try:
        with run.lock:
            run.watching.add(who)
        while True:
            with run.lock:
                while not (
                    run.done
                    or run.stop.is_set()
                    or run.news != seen
                    or time.monotonic() - drawn > beat
                ):
                    run.lock.wait(LOOK)
                pause = refresh - (time.monotonic() - drawn)
                if pause > 0:
                    run.lock.wait_for(lambda: run.done or run.urgent or run.stop.is_set(), pause)
                if run.done or run.stop.is_set():
                    return
                seen, run.urgent = run.news, False
            yield
            drawn = time.monotonic()
    finally:
        with run.lock:
            if who in run.watching:
                run.watching.discard(who)
                run.unwatched = time.monotonic()


def _pump(records: Iterator[Any], run: Run, finish: Callable[[], None] | None) -> None:
    error, ended = "", False
    try:
        for record in records:
            with run.lock:
                run.urgent |= run.scene.add(record)
                run.news += 1
                run.lock.notify_all()
            if run.stop.is_set() or run._given_up():
                break
        else:
            ended = not run.stop.is_set()
    except LatentmemError as e:
        error = str(e)
    except Exception:
        log.exception("a run failed")
        error = SORRY
    finally:
        close = getattr(records, "close", None)
        if close is not None:
            close()
        if ended and finish is not None:
            try:
                finish()
            except Exception:
                log.exception("the end of a run failed")
        with run.lock:
            run.error = error or run.error
            run.scene.stopped = not ended
            run.done = True
            run.lock.notify_all()
