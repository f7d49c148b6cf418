"""Loads the models beside the first visitor's reading, so that Solve need not wait for them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..records import LatentmemError, Status
from .runs import SORRY

if TYPE_CHECKING:
    from ..engine import Engine

log = logging.getLogger(__name__)
LOOK = 0.25  # seconds between two looks at the progress


class Warming:
    """One load for all visitors. After a failure the next who needs the models tries again."""

    def __init__(self) -> None:
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
            self._thread = threading.Thread(target=self._load, args=(engine,), daemon=True, name="latentmem-warming")
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

    def follow(self, engine: Engine) -> Iterator[Status]:
        """Progress until the engine is ready. Raises LatentmemError when it cannot be."""
        if engine.ready:
            return
        self.start(engine)
        told = None
        while self.busy:
            if self.status is not None and self.status != told:
                told = self.status
                yield told
            thread = self._thread
            if thread is not None:
                thread.join(LOOK)
        if self.error:
            raise LatentmemError(self.error)
        yield from engine.load()  # nothing to do, unless other models were asked for than those that were loading
