"""What a fake engine's bank is filled with: a history of use, a model too small to load, and very
many memories."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from functools import cache
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np

from latentmem.bank import Bank
from latentmem.bank import notes as bank_notes
from latentmem.records import Cluster, Event, Memory, Problem, Step, Trace, Vote

WORDS = (
    "the and of to step check box solve answer number add so first each total price left half "
    "think careful".split()
)
THINGS = {  # family: what its problems are about
    "change": ("pens", "notebooks", "rulers", "crayons", "stickers"),
    "distance": ("train", "lorry", "cyclist", "tram", "walker"),
    "sharing": ("biscuits", "marbles", "sweets", "shells", "stamps"),
    "ages": ("sister", "uncle", "grandmother", "cousin", "twin"),
    "area": ("garden", "carpet", "window", "court", "field"),
    "work": ("painter", "printer", "pump", "tractor", "baker"),
    "mixture": ("juice", "alloy", "syrup", "paint", "brine"),
    "equation": ("taxi", "plumber", "gym", "phone", "locksmith"),
    "fractions": ("pizza", "tank", "rope", "book", "cake"),
    "percent": ("discount", "salary", "interest", "tip", "tax"),
    "probability": ("dice", "coins", "cards", "balls", "socks"),
    "sequence": ("tiles", "matches", "seats", "steps", "bricks"),
}


@cache
def fake_model(hidden: int, fingerprint: str) -> Any:
    """As much of a LanguageModel as `latentmem.model.vocabulary` asks for."""
    import torch

    table = torch.from_numpy(
        np.random.default_rng(3).normal(size=(40 * len(WORDS), hidden)).astype(np.float32)
    )
    body = SimpleNamespace(
        embedding=table, head=SimpleNamespace(weight=table, bias=None), norm=table[0], layers=()
    )

    def spelled(text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [len(word) for word in text.split()]}

    tokenizer = Mock(side_effect=spelled, decode=lambda ids: " " + WORDS[ids[0] % len(WORDS)])
    return SimpleNamespace(
        name="fake-model",
        fingerprint=fingerprint,
        body=body,
        tokenizer=tokenizer,
        text_prompt=lambda text, tokens: table[:tokens],
        layer_scale=lambda: torch.tensor([0.1, 0.2, 0.2])[:, None, None],
    )


def history(bank: Bank) -> None:
    """A month in the life of a bank: memories are looked up, tried, helped and hurt; a few have
    tags and notes."""
    rng, start = random.Random(7), datetime(2026, 1, 3, 9, tzinfo=UTC)
    infos, events = bank.infos(), []
    asked = [i.problem.text for i in infos]
    for n in range(12 * len(infos)):
        i = infos[min(int(rng.expovariate(0.08)), len(infos) - 1)]
        at = (start + timedelta(hours=rng.triangular(0, 700, 600))).isoformat()
        text = rng.choice(asked)
        ids = {"problem_id": Problem(text).id, "receipt_id": f"r{n:016x}"[:17], "created": at}
        events.append(Event(i.id, "retrieved", **ids, id=f"h{n}"))
        if rng.random() < 0.7:
            events.append(Event(i.id, "used", **ids, id=f"u{n}"))
            verdict = rng.choices(["helped", "hurt", None], [3, 1, 4])[0]
            if verdict:
                events.append(Event(i.id, verdict, **ids, detail={"problem": text}, id=f"v{n}"))  # type: ignore[arg-type]
    bank.record_all(events)
    for n, i in enumerate(infos[:24]):
        bank_notes.tag(bank, [i.id], ("keep", "unsure", "teach first")[n % 3])
    if infos:
        bank_notes.add_note(
            bank, infos[0].id, "Its traces all use the same shortcut: compare with the longer ones."
        )
        bank.quarantine(infos[-1].id, "hurt twice")


def problem_text(n: int) -> tuple[str, str]:
    """(text, family) of the n-th of very many problems."""
    rng = random.Random(n)
    family = list(THINGS)[n % len(THINGS)]
    a, b, c = rng.randint(2, 40), rng.randint(2, 12), rng.randint(1, 9)
    thing, other = rng.sample(THINGS[family], 2)
    return rng.choice(
        (
            f"In a problem of {family} number {n}, the {thing} counts {a} and the {other} {b} "
            f"times as many; {c} are gone. How many?",
            f"How does the {family} of {a} {thing} and {b} {other} change after {c} days, asks "
            f"number {n}?",
        )
    ), family


def many(engine: Any, path: str, n: int, batch: int = 1000) -> Bank:
    """A bank of n memories in a file; what is already there stays, so that filling goes on after a
    stop."""
    bank = Bank(path)
    for start in range(len(bank) // batch * batch, n, batch):
        bank.put_all([_one(engine, i) for i in range(start, min(start + batch, n))])
    return bank


def _one(engine: Any, n: int) -> Memory:
    text, family = problem_text(n)
    rng = random.Random(n)
    problem, agreed = Problem(text, source=f"many/{family}"), rng.randint(3, 8)
    votes = (Cluster(str(n % 97), tuple(range(agreed))),) + (
        (Cluster("0", tuple(range(agreed, 8))),) if agreed < 8 else ()
    )
    step = Step(
        1,
        1,
        str(n % 97),
        agreed / 8,
        (1.0,) * agreed,
        0.1,
        0.5,
        0.01,
        1.0,
        120.0,
        0.5,
        960,
        1.0,
        1.0,
        problem.id,
    )
    prompt = np.random.default_rng(n).normal(size=(2, 8)).astype(np.float32)
    keys = {kind: engine.key(problem, kind) for kind in ("input", "kv")}
    at = (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=n)).isoformat()
    trace = Trace(0, f"It is \\boxed{{{n % 97}}}.", str(n % 97), True, 12)
    return Memory(
        problem,
        prompt,
        keys,
        "f" * 64,
        "fake-model",
        Vote(votes, 8, 8),
        (trace,),
        (step,),
        1,
        {"steps": 1},
        at,
    )
