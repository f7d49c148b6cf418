"""The whole comparison at full size on one GPU, within a time.

For each training seed and each family a memory of each arm is distilled from a context of the
model's own attempts and asked about fresh problems, beside its controls. Stages run in the order of
their worth. One that begins when the time is over is left out, and a second call goes on where the
first one stopped. What has been sampled is written to `confirmation.json` at the end, in any case.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from latentmem.model.language_model import LanguageModel
from latentmem.model.weights import ensure
from latentmem.records import Problem
from latentmem.settings import Settings
from tests.tools.learning import context, families, judge
from tests.tools.learning.figures import Outcomes, means, outcomes, summary, vote_curve, within
from tests.tools.learning.forms import SoftPrompt
from tests.tools.learning.plan import Lesson
from tests.tools.learning.store import Store, append

LEARN, ASK = "many_learn", "many_ask"
SEEDS, STEPS, BATCH, RATE, TRACES, LIMIT = 3, 48, 16, 0.05, 8, 320
Parts = Mapping[str, Sequence[Problem]]  # by family
# Arm -> where its soft prompt starts: an own attempt's first words, or the product's text.
ARMS: dict[str, Callable[[Lesson], str]] = {
    "own": lambda shown: shown.traces[0].text.strip(),
    "init_text": lambda _: Settings().init_text,
}
CONTROLS = ("untrained", "deranged")  # of the first arm
AGAINST = {"zero_shot": "alone", "icl_raw": "icl_raw"}


class Run:
    """One call: the model, the files, the problems of a family, and when the time is over."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.base = LanguageModel.load(ensure(given.model), device="auto")
        self.store = Store(given.work, given.results)
        self.until = time.monotonic() + 60 * given.minutes
        self.rows, self.steps, self.seeds = given.rows, given.steps, range(given.seeds)
        names, some = list(families.FAMILIES)[: given.families], slice(given.most)
        self.learn, self.ask = (
            {f: context.by_family(families.problems(part))[f][some] for f in names}
            for part in (LEARN, ASK)
        )
        self.shown: dict[str, list[Lesson]] = {}

    def go(self) -> None:
        for name, stage in self.stages():
            if time.monotonic() > self.until:
                print(f"{name}: left out, the time is over", flush=True)
                continue
            began = time.monotonic()
            stage()
            print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)

    def stages(self) -> Iterator[tuple[str, Callable[[], Any]]]:
        yield "paid traces", lambda: self.sample("paid", self.learn, chat=None)
        yield "attempts", self.choose
        yield "taught traces", lambda: self.sample("taught", self.learn, chat=self.chats(3))
        yield "alone", lambda: self.sample("alone", self.ask, chat=None)
        for seed in self.seeds:
            for arm in ARMS:
                yield f"distil {arm} {seed}", lambda s=seed, a=arm: self.distil(a, s)
                yield f"ask {arm} {seed}", lambda s=seed, a=arm: self.asked(a, a, s)
                for control in CONTROLS if arm == "own" else ():
                    yield f"ask {control} {seed}", lambda s=seed, c=control: self.asked(c, "own", s)
            if seed == 0:
                yield "icl_raw", lambda: self.sample("icl_raw", self.ask, chat=self.chats(1))
                yield "teacher", lambda: self.sample("teacher", self.ask, chat=self.chats(3))

    def sample(
        self,
        system: str,
        parts: Parts,
        *,
        chat: Mapping[str, Callable[[Problem], context.Chat]] | None,
        soft: Callable[[str], Tensor] | None = None,
    ) -> None:
        """TRACES traces of each problem, kept under `gpu-SYSTEM`."""
        for family, problems in parts.items():
            if chat is None or family in chat:
                with torch.no_grad():
                    self.store.sample(
                        f"gpu-{system}", self.base, soft(family) if soft else None, problems,
                        TRACES, rows=self.rows, seed=0, temperature=0.8, limit=LIMIT,
                        chat=chat[family] if chat else None,
                    )  # fmt: skip

    def choose(self) -> None:
        """Each family's attempts for the context; a family without any is left out."""
        paid = self.store.traces("gpu-paid")
        found = {f: context.attempts(problems, paid) for f, problems in self.learn.items()}
        self.shown = {f: shown for f, shown in found.items() if shown}
        self.learn = {f: self.learn[f] for f in self.shown}
        self.ask = {f: self.ask[f] for f in self.shown}

    def chats(self, attempts: int) -> dict[str, Callable[[Problem], context.Chat]]:
        return {f: context.in_context(shown[:attempts]) for f, shown in self.shown.items()}

    def path(self, arm: str, family: str, seed: int) -> Path:
        return self.store.results / "memories" / f"gpu-{arm}-{family}-{seed}.safetensors"

    def distil(self, arm: str, seed: int) -> None:
        """Train the arm's soft prompt of every family; keep it, and its start, as bfloat16."""
        paid, taught = (self.store.traces(f"gpu-{s}") for s in ("paid", "taught"))
        for family, problems in self.learn.items():
            path, shown = self.path(arm, family, seed), self.shown[family]
            if path.exists():
                continue
            chat = context.in_context(shown)
            items = [
                replace(item, states=item.states.to(self.base.body.device))
                for p in problems
                for item in context.items(self.base, p, chat(p), paid[p.id], taught[p.id])
            ]
            form = SoftPrompt(self.base, ARMS[arm](shown[0]), Settings().virtual_tokens)
            steps = context.train(
                self.base, form, items, rate=RATE, steps=self.steps, batch=BATCH, seed=seed
            )
            for log in steps:
                row = {"arm": arm, "family": family, "seed": seed, **log}
                append(self.store.results / "training" / "gpu.jsonl", [row])
            path.parent.mkdir(parents=True, exist_ok=True)
            pair = {"soft_prompt": form.soft(), "start": form.start}
            save_file({k: v.detach().bfloat16().cpu().contiguous() for k, v in pair.items()}, path)

    def asked(self, system: str, arm: str, seed: int) -> None:
        """The asked problems with a family's own memory, its start, or the next family's memory."""
        names = list(self.learn)

        def soft(family: str) -> Tensor:
            at = (names.index(family) + (system == "deranged")) % len(names)
            part = "start" if system == "untrained" else "soft_prompt"
            tensor = load_file(self.path(arm, names[at], seed))[part]
            return tensor.float().to(self.base.body.device)

        self.sample(f"{system}-{seed}", self.ask, chat=None, soft=soft)


def confirmation(
    results: Path, model: str, seeds: Sequence[int], steps: int = STEPS
) -> dict[str, Any]:
    """Every arm of every seed against each control, by mean@8 and paired by problem."""
    problems = families.problems(ASK)
    alone, teacher = (outcomes(results, f"gpu-{s}", problems) for s in ("alone", "teacher"))
    lines, systems = [], {"alone": alone} | ({"teacher": teacher} if teacher else {})
    for seed in seeds:
        for arm in ARMS:
            found = outcomes(results, f"gpu-{arm}-{seed}", problems)
            others = {**AGAINST, **{c: f"{c}-{seed}" for c in CONTROLS}}
            for against, system in others.items() if found else ():
                rows = outcomes(results, f"gpu-{system}", problems)
                systems |= {f"{arm}-{seed}": found} | ({system: rows} if rows else {})
                if rows:
                    lines.append({"seed": seed, "system": arm, "against": against})
                    lines[-1] |= contrast(means(found), means(rows))
    for line, adjusted in zip(lines, judge.holm([one.pop("p") for one in lines]), strict=True):
        line |= {"dataset": ASK, "metric": f"mean@{TRACES}", "holm_p": adjusted}
    own = means(systems.get("own-0", alone))
    return {
        "recipe": {"steps": steps, "batch": BATCH, "rate": RATE, "start": "own attempt"},
        "model": model,
        "exchange_rate": exchange_rate(alone, own),
        "systems": {s: {**summary(r), "vote_curve": vote_curve(r)} for s, r in systems.items()},
        "contrasts": lines,
    }


def contrast(right: Mapping[str, float], other: Mapping[str, float]) -> dict[str, Any]:
    """The mean difference over the problems of both, its 95 % interval, and its p."""
    both = [p for p in right if p in other]
    gaps = {p: right[p] - other[p] for p in both}
    low, high = within(gaps, lambda p: p.split("-")[0])
    p = judge.p_value({p: right[p] for p in both}, {p: other[p] for p in both})
    return {"n": len(gaps), "estimate": fmean(gaps.values()), "low": low, "high": high, "p": p}


def exchange_rate(alone: Outcomes, own: Mapping[str, float]) -> int | None:
    """How many traces of the model alone must vote to be right as often as one trace with a memory;
    None: more than it has."""
    curve = vote_curve(alone) if alone else []
    wanted = fmean(own.values()) if own else 0.0
    return next((k for k, vote in enumerate(curve, 1) if vote >= wanted), None)


def run(given: argparse.Namespace) -> None:
    try:
        Run(given).go()
    finally:
        told = confirmation(given.results, given.model, range(given.seeds), given.steps)
        path = given.results.parent / "confirmation.json"
        path.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
        print(json.dumps(told["contrasts"], indent=1))
