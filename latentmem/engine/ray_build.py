"""A build on many workers, through Ray (the extra `ray`). The driver, this process, alone writes to
the bank and to the journal; a worker holds one model and sends what it makes as bytes.

What a worker was at when it died is given to another one. What has its Outcome is in the bank, or
in the journal, and is not given out again, not even to the next driver.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..bank import Bank
from ..bank.serialization import Packed, pack, unpack
from ..records import LatentmemError, Problem, Record, Status, Step, from_json, to_json
from ..settings import Settings
from .build import Ledger, Outcome, Turn, build
from .engine import Engine

MOST_DEATHS = 5  # of workers, one after the other, with no Outcome in between
STORE = 128 << 20  # bytes of Ray's shared memory; a memory takes some 100 KB
KINDS: dict[str, Any] = {kind.__name__: kind for kind in (Turn, Step, Outcome)}
# A record's kind and JSON, and the members of the Packed memory of an Outcome that has one.
Message = tuple[str, str, tuple[Any, ...] | None]
Make = Callable[[Settings], Engine]


@dataclass(frozen=True)
class Crew:
    """How many workers, the threads of each, and how many problems one learns from together."""

    workers: int = 2
    threads: int = 1
    batch: int = 1


class Worker:
    """In a process of its own: one model, and a bank in memory for what it has just made."""

    def __init__(self, make: Make, settings: dict[str, Any], threads: int) -> None:
        self._make, self._settings, self._threads = make, settings, threads

    @cached_property
    def engine(self) -> Engine:
        """Made by the first task: Ray tells an error there from a worker that died."""
        import torch

        torch.set_num_threads(self._threads)
        return self._make(Settings(**self._settings)).changed(on_bank=Bank(":memory:"))

    def learn(self, problems: Sequence[str]) -> Iterator[Message]:
        """Learn from a batch of problems, each one JSON."""
        bank, batch = self.engine.bank, [from_json(Problem, one) for one in problems]
        for record in build(self.engine, batch, batch=len(batch)):
            if not isinstance(record, Turn | Step | Outcome):
                continue
            packed = None
            if isinstance(record, Outcome) and record.memory:
                one = pack(bank.get(record.memory))
                packed = one.id, dict(one.parts), dict(one.keys), one.digest
                bank.delete(record.memory)
            yield type(record).__name__, to_json(record), packed


def parallel(
    engine: Engine,
    problems: Sequence[Problem],
    crew: Crew,
    *,
    make: Make = Engine,
    journal: Path | None = None,
) -> Iterator[Record | Turn | Outcome]:
    """`build` on the workers of a crew: of the engine's records only the Steps, since the others do
    not say which problem they belong to. `make` makes a worker's engine.

    The workers run on this machine, or on the cluster that RAY_ADDRESS names. Raises
    LatentmemError; the same call then goes on where it ended.
    """
    ray = _ray()
    model = yield from engine.fetch()
    ledger = Ledger(engine.bank, engine.settings, model, journal)
    todo: list[Problem] = []
    for problem in problems:
        if before := ledger.outcome(problem):
            yield before
        else:
            todo.append(problem)
    if not todo:
        return
    yield Status(f"Starting Ray with {crew.workers} workers")
    with _cluster(ray, crew), _Driver(ray, ledger, crew, make) as driver:
        yield from driver.run(todo)


def _ray() -> Any:
    """The package. Raises LatentmemError if it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its makers
    try:
        import ray
    except ImportError:
        raise LatentmemError(
            'The engine ray needs the package ray: pip install -e ".[ray]", or leave out '
            "--engine to learn in this process."
        ) from None
    return ray


@contextmanager
def _cluster(ray: Any, crew: Crew) -> Iterator[None]:
    """Connected to the cluster of RAY_ADDRESS, or to one on this machine that ends with this
    process."""
    how: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    address = os.environ.get("RAY_ADDRESS", "")
    if not address:
        how |= {"num_cpus": crew.workers * crew.threads, "object_store_memory": STORE}
        how |= {"include_dashboard": False}
    try:
        ray.init(address=address or "local", **how)
    except Exception as e:  # of many kinds, a bare one for a machine that is too busy among them
        where = f"No Ray cluster answers at {address}" if address else "Ray does not start here"
        said = (str(e).strip() or type(e).__name__).splitlines()[0][:200].rstrip(".:")
        raise LatentmemError(
            f"{where} ({said}): check RAY_ADDRESS, or leave out --engine to learn in this process."
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


class _Driver:
    """The workers, what each is at, and what is left to do. Leaving it ends the workers."""

    def __init__(self, ray: Any, ledger: Ledger, crew: Crew, make: Make) -> None:
        self.ray, self.ledger, self.crew = ray, ledger, crew
        gpus = ray.cluster_resources().get("GPU", 0)
        gpus *= ledger.settings.device in ("auto", "cuda")
        share = int(min(1.0, gpus / crew.workers) * 1e4) / 1e4  # Ray counts in ten-thousandths
        self._actor = ray.remote(num_cpus=crew.threads, num_gpus=share)(Worker)
        self._given = make, ledger.settings.model_dump(mode="json"), crew.threads
        self._idle = [self._hire() for _ in range(crew.workers)]
        self._at: dict[Any, tuple[Any, list[Problem]]] = {}  # a stream -> (worker, its batch)
        self._left: deque[list[Problem]] = deque()
        self._deaths = 0

    def __enter__(self) -> _Driver:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in [*self._idle, *(worker for worker, _ in self._at.values())]:
            self.ray.kill(worker)

    def _hire(self) -> Any:
        return self._actor.remote(*self._given)

    def run(self, problems: Sequence[Problem]) -> Iterator[Record | Turn | Outcome]:
        """Every problem comes to its Outcome, in the order in which they end."""
        size = self.crew.batch
        self._left.extend(list(problems[i : i + size]) for i in range(0, len(problems), size))
        while self._left or self._at:
            while self._left and self._idle:
                self._give(self._idle.pop(), self._left.popleft())
            (stream,), _ = self.ray.wait(list(self._at), num_returns=1)
            yield from self._next(stream)

    def _give(self, worker: Any, batch: list[Problem]) -> None:
        task = worker.learn.options(num_returns="streaming")
        self._at[task.remote([to_json(problem) for problem in batch])] = worker, batch

    def _next(self, stream: Any) -> Iterator[Record | Turn | Outcome]:
        """The next record of a worker, or its end."""
        errors, batch = self.ray.exceptions, self._at[stream][1]
        try:
            message = self.ray.get(next(stream))
        except StopIteration:
            assert not batch, "a worker ended before its batch"
            self._idle.append(self._at.pop(stream)[0])
        except errors.RayTaskError as e:
            raise e.cause if isinstance(e.cause, LatentmemError) else e from None
        except errors.RayError as e:
            yield self._bury(stream, str(e))
        else:
            yield self._take(message, batch)

    def _take(self, message: Message, batch: list[Problem]) -> Turn | Step | Outcome:
        """The record in a message. Once an Outcome is returned, what it says is on the disk."""
        kind, text, packed = message
        record: Turn | Step | Outcome = from_json(KINDS[kind], text)
        if isinstance(record, Outcome):
            if packed:
                self.ledger.bank.put(unpack(Packed(*packed)))
            self.ledger.add(record)
            batch[:] = [one for one in batch if one.id != record.problem.id]
            self._deaths = 0
        return record

    def _bury(self, stream: Any, why: str) -> Status:
        """Put another worker in the place of one that died; what it left comes last."""
        _, batch = self._at.pop(stream)
        self._deaths += 1
        if self._deaths > MOST_DEATHS:
            raise LatentmemError(
                f"{self._deaths} workers died one after the other, the last at {batch[0].id!r} "
                f"({why.splitlines()[0][:200]}): use fewer --workers or a smaller --batch, since "
                "most die for want of memory."
            )
        if batch:
            self._left.append(batch)
        self._idle.append(self._hire())
        return Status("A worker died: another one takes its place")
