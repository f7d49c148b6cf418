"""Where the time goes: the operations of a batch of rollouts and of the gradient step on it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..records import Status, Trace
from . import report, workloads
from .workloads import PROBLEMS, SHARE, Workload

SHOWN = 8  # operations of each part


@dataclass(frozen=True)
class Part:
    """One piece of work. `operations`: name -> the processor's seconds, the largest first."""

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
    import torch

    from ..method.grpo import RolloutGroup, advantages, policy_gradient
    from ..method.rollouts import Job

    here, found = report.machine(), report.versions()
    report.check_machine(file, "profile", here)
    model = workloads.language_model(work)
    soft = model.text_prompt(work.init_text, work.virtual_tokens)
    jobs = [Job(PROBLEMS[0], work.rollouts, soft, "memory", 1)]
    workloads.warm_up(model, jobs, work)
    traces: list[Trace] = []

    def rollouts() -> None:
        fixed = workloads.scripted(model, work.tokens, work.rollouts)
        traces[:] = sorted(workloads.traces(fixed, jobs, work), key=lambda t: t.row)

    def step() -> None:
        rewards = [float(i < SHARE * work.rollouts) for i in range(work.rollouts)]
        prompt = torch.nn.Parameter(soft.clone())
        group = RolloutGroup(PROBLEMS[0], prompt, traces, advantages(rewards))
        for _ in policy_gradient(model, [group], work.temperature):
            pass

    made = []
    for name, title, call in (("rollouts", "Rollouts", rollouts), ("step", "Gradient step", step)):
        yield Status(title, len(made), 2)
        figures = _profiled(call)
        made.append(Part(name, title, *figures, asdict(work), report.needed(found)))
        yield made[-1]
    # Not merged: the parts of an earlier run would stay.
    report.save(file, "profile", [asdict(p) for p in made], machine=here, versions=found)


def _profiled(call: Callable[[], Any]) -> tuple[float, float, dict[str, float]]:
    """Seconds, seconds of the processors, and those of the largest operations."""
    from torch.profiler import ProfilerActivity, profile

    began, used = time.perf_counter(), time.process_time()
    call()  # timed by itself: the profiler costs something
    seconds, cpu = time.perf_counter() - began, time.process_time() - used
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        call()
    spent = sorted(
        ((e.self_cpu_time_total / 1e6, e.key) for e in seen.key_averages()), reverse=True
    )
    return seconds, cpu, {key.removeprefix("aten::"): s for s, key in spent[:SHOWN]}
