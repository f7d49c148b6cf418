"""What engines share: models and banks, loaded once per process, with progress for a browser or a
terminal."""

from __future__ import annotations

import queue
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from ..bank import Bank
from ..records import Status, Trace, Vote

if TYPE_CHECKING:
    from ..method.retrieval import Embedder
    from ..model.language_model import LanguageModel
    from ..model.weights.cache import Weights

# ---------- The last votes of this process: distilling a solved problem does not sample it again.
# All draws are seeded. The last keys: whether a memory's key is its own is asked at each use.

Sampled = tuple[tuple[Trace, ...], Vote]
V = TypeVar("V")


class Recent(Generic[V]):
    """What made a result -> the result: the last of this process, which would come out the same
    again. Bounded, thread-safe."""

    def __init__(self, limit: int) -> None:
        self._limit, self._lock = limit, threading.Lock()
        self._kept: OrderedDict[Hashable, V] = OrderedDict()

    def get(self, made_by: Hashable) -> V | None:
        with self._lock:
            return self._kept.get(made_by)

    def put(self, made_by: Hashable, result: V) -> V:
        with self._lock:
            self._kept[made_by] = result
            while len(self._kept) > self._limit:
                self._kept.popitem(last=False)
        return result


def in_steps(work: Callable[[Callable[[Status], None]], Any]) -> Iterator[Status]:
    """Run `work(report)` in a thread and yield what it reports: a callback becomes a generator.

    Raises the exceptions of the work. If a consumer closes the generator, the thread finishes: a
    download that has begun is kept.
    """
    box: queue.Queue[Any] = queue.Queue()

    def run() -> None:
        try:
            work(box.put)
            box.put(None)
        except BaseException as error:
            box.put(error)

    threading.Thread(target=run, daemon=True, name="latentmem-load").start()
    while (item := box.get()) is not None:
        if isinstance(item, BaseException):
            raise item
        yield item


class Place(NamedTuple):
    """Which model, and where it runs."""

    model: str
    device: str = "auto"
    dtype: str = "auto"


class Loader:
    """Models and embedders, each loaded once. Thread-safe: a second caller waits for the first."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._models: dict[Place, LanguageModel] = {}
        self._embedders: dict[str, Embedder] = {}

    def has(self, place: Place, embedder: str) -> bool:
        return place in self._models and embedder in self._embedders

    def load(self, place: Place, embedder: str) -> Iterator[Status]:
        """Load both; yields Status on the way."""
        if not self.has(place, embedder):
            yield from in_steps(
                lambda report: (self.model(place, report), self.embedder(embedder, report))
            )

    def model(self, place: Place, report: Callable[[Status], None] | None = None) -> LanguageModel:
        from ..model.language_model import LanguageModel

        with self._lock:
            if place not in self._models:
                self._models[place] = LanguageModel.load(
                    self._weights(place.model, report), device=place.device, dtype=place.dtype
                )
            return self._models[place]

    def fetch(
        self, place: Place, embedder: str, report: Callable[[Status], None] | None = None
    ) -> str:
        """Have the weights of both in the cache and load neither: the fingerprint of the model."""
        from ..model.weights import ensure

        if self.has(place, embedder):
            return self._models[place].fingerprint
        ensure(embedder, report)
        return ensure(place.model, report).fingerprint

    def embedder(self, name: str, report: Callable[[Status], None] | None = None) -> Embedder:
        from ..method.retrieval import Embedder

        with self._lock:
            if name not in self._embedders:
                self._embedders[name] = Embedder.load(self._weights(name, report))
            return self._embedders[name]

    @staticmethod
    def _weights(name: str, report: Callable[[Status], None] | None) -> Weights:
        from ..model.weights import ensure

        weights = ensure(name, report)
        if report:
            report(Status(f"Loading {name} into memory"))
        return weights


class Shared:
    """What the copies of an engine (`Engine.changed`) share. Thread-safe."""

    def __init__(self) -> None:
        self.loader = Loader()
        self.votes, self.keys = Recent[Sampled](64), Recent[Any](512)
        self._lock = threading.Lock()
        self._banks: dict[Path, Bank] = {}

    def bank(self, path: Path) -> Bank:
        """The bank in that file, opened on first use."""
        with self._lock:
            if path not in self._banks:
                self._banks[path] = Bank(path)
            return self._banks[path]
