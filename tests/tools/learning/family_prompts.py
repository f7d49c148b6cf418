"""A soft prompt for each of some families, distilled from a context of own attempts: the memory has
the product's form, and it starts as the first words of an own winning attempt."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from latentmem.model.language_model import LanguageModel
from tests.tools.learning import context, families, judge
from tests.tools.learning.figures import means, outcomes, summary, vote_curve, within
from tests.tools.learning.forms import SoftPrompt
from tests.tools.learning.store import Store, append

LEARNT = ("digits", "half", "groups")  # those in which the context gained most
TOKENS, MOST, BATCH, RATE, STEPS, WATCH = 20, 64, 8, 0.15, 12, 4
SYSTEMS = ("own", "deranged", "untrained")


def _path(results: Path, family: str) -> Path:
    return results / "memories" / f"family-{family}.safetensors"


def distil(base: LanguageModel, store: Store, family: str) -> None:
    """Train a family's soft prompt [virtual tokens, hidden]; keep it, and its start, as bfloat16."""
    problems = context.by_family(families.problems("learn"))[family]
    paid, taught = (store.traces(f"families-learn-{s}") for s in ("alone", "shown"))
    shown = context.attempts(problems, paid)
    items = [
        replace(
            item,
            trace=replace(item.trace, token_ids=item.trace.token_ids[:MOST]),
            states=item.states[:MOST],
        )
        for p in problems
        for item in context.items(base, p, context.in_context(shown)(p), paid[p.id], taught[p.id])
    ]
    learnt, watched = context.halves(items, 2)
    form = SoftPrompt(base, shown[0].traces[0].text.strip(), TOKENS)
    steps = context.train(base, form, learnt, rate=RATE, steps=STEPS, batch=BATCH)
    for log in chain([{"step": 0}], steps):
        if log["step"] % WATCH == 0:
            log["watched"] = context.apart(base, form, watched, 0.8)
        row = {"family": family, **{k: round(v, 5) for k, v in log.items()}}
        append(store.results / "training" / "family-prompts.jsonl", [row])
        print(row, flush=True)
    keep(form, _path(store.results, family))


def keep(form: SoftPrompt, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pair = {"soft_prompt": form.soft(), "start": form.start}
    save_file({k: v.detach().bfloat16().contiguous() for k, v in pair.items()}, path)


def prompt(results: Path, system: str, family: str) -> Tensor:
    """What a system puts in front of a family's problems: its own soft prompt, that of the next of
    the families, or its own as it was before training."""
    other = LEARNT[(LEARNT.index(family) + 1) % len(LEARNT)]
    with safe_open(_path(results, other if system == "deranged" else family), "pt") as file:
        return file.get_tensor("start" if system == "untrained" else "soft_prompt").float()


def ask(base: LanguageModel, store: Store, given: argparse.Namespace, limit: int) -> None:
    """Traces of a part's problems with each family's prompt."""
    problems = context.by_family(families.problems(given.part))
    with torch.no_grad():
        for family in LEARNT:
            store.sample(
                f"families-{given.part}-{given.system}", base,
                prompt(given.results, given.system, family), problems[family], given.traces,
                rows=given.rows, seed=given.seed, temperature=0.8, limit=limit,
            )  # fmt: skip


def report(results: Path, part: str) -> dict[str, Any]:
    """Own prompts against the model alone, deranged and untrained ones, on the same problems."""
    problems = [p for p in families.problems(part) if families.family(p) in LEARNT]
    found = {s: outcomes(results, f"families-{part}-{s}", problems) for s in (*SYSTEMS, "alone")}
    found = {s: rows for s, rows in found.items() if rows}
    asked = [p.id for p in problems if all(p.id in rows for rows in found.values())]
    found = {s: {p: rows[p] for p in asked} for s, rows in found.items()}
    right, lines = {s: means(rows) for s, rows in found.items()}, []
    for against in [s for s in ("alone", "deranged", "untrained") if s in found]:
        gaps = {p: right["own"][p] - right[against][p] for p in asked}
        low, high = within(gaps, lambda p: p.split("-")[0])
        told = {"against": against, "n": len(gaps), "estimate": fmean(gaps.values())}
        p = judge.p_value(right["own"], right[against])
        lines.append({**told, "low": low, "high": high, "p": p})
    for line, adjusted in zip(lines, judge.holm([line["p"] for line in lines]), strict=True):
        line["holm_p"] = adjusted
    told = {
        "part": part,
        "systems": {s: {**summary(r), "vote_curve": vote_curve(r)} for s, r in found.items()},
        "families": {s: _by_family(values, asked) for s, values in right.items()},
        "contrasts": lines,
    }
    path = results / f"families-{part}-prompts.json"
    path.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return told


def _by_family(values: dict[str, float], asked: Sequence[str]) -> dict[str, float]:
    return {f: fmean(values[p] for p in asked if p.startswith(f"{f}-")) for f in LEARNT}
