"""How cost grows: each series is one quantity against one size, measured in this process and
written as soon as it is done."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from ..records import LatentmemError, Status
from . import report, workloads
from .workloads import HITS, PROBLEMS, Workload

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
    """y against x. `limit`: what reading the weights once a step would allow, where that is the
    bound."""

    name: str
    title: str
    x_name: str
    y_name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    limit: tuple[float, ...] = ()
    note: str = ""
    settings: dict[str, Any] | None = None
    versions: dict[str, str] = field(default_factory=dict)


Point = tuple[float, float, float | None]  # x, y, limit
Parts = dict[str, Any]  # what series share: the loaded model, its bandwidth


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
    largest: int | None = None,
) -> Iterator[Status | Series]:
    """Measure series and merge each into `file`. `largest`: leave out sizes above it. Raises
    LatentmemError."""
    here, found = report.machine(), report.versions()
    settings, needed = (
        {**asdict(work), "repeats": repeats, "largest": largest},
        report.needed(found),
    )
    report.check_machine(file, "scale", here)
    there = report.read(file, "scale") if resume else {}
    parts: Parts = {}
    for name in names:
        if report.is_done(there, name, settings, needed):
            yield Status(f"{name}: already in {file}")
            continue
        measure, title, x_name, y_name, note = TABLE[name]
        sizes = [s for s in SIZES[name] if largest is None or s <= largest]
        points: list[Point] = []
        for i, size in enumerate(sizes):
            yield Status(f"{name}: {x_name} {size}", i, len(sizes))
            points.append(measure(work, size, repeats, parts))
        xs, ys, limits = zip(*points, strict=True) if points else ((), (), ())
        series = Series(
            name,
            title,
            x_name,
            y_name,
            xs,
            ys,
            () if None in limits else limits,
            note,
            settings,
            needed,
        )
        report.merge(file, "scale", [asdict(series)], list(SIZES), machine=here, versions=found)
        yield series


# ---------- Parts that series share.


def _model(work: Workload, parts: Parts) -> Any:
    if "model" not in parts:
        parts["model"] = workloads.language_model(work)
        workloads.speed(
            workloads.scripted(parts["model"], min(16, work.tokens), 1),
            _jobs(parts["model"], 1),
            work,
        )  # warms up
    return parts["model"]


def bandwidth(device: Any) -> float:
    """Bytes a second that this device reads, from the sum of a large tensor."""
    import torch

    large = torch.ones(2**27 if device.type == "cuda" else 2**25, device=device)
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        float(large.sum())
        best = min(best, time.perf_counter() - began)
    return large.nbytes / best


def _limit(model: Any, rows: int, parts: Parts) -> float:
    """Tokens a second if a decode step cost no more than reading all weights once."""
    if "bandwidth" not in parts:
        parts["bandwidth"] = bandwidth(model.body.device)
    body = model.body
    linears = [body.head, *(m for w in body.layers for m in (w.qkv, w.out, w.gate_up, w.down))]
    return rows * parts["bandwidth"] / sum(m.read for m in linears)


def _jobs(model: Any, rows: int) -> list[Any]:
    from ..method.rollouts import Job

    return [Job(PROBLEMS[0], rows)]


def _median(run: Callable[[], float], repeats: int) -> float:
    return median(run() for _ in range(repeats))


# ---------- One point of each series.


def rollouts_batch(work: Workload, size: int, repeats: int, parts: Parts) -> Point:
    model = _model(work, parts)
    fixed = workloads.scripted(model, work.tokens, size)
    return (
        size,
        _median(lambda: workloads.speed(fixed, _jobs(model, size), work), repeats),
        _limit(model, size, parts),
    )


def rollouts_length(work: Workload, size: int, repeats: int, parts: Parts) -> Point:
    model = _model(work, parts)
    fixed, longer = workloads.scripted(model, size, work.rollouts), replace(work, tokens=size)
    speed = _median(lambda: workloads.speed(fixed, _jobs(model, work.rollouts), longer), repeats)
    return size, speed, _limit(model, work.rollouts, parts)


def distil_steps(work: Workload, size: int, repeats: int, parts: Parts) -> Point:
    model = _model(work, parts)
    return size, _median(lambda: workloads.seconds(model, work, 1, size), repeats), None


def distil_tokens(work: Workload, size: int, repeats: int, parts: Parts) -> Point:
    model, longer = _model(work, parts), replace(work, tokens=size)
    return size, _median(lambda: workloads.seconds(model, longer, 1, 1), repeats), None


def distil_memories(work: Workload, size: int, repeats: int, parts: Parts) -> Point:
    """Whole memories a minute; two lengths of training tell the cost of a step from that of the
    final check."""
    model = _model(work, parts)

    def minutes() -> float:
        one, more = (workloads.seconds(model, work, size, steps) for steps in (1, 2))
        step = max(more - one, one / 4)
        return size * 60 / (one + step * (work.steps - 1))

    return size, _median(minutes, repeats), None


def search_size(work: Workload, size: int, repeats: int, parts: Parts) -> Point:
    """The bank of one series grows from size to size."""
    if "bank" not in parts or len(parts["bank"]) > size:
        parts["bank"] = workloads.filled(0, work.seed)
    bank = parts["bank"]
    workloads.extend(bank, workloads.unit_keys(size - len(bank), work.seed + len(bank)), len(bank))
    asked = workloads.unit_keys(work.queries, work.seed + 1)
    bank.search(asked[0], k=HITS)
    return (
        size,
        _median(
            lambda: workloads.p95([lambda q=q: bank.search(q, k=HITS) for q in asked]), repeats
        ),
        None,
    )


def routing_k(work: Workload, size: int, repeats: int, parts: Parts) -> Point:
    """What an answer costs beyond its rollouts: the search for k memories, and the choice between
    two votes."""
    from ..method.routing import route
    from ..records import Cluster, Vote

    if "routed" not in parts:
        parts["routed"] = workloads.filled(min(ROUTED, work.memories), work.seed)
    bank = parts["routed"]
    asked = workloads.unit_keys(work.queries, work.seed + 1)
    alone, helped = (
        Vote((Cluster(a, (0, 1, 2, 3, 4)),), 8, 5, side=side)  # type: ignore[arg-type]
        for a, side in (("1", "zero_shot"), ("2", "memory"))
    )
    bank.search(asked[0], k=size)

    def once(query: Any) -> None:
        bank.search(query, k=size)
        route(
            alone, helped, {"zero_shot": 0.4, "memory": 0.6}, verifier="vote_share", skip_reason=""
        )

    return size, _median(lambda: workloads.p95([lambda q=q: once(q) for q in asked]), repeats), None


READING = (
    "the dotted line is what reading all weights once a step would allow, at the speed "
    "this device reads memory"
)
TABLE: dict[str, tuple[Callable[[Workload, int, int, Parts], Point], str, str, str, str]] = {
    "rollouts-batch": (rollouts_batch, "Rollouts against batch size", "rows", "tokens/s", READING),
    "rollouts-length": (
        rollouts_length,
        "Rollouts against length",
        "tokens a rollout",
        "tokens/s",
        READING,
    ),
    "distil-steps": (distil_steps, "Distillation against steps", "steps", "s", workloads.FINAL),
    "distil-tokens": (
        distil_tokens,
        "Distillation against length, one step",
        "tokens a rollout",
        "s",
        workloads.FINAL,
    ),
    "distil-memories": (
        distil_memories,
        "Memories in one batch",
        "memories at once",
        "memories/minute",
        "extrapolated to whole memories from one and two steps",
    ),
    "search-size": (search_size, "Search against bank size, p95", "memories", "ms", ""),
    "routing-k": (
        routing_k,
        "Search and routing against k, p95",
        "k",
        "ms",
        "in a bank of 10,000 or fewer",
    ),
}
