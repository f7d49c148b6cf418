"""Where the time goes: the operations of a batch of rollouts and of the gradient step on it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..records import Status, Trace
from . import report, workloads
from .workloads import PROBLEMS, SHARE, Workload

SHOWN = 8  # operations of each part


@dataclass(frozen=True)
class Part:
    """One piece of work. `operations`: name -> seconds of the processor in it, itself alone, the
    largest first."""

    name: str
    title: str
    seconds: float
    cpu_seconds: float
    operations: Mapping[str, float]
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


def run(work: Workload, file: Path) -> Iterator[Status | Part]:
    """Profile all parts and write them to `file`, in place of what it had. `tokens` a rollout and
    `rollouts` are those of the bench. Raises LatentmemError, before anything is measured, where
    the file is of another machine or no profile."""
    here, found = report.machine(), report.versions()
    report.check_machine(file, "profile", here)
    model = workloads.language_model(work)
    soft = workloads.soft_prompt(model, work)
    fixed = workloads.scripted(model, work.tokens, work.rollouts)
    workloads.speed(
        workloads.scripted(model, min(16, work.tokens), work.rollouts), _jobs(work, soft), work
    )  # warms up
    traces: list[Trace] = []

    def rollouts() -> None:
        traces[:] = _sampled(fixed, work, soft)

    plan: list[tuple[str, str, Callable[[], Any]]] = [
        ("rollouts", "Rollouts", rollouts),
        ("step", "Gradient step", lambda: _gradient(model, work, soft, traces)),
    ]
    made = []
    for i, (name, title, call) in enumerate(plan):
        yield Status(title, i, len(plan))
        made.append(_profiled(name, title, call, asdict(work), report.needed(found)))
        yield made[-1]
    # Not merged: the parts of an earlier run would stay.
    report.save(file, "profile", [asdict(p) for p in made], machine=here, versions=found)


def _jobs(work: Workload, soft: Any) -> list[Any]:
    from ..method.rollouts import Job

    return [Job(PROBLEMS[0], work.rollouts, soft, "memory", 1)]


def _sampled(fixed: Any, work: Workload, soft: Any) -> list[Trace]:
    from ..method.rollouts import sample

    records = sample(
        fixed,
        _jobs(work, soft),
        seed=work.seed,
        temperature=work.temperature,
        max_new_tokens=work.tokens,
    )
    return sorted((r for _, r in records if isinstance(r, Trace)), key=lambda t: t.row)


def _gradient(model: Any, work: Workload, soft: Any, traces: Sequence[Trace]) -> None:
    import torch

    from ..method.grpo import RolloutGroup, advantages, policy_gradient

    rewards = [float(i < SHARE * work.rollouts) for i in range(work.rollouts)]
    group = RolloutGroup(PROBLEMS[0], torch.nn.Parameter(soft.clone()), traces, advantages(rewards))
    for _ in policy_gradient(model, [group], work.temperature):
        pass


def _profiled(
    name: str,
    title: str,
    call: Callable[[], Any],
    settings: Mapping[str, Any],
    versions: Mapping[str, str],
) -> Part:
    from torch.profiler import ProfilerActivity, profile

    began, used = time.perf_counter(), time.process_time()
    call()  # timed by itself: the profiler costs something
    seconds, cpu = time.perf_counter() - began, time.process_time() - used
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        call()
    spent = sorted(
        ((e.self_cpu_time_total / 1e6, e.key) for e in seen.key_averages()), reverse=True
    )
    return Part(
        name,
        title,
        seconds,
        cpu,
        {key.removeprefix("aten::"): s for s, key in spent[:SHOWN]},
        settings,
        versions,
    )


def markdown(parts: Sequence[Mapping[str, Any]]) -> str:
    """One table a part."""
    out = []
    for part in parts:
        whole = sum(part["operations"].values()) or 1.0
        lines = [
            f"**{part['title']}**: {part['seconds']:.1f} s, {part['cpu_seconds']:.1f} s of the "
            "processors",
            "",
            "| operation | s | of those shown |",
            "|---|---|---|",
        ]
        lines += [f"| `{op}` | {s:.2f} | {s / whole:.0%} |" for op, s in part["operations"].items()]
        out.append("\n".join(lines))
    return "\n\n".join(out) + "\n"
