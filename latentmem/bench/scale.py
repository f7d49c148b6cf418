"""How cost grows: each series is one quantity against one size, measured in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

from ..records import LatentmemError, Status
from . import report, workloads
from .workloads import FINAL, HITS, PROBLEMS, Workload

SIZES: dict[str, tuple[int, ...]] = {
    "rollouts-batch": (1, 2, 4, 8, 16, 32, 64),
    "rollouts-length": (50, 100, 200, 400),
    "distil-steps": (1, 2, 4),
    "distil-tokens": (50, 100, 200),
    "distil-memories": (1, 2, 4, 8),
    "search-size": (1_000, 10_000, 100_000, 1_000_000),
    "routing-k": (1, 4, 16, 64, 100),
}
ROUTED = 10_000  # memories in the bank that routing searches


@dataclass(frozen=True)
class Series:
    """y against x."""

    name: str
    title: str
    x_name: str
    y_name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    note: str = ""
    settings: dict[str, Any] | None = None
    versions: dict[str, str] = field(default_factory=dict)


def chosen(names: Sequence[str]) -> list[str]:
    """Series of these names, all when there are none. Raises LatentmemError for an unknown one."""
    for name in names:
        if name not in SIZES:
            raise LatentmemError(f"There is no series {name!r}: choose from {', '.join(SIZES)}.")
    return [name for name in SIZES if not names or name in names]


def run(
    names: Sequence[str],
    work: Workload,
    repeats: int,
    file: Path,
    *,
    resume: bool = False,
) -> Iterator[Status | Series]:
    """Measure series and merge each into `file`."""
    here, found = report.machine(), report.versions()
    settings = {**asdict(work), "repeats": repeats}
    needed = report.needed(found)
    report.check_machine(file, "scale", here)
    there = report.read(file, "scale") if resume else {}
    bench = Measured(work)
    for name in names:
        if report.is_done(there, name, settings, needed):
            yield Status(f"{name}: already in {file}")
            continue
        measure, title, x_name, y_name, note = TABLE[name]
        sizes, y = SIZES[name], []
        for i, size in enumerate(sizes):
            yield Status(f"{name}: {x_name} {size}", i, len(sizes))
            once = measure(bench, size)
            y.append(median(once() for _ in range(repeats)))
        made = Series(name, title, x_name, y_name, sizes, tuple(y), note, settings, needed)
        report.merge(file, "scale", [asdict(made)], list(SIZES), machine=here, versions=found)
        yield made


class Measured:
    """What series share: the model, loaded when it is first needed, and a bank. A method prepares
    one point of a series; what it returns measures it once."""

    def __init__(self, work: Workload) -> None:
        self.work, self.bank = work, workloads.filled(0, work.seed)

    @cached_property
    def model(self) -> Any:
        model = workloads.language_model(self.work)
        workloads.warm_up(model, self.jobs(1), self.work)
        return model

    def jobs(self, rows: int) -> list[Any]:
        from ..method.rollouts import Job

        return [Job(PROBLEMS[0], rows)]

    def rollouts(self, rows: int, tokens: int) -> Callable[[], float]:
        fixed = workloads.scripted(self.model, tokens, rows)
        longer = replace(self.work, tokens=tokens)
        return lambda: workloads.speed(fixed, self.jobs(rows), longer)

    def distil(self, memories: int, steps: int, tokens: int) -> Callable[[], float]:
        longer = replace(self.work, tokens=tokens)
        return lambda: workloads.seconds(self.model, longer, memories, steps)

    def memories(self, size: int) -> Callable[[], float]:
        """Whole memories a minute; two lengths of training tell the cost of a step from that of the
        final check."""

        def minutes() -> float:
            one, more = (self.distil(size, steps, self.work.tokens)() for steps in (1, 2))
            step = max(more - one, one / 4)
            return size * 60 / (one + step * (self.work.steps - 1))

        return minutes

    def search(self, size: int, k: int, after: Callable[[], Any] = lambda: None) -> Callable:
        """The bank grows from size to size."""
        work, bank = self.work, self.bank
        if len(bank) > size:
            bank = self.bank = workloads.filled(0, work.seed)
        more = workloads.unit_keys(size - len(bank), work.seed + len(bank))
        workloads.extend(bank, more, len(bank))
        asked = workloads.unit_keys(work.queries, work.seed + 1)
        bank.search(asked[0], k=k)
        return lambda: workloads.p95([lambda q=q: (bank.search(q, k=k), after()) for q in asked])

    def routing(self, k: int) -> Callable[[], float]:
        """The search for k memories, and the choice between two votes: an answer's other cost."""
        from ..method.routing import route
        from ..records import Cluster, Vote

        alone, helped = (
            Vote((Cluster(a, (0, 1, 2, 3, 4)),), 8, 5, side=side)  # type: ignore[arg-type]
            for a, side in (("1", "zero_shot"), ("2", "memory"))
        )
        scores = {"zero_shot": 0.4, "memory": 0.6}

        def choose() -> None:
            route(alone, helped, scores, verifier="vote_share", skip_reason="")

        return self.search(min(ROUTED, self.work.memories), k, choose)


WHOLE = "extrapolated to whole memories from one and two steps"
Prepare = Callable[[Measured, int], Callable[[], float]]
# name -> how a size is measured, title, name of x, name of y, note
TABLE: dict[str, tuple[Prepare, str, str, str, str]] = {
    "rollouts-batch": (
        lambda m, size: m.rollouts(size, m.work.tokens),
        "Rollouts against batch size",
        "rows",
        "tokens/s",
        "",
    ),
    "rollouts-length": (
        lambda m, size: m.rollouts(m.work.rollouts, size),
        "Rollouts against length",
        "tokens a rollout",
        "tokens/s",
        "",
    ),
    "distil-steps": (
        lambda m, size: m.distil(1, size, m.work.tokens),
        "Distillation against steps",
        "steps",
        "s",
        FINAL,
    ),
    "distil-tokens": (
        lambda m, size: m.distil(1, 1, size),
        "Distillation against length, one step",
        "tokens a rollout",
        "s",
        FINAL,
    ),
    "distil-memories": (
        Measured.memories,
        "Memories in one batch",
        "memories at once",
        "memories/minute",
        WHOLE,
    ),
    "search-size": (
        lambda m, size: m.search(size, HITS),
        "Search against bank size, p95",
        "memories",
        "ms",
        "",
    ),
    "routing-k": (
        Measured.routing,
        "Search and routing against k, p95",
        "k",
        "ms",
        "in a bank of 10,000 or fewer",
    ),
}
