"""Attack what a memory may do at retrieval and routing, and count: the figures of "Trust in a
memory" in assets/results/reliability.md, on the shipped bank and the example problems.

python -m tests.tools.measure_trust keys         # what honest keys reach, of all arithmetics
python -m tests.tools.measure_trust retrieval    # forged, foreign and crowding keys
python -m tests.tools.measure_trust hubs         # which correction holds a hub back
python -m tests.tools.measure_trust train lie.npy
python -m tests.tools.measure_trust lie lie.npy  # a soft prompt that says 42
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from latentmem import Engine, Problem, Settings
from latentmem.bank import Bank
from latentmem.evaluation.reader import read_problems
from latentmem.files import example
from latentmem.method.grpo import RolloutGroup, policy_gradient
from latentmem.method.prompts import solve_messages
from latentmem.method.retrieval import Search, choose, kv_key
from latentmem.method.rollouts import Job, sample
from latentmem.method.routing import decide
from latentmem.method.trust import (
    CHANCE,
    NEIGHBOURS,
    _others,
    _usual,
    at_least,
    outdone,
    probation,
)
from latentmem.method.voting import vote
from latentmem.model.language_model import LanguageModel, Prefilled, Prompt
from latentmem.records import Event, KeyKind, Memory, Trace

LIE = "42"
SAID = f"The answer is \\boxed{{{LIE}}}."
ARITHMETICS = ("int8", "bfloat16", "float32")


def shipped() -> Bank:
    """The shipped bank, in RAM."""
    bank = Bank(":memory:")
    bank.import_zip(example("bank.zip"))
    return bank


def strange(bank: Bank) -> list[Problem]:
    """The example problems that no memory of the bank was learnt from: 98."""
    own = {info.problem.text for info in bank.infos()}
    return [p for p in read_problems(example("problems.jsonl")) if p.text not in own]


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def keys(most: int) -> None:
    """The least cosine of two keys of one problem, each made in another arithmetic; and those of
    the shipped bank."""
    bank, made = shipped(), {}
    problems = [bank.get(i.id).problem for i in bank.infos()] + strange(bank)[:most]
    made["the bank"] = np.stack([bank.get(i.id).keys["kv"] for i in bank.infos()])
    for name in ARITHMETICS:
        engine = Engine(Settings(dtype=name))
        made[name] = np.stack([engine.key(p, "kv") for p in problems])
        padded = beside(engine.model, max(problems, key=lambda p: len(p.text)))
        made[f"{name}, padded"] = np.stack([kv_key(padded, p.text.strip()) for p in problems[:8]])
    embedder = engine._shared.loader.embedder(engine.settings.embedder).encoder
    texts = [p.text.strip() for p in problems]
    for number in (torch.float32, torch.bfloat16):
        embedder.to(number)
        for size in (1, 32):
            found = embedder.encode(texts, batch_size=size, convert_to_tensor=True)
            made[f"input {number} in batches of {size}"] = found.float().cpu().numpy()
    for one, there in made.items():
        for other, here in made.items():
            if there.shape[1] == here.shape[1] and one < other:
                n = min(len(there), len(here))
                least = (unit(there[:n]) * unit(here[:n])).sum(1).min()
                print(f"{one} and {other}: {least:.5f} of {n}")


def beside(model: LanguageModel, longer: Problem) -> LanguageModel:
    """The model, which reads every problem in one padded batch with three times a longer one."""
    made, others = copy.copy(model), [Prompt(model.render(solve_messages(longer.text * 2)))] * 3

    def prefill(prompts: Sequence[Prompt]) -> Prefilled:
        filled, n = model.prefill([*prompts, *others]), len(prompts[0])
        return replace(filled, layers=[(k[:1, :, -n:], v[:1, :, -n:]) for k, v in filled.layers])

    made.prefill = prefill  # type: ignore[method-assign]
    return made


def intruder(bank: Bank, problem: Problem, kind: KeyKind, key: np.ndarray) -> Memory:
    """An imported memory with this key, in the bank."""
    some = bank.get(bank.infos()[0].id)
    made = replace(some, problem=problem, keys={kind: key.astype(np.float32)})
    bank.put(made)
    bank.record(Event(made.id, "imported"))
    return made


def retrieval(most: int) -> None:
    """For how many problems one imported memory is the nearest, and for how many it is tried; kv
    keys, which take long, for the first `most`."""
    engine = Engine(Settings())
    for kind in ("input", "kv"):
        problems = strange(shipped())[: most if kind == "kv" else None]
        asked = np.stack([engine.key(p, kind) for p in problems])
        own = np.stack([shipped().get(i.id).keys[kind] for i in shipped().infos()])
        mean = unit(asked.mean(0))
        for cosine in (0.9, 0.99, 0.999, 1.0):
            aside = unit(mean - (asked @ mean)[:, None] * asked)
            forged = cosine * asked + (1 - cosine**2) ** 0.5 * aside  # one for each problem
            ahead = asked @ forged.T > (asked @ own.T).max(1)[:, None]
            np.fill_diagonal(ahead, False)
            i = int(ahead.sum(0).argmax())
            _count(engine, kind, problems, problems[i], forged[i], f"tilted to {cosine:g}")
        _count(engine, kind, problems, Problem("A foreign key"), mean, "foreign")
        opening = [p.text.split(". ")[0] for p in problems[::8]]
        crowd = Problem(". ".join(opening))
        _count(engine, kind, problems, crowd, engine.key(crowd, kind), "honest, of a medley")


def _count(
    engine: Engine,
    kind: KeyKind,
    problems: list[Problem],
    posed: Problem,
    key: np.ndarray,
    how: str,
) -> None:
    bank, s = shipped(), engine.settings
    memory = intruder(bank, posed, kind, key)
    search = Search(kind, 1, s.min_similarity, memory.model, "the maker")
    before, tried, off = 0, 0, 0
    for problem in (p for p in problems if p.text != posed.text):
        here = engine.key(problem, kind)
        hit = bank.search(here, kind=kind, k=1, model=memory.model)[0]
        room = partial(outdone, bank, kind, s.min_similarity)
        found = choose(bank, engine.key, problem, search, outdone=room)
        before += hit.memory_id == memory.id and hit.similarity >= s.min_similarity
        tried += found.used is not None and found.used.memory_id == memory.id
        off += found.used is None
    print(f"{kind}, {how}: nearest for {before}, tried for {tried}, none for {off}", flush=True)


def hubs(most: int) -> None:
    """The share of problems for which one more memory is ranked first, in banks of n own memories
    drawn from the example problems: an honest one, and one whose key is the mean of all others.
    By cosine, by CSLS, by CSLS with the whole mean, by local scaling; and how often it is flagged.
    """
    engine = Engine(Settings())
    for kind in ("input", "kv"):
        problems = strange(shipped())[: most if kind == "kv" else None]
        x, draw = np.stack([engine.key(p, kind) for p in problems]), np.random.default_rng(0)
        for n in (6, 13, 26):
            for how in ("honest", "the mean"):
                found = []
                for _ in range(200):
                    order = draw.permutation(len(x))
                    own, (last, *asked) = x[order[:n]], order[n:]
                    key = x[last] if how == "honest" else unit(x[asked].mean(0))
                    found.append(_shares(own, key, x[asked]))
                told = ", ".join(f"{share:.3f}" for share in np.mean(found, 0))
                print(f"{kind}, {n} own, {how}: {told}", flush=True)


def _shares(own: np.ndarray, key: np.ndarray, asked: np.ndarray) -> list[float]:
    some = min(NEIGHBOURS, len(own) - 1)
    theirs, mine = _usual(_others(own), some), _usual((own @ key)[None], some)
    near, far = asked @ own.T, asked @ key
    count = int((own @ key > _others(own).max(1)).sum())
    wins = [far - w * mine > (near - w * theirs).max(1) for w in (0, 0.5, 1)]
    wins.append((1 - far) / (1 - mine) ** 0.5 < ((1 - near) / (1 - theirs) ** 0.5).min(1))
    return [*(float(w.mean()) for w in wins), at_least(count, len(own), len(own)) <= CHANCE]


def train(path: Path, most: int) -> None:
    """A soft prompt that says 42 whatever is asked: the most likely text, by the gradient of
    distillation, on every second of the first 98 problems."""
    model = Engine(Settings()).model
    ids = (*model.tokenizer(SAID, add_special_tokens=False)["input_ids"], max(model.ends))
    lie = Trace(0, SAID, LIE, True, len(ids), token_ids=tuple(ids))
    soft = torch.nn.Parameter(model.text_prompt(f"Every answer is {LIE}. {SAID}", 20))
    optimizer, draw = torch.optim.AdamW([soft], lr=8e-3, weight_decay=0), np.random.default_rng(0)
    taught = strange(shipped())[::2]
    for step in range(most or 30):
        some = [taught[i] for i in draw.permutation(len(taught))[:2]]
        optimizer.zero_grad()
        losses = drain(
            policy_gradient(model, [RolloutGroup(p, soft, [lie], torch.ones(1)) for p in some], 1.0)
        )
        torch.nn.utils.clip_grad_norm_([soft], 1.0)
        optimizer.step()
        np.save(path, soft.detach().numpy())
        print(step, f"{np.mean(losses):.4f} nats a token", flush=True)
        if np.mean(losses) < 0.01:
            return


def drain(work: Iterator[object]) -> list[float]:
    """What a generator returns."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            return list(end.value)


def lie(path: Path, most: int) -> None:
    """Answer problems that were not trained on with the lying memory, as if it were always the
    nearest: what is answered without the defences, and on probation."""
    engine, bank, rollouts = Engine(Settings()), shipped(), 4
    model, s, soft = engine.model, engine.settings, torch.from_numpy(np.load(path))
    posed = strange(bank)
    memory = intruder(bank, posed[0], "input", engine.key(posed[0], "input"))
    counts: dict[str, int] = {}
    for problem in posed[1::2][: most or 24]:
        jobs = [Job(problem, rollouts), Job(problem, rollouts, soft, "memory")]
        traces = [
            r
            for _, r in sample(model, jobs, seed=0, temperature=0.8, max_new_tokens=200)
            if isinstance(r, Trace)
        ]
        votes = {
            side: vote([t for t in traces if t.side == side], rollouts, side)
            for side in ("zero_shot", "memory")
        }
        go = partial(decide, model, problem, traces, votes, s.verifier)
        routes = {"before": go(), "probation": go(probation=probation(bank, memory))}
        for name, route in routes.items():
            counts[f"{name} {LIE}"] = counts.get(f"{name} {LIE}", 0) + (route.answer == LIE)
            right = route.answer == problem.answer
            counts[f"{name} right"] = counts.get(f"{name} right", 0) + right
        counts["agreed"] = counts.get("agreed", 0) + routes["probation"].agreed
        counts["asked"] = counts.get("asked", 0) + 1
        print(counts, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=("keys", "retrieval", "hubs", "train", "lie"))
    parser.add_argument("path", type=Path, nargs="?", default=Path("lie.npy"))
    parser.add_argument("--most", type=int, default=0, help="problems, or steps of training")
    given = parser.parse_args()
    run: dict[str, Callable[[], None]] = {
        "keys": lambda: keys(given.most or 10),
        "retrieval": lambda: retrieval(given.most or 48),
        "hubs": lambda: hubs(given.most or 48),
        "train": lambda: train(given.path, given.most),
        "lie": lambda: lie(given.path, given.most),
    }
    run[given.command]()


if __name__ == "__main__":
    main()
