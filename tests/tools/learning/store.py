"""Rollouts on disk: every trace once, by system, problem and row; a killed run goes on where it
was."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentmem.method.answers import same_answer
from latentmem.method.rollouts import Job, sample
from latentmem.model.language_model import LanguageModel
from latentmem.records import Problem, Trace
from tests.tools.learning.value import Means

MARKS = 20  # tokens between two marks of a trace's mean hidden state


def append(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Add lines to a JSONL file, in one write."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read(path: Path) -> list[dict[str, Any]]:
    """All whole lines of a JSONL file; nothing where there is none."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


class Store:
    """Traces in `work` (with token ids, large), their outcomes in `results` (small, committed)."""

    def __init__(self, work: Path, results: Path) -> None:
        self.work, self.results = work, results

    def traces(self, system: str) -> dict[str, list[Trace]]:
        """Problem id -> the system's traces, by row."""
        found: dict[str, dict[int, Trace]] = {}
        for r in read(self.work / f"{system}.jsonl"):
            trace = Trace(
                r["row"],
                r["text"],
                r["answer"],
                r["finished"],
                len(r["ids"]),
                token_ids=tuple(r["ids"]),
                entropy=r["entropy"],
            )
            found.setdefault(r["problem"], {})[trace.row] = trace
        return {p: [rows[i] for i in sorted(rows)] for p, rows in found.items()}

    def keep(self, system: str, problem: Problem, traces: Sequence[Trace]) -> None:
        append(
            self.work / f"{system}.jsonl",
            [
                {
                    "problem": problem.id,
                    "row": t.row,
                    "text": t.text,
                    "answer": t.answer,
                    "finished": t.finished,
                    "entropy": t.entropy,
                    "certainty": t.self_certainty,
                    "ids": list(t.token_ids),
                }
                for t in traces
            ],
        )
        append(
            self.results / "outcomes" / f"{system}.jsonl",
            [
                {
                    "problem": problem.id,
                    "row": t.row,
                    "answer": t.answer,
                    "right": right(problem, t),
                    "finished": t.finished,
                    "tokens": t.tokens,
                    "entropy": round(t.entropy or 0.0, 4),
                    "certainty": round(t.self_certainty or 0.0, 4),
                }
                for t in traces
            ],
        )

    def sample(
        self,
        system: str,
        model: LanguageModel,
        soft: Tensor | None,
        problems: Sequence[Problem],
        traces: int,
        *,
        rows: int,
        seed: int,
        temperature: float,
        limit: int,
        first: int = 0,
        stop_at_box: bool = True,
        chat: Callable[[Problem], list[dict[str, str]]] | None = None,
    ) -> dict[str, list[Trace]]:
        """`traces` traces of each problem, the missing ones sampled in batches of `rows`; all of
        these problems'. `chat`: the messages that ask for a problem, if not the usual ones."""
        have = self.traces(system)
        missing = [p for p in problems if len(have.get(p.id, ())) < traces]
        missing.sort(key=lambda p: len(p.text))
        each = max(1, rows // traces)
        for at in range(0, len(missing), each):
            batch, began = missing[at : at + each], time.perf_counter()
            jobs = [
                Job(p, traces, soft, first=first, messages=chat(p) if chat else None) for p in batch
            ]
            groups: list[list[Trace]] = [[] for _ in jobs]
            means = Means(len(batch) * traces, model.hidden, MARKS)
            for job, record in sample(
                model,
                jobs,
                seed=seed,
                temperature=temperature,
                max_new_tokens=limit,
                stop_at_box=stop_at_box,
                watch=means,
            ):
                if isinstance(record, Trace):
                    groups[job].append(record)
            for i, problem in enumerate(batch):
                keep_means(
                    means,
                    self.work / "means" / system / f"{problem.id}.npz",
                    range(i * traces, (i + 1) * traces),
                )
            for problem, group in zip(batch, groups, strict=True):
                self.keep(system, problem, sorted(group, key=lambda t: t.row))
            tokens, took = sum(t.tokens for g in groups for t in g), time.perf_counter() - began
            done = f"{system} {at + len(batch)}/{len(missing)} {tokens} tokens"
            print(f"{done} {took:.0f} s {tokens / took:.0f} tokens/s", flush=True)
        have = self.traces(system)
        return {p.id: have[p.id] for p in problems}


def keep_means(means: Means, path: Path, rows: range) -> None:
    """`ends` [rows, hidden], and of each row the means after every so many tokens, `marks{row}`
    [marks, hidden]."""
    path.parent.mkdir(parents=True, exist_ok=True)
    marks = {
        f"marks{i}": torch.stack(means.marks[row]).half().numpy()
        for i, row in enumerate(rows)
        if means.marks[row]
    }
    np.savez(path, ends=means.ends[rows.start : rows.stop].half().numpy(), **marks)


def right(problem: Problem, trace: Trace) -> bool:
    """Finished with a box that holds the truth."""
    return bool(
        trace.votes and problem.answer is not None and same_answer(problem.answer, trace.answer)
    )
