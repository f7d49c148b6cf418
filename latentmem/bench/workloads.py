"""What is measured: a bench's settings, our side of each row, what both sides share."""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from ..bank import Bank
from ..records import Cluster, LatentmemError, Memory, Problem, Step, Trace, Vote

if TYPE_CHECKING:
    from ..model.language_model import LanguageModel

# Problems of different kinds and lengths, so that prompts in one batch are padded as in real use.
PROBLEMS = tuple(
    Problem(text)
    for text in (
        "A taxi charges $5 to start and $2 for every mile. Dmitri's ride costs $37. How many "
        "miles was it?",
        "Hana bakes 46 biscuits and eats 5 of them while they are warm. She shares the rest "
        "equally among 8 children, as many as possible each. How many biscuits are left over?",
        "Bilal buys 3 notebooks at $3 each and a pencil case for $4. He pays with a $20 note. How "
        "much change does he get?",
        "Elif drives at 110 km per hour for 3 hours on the motorway, then at 50 km per hour for 2 "
        "hours on country roads. How many kilometres does she drive altogether?",
        "What is the remainder when 7 to the power of 12 is divided by 10?",
        "A rectangle is twice as long as it is wide, and its perimeter is 54 cm. What is its area "
        "in square centimetres?",
        "A tank holds 240 litres. One pipe fills it at 12 litres a minute while another empties "
        "it at 4 litres a minute. How many minutes does it take to fill the empty tank?",
        "Three consecutive even numbers add up to 126. What is the largest of them?",
    )
)
EMBEDDING = 384  # numbers of an input key, as the default embedder makes them
HITS = 5  # memories asked for in one search
# Of a group's scripted rollouts so many agree: a vote that passes the gate and has a gradient.
SHARE = 5 / 8


@dataclass(frozen=True)
class Workload:
    """The settings of a bench. All plain values, so that a worker process gets them as JSON."""

    model: str = "qwen2.5-coder-0.5b"
    device: str = "auto"
    dtype: str = "auto"
    # auto: what the device multiplies fastest; for peak memory, which of the two holds less
    peer_dtype: str = "auto"
    tokens: int = 200  # of every rollout, exactly
    rollouts: int = 8
    temperature: float = 0.8
    virtual_tokens: int = 20
    learning_rate: float = 1e-3
    init_text: str = (
        "Solve the problem step by step, check each step, and put the final answer "
        "within \\boxed{}."
    )
    seed: int = 0
    steps: int = 10  # of one memory
    # both sides of `memory` are measured for so many steps and extrapolated to `steps`
    peer_steps: int = 2
    together: int = 8  # memories in one batch
    together_steps: int = 2
    memory_steps: int = 1  # steps of the runs whose peak memory is read
    memories: int = 100_000  # in the bank that is searched
    queries: int = 200


@dataclass(frozen=True)
class Side:
    """One side of a row, ready: `run()` does the work once and returns the figure."""

    run: Callable[[], float]
    note: str = ""


Prepare = Callable[[Workload], Side]


class PeerMissing(LatentmemError):
    """A peer's package or weights are missing here: the row is then ours alone."""


def language_model(work: Workload) -> LanguageModel:
    """The model of the bench, loaded as the engine loads it."""
    from ..model.language_model import LanguageModel
    from ..model.weights import ensure

    return LanguageModel.load(ensure(work.model), device=work.device, dtype=work.dtype)


def synchronise(model: LanguageModel) -> None:
    """Wait until the device has done its work; a GPU works on while Python continues."""
    import torch

    if model.body.device.type == "cuda":
        torch.cuda.synchronize(model.body.device)


def scripted(model: LanguageModel, tokens: int, rollouts: int) -> LanguageModel:
    """The same model, but each rollout is exactly `tokens` long and its last tokens spell a boxed
    answer and the end.

    All real code runs, and the amount of work does not depend on what a model says: no row ends
    early, and SHARE of each group agree on the answer 1 while the others say 2, so every step has a
    vote that passes the gate and a gradient for every row. The tokens are drawn as usual; only
    those at the end are replaced.
    """
    end = min(e for e in model.ends)
    tails = [
        [*model.tokenizer(f"\n\\boxed{{{answer}}}", add_special_tokens=False)["input_ids"], end]
        for answer in (1, 2)
    ]
    assert tokens >= len(tails[0]), "the rollouts are too short to end with an answer"
    one = copy.copy(model)
    one.ends = frozenset()
    plain = one.generate

    def generate(
        prompts: Sequence[Any], seeds: Sequence[Sequence[int]], **options: Any
    ) -> Iterator[list[Any]]:
        options["max_new_tokens"] = tokens
        for t, drawn in enumerate(plain(prompts, seeds, **options)):
            yield [
                _replaced(d, tails[(d.row % rollouts) >= SHARE * rollouts], t - tokens)
                for d in drawn
            ]

    one.generate = generate  # type: ignore[method-assign]
    return one


def _replaced(drawn: Any, tail: Sequence[int], from_end: int) -> Any:
    if from_end < -len(tail):
        return drawn
    return type(drawn)(drawn.row, tail[from_end], from_end == -1, drawn.entropy, drawn.certainty)


def first_vote(work: Workload) -> tuple[tuple[Trace, ...], Vote]:
    """The vote of the model alone, as `scripted` rollouts give it: distillation's start."""
    from ..method.voting import vote

    traces = tuple(
        Trace(r, "", "1" if r < SHARE * work.rollouts else "2", True, work.tokens)
        for r in range(work.rollouts)
    )
    return traces, vote(traces, work.rollouts)


# ---------- Rollouts: tokens a second through `rollouts.sample`, as the engine calls it.


def one_problem(work: Workload) -> Side:
    """`rollouts` rollouts of one problem, no soft prompt: tokens a second, prefill included."""
    return _side(work, 1, soft=False)


def four_problems(work: Workload) -> Side:
    """Four problems, each with its own soft prompt, in one batch: tokens a second."""
    return _side(work, 4, soft=True)


def _side(work: Workload, problems: int, *, soft: bool) -> Side:
    from ..method.rollouts import Job

    model = language_model(work)
    fixed = scripted(model, work.tokens, work.rollouts)
    prompt = model.text_prompt(work.init_text, work.virtual_tokens)
    jobs = [
        Job(p, work.rollouts, prompt * (1 + i / 10) if soft else None)
        for i, p in enumerate(PROBLEMS[:problems])
    ]
    warm_up(model, jobs, work)
    many, dtype = problems * work.rollouts, model.body.arithmetic
    note = f"{many} rollouts of {work.tokens} tokens, ours in {dtype}"
    return Side(lambda: speed(fixed, jobs, work), note)


def traces(fixed: Any, jobs: Sequence[Any], work: Workload) -> list[Trace]:
    """What one batch of jobs gives on a scripted model."""
    from ..method.rollouts import sample

    how = {"seed": work.seed, "temperature": work.temperature, "max_new_tokens": work.tokens}
    return [record for _, record in sample(fixed, jobs, **how) if isinstance(record, Trace)]


def speed(fixed: Any, jobs: Sequence[Any], work: Workload) -> float:
    """Tokens a second of one batch of jobs on a scripted model."""
    began = time.perf_counter()
    made = sum(trace.tokens for trace in traces(fixed, jobs, work))
    synchronise(fixed)
    return made / (time.perf_counter() - began)


def warm_up(model: Any, jobs: Sequence[Any], work: Workload) -> None:
    """A short batch, before anything is timed."""
    speed(scripted(model, min(16, work.tokens), work.rollouts), jobs, work)


# ---------- Distillation: seconds and peak memory of `distil`, as the engine calls it.

FINAL = "ours includes the rollouts of the final check, one batch more than steps"


def one_memory(work: Workload) -> Side:
    """Seconds for one memory: all steps and the final check. The first vote is given, as it is
    after solving.

    Like the peer, it is measured for `peer_steps` steps and the check, and extrapolated: every step
    does the same work.
    """
    model = _ready(work)

    def run() -> float:
        took: list[Step] = []
        seconds(model, work, 1, work.peer_steps, took=took)
        *trained, check = took
        return work.steps * median(s.seconds for s in trained) + check.seconds

    return Side(
        run,
        f"{work.steps} steps of {work.rollouts} rollouts of {work.tokens} tokens, extrapolated "
        f"from {work.peer_steps}; {FINAL}",
    )


def together(work: Workload) -> Side:
    """Seconds for several memories in one batch, `together_steps` steps each."""
    model, steps = _ready(work), work.together_steps
    whole = "" if steps == work.steps else f", of the {work.steps} of a whole memory"
    note = f"both sides measured for {steps} steps and the final check{whole}"
    return Side(lambda: seconds(model, work, work.together, steps), note)


def one_after_another(work: Workload) -> Side:
    """Seconds for the same memories one by one."""
    model, steps = _ready(work), work.together_steps
    return Side(lambda: sum(seconds(model, work, 1, steps, first=i) for i in range(work.together)))


def peak_memory(work: Workload) -> Side:
    """GB of this process's peak, with loading the model and `memory_steps` steps of one memory."""

    def run() -> float:
        model = language_model(work)
        seconds(model, work, 1, work.memory_steps)
        return peak_bytes()

    return Side(
        run, f"{work.memory_steps} of {work.steps} steps on both sides, with loading the model"
    )


def _ready(work: Workload) -> Any:
    model = language_model(work)
    seconds(model, replace(work, tokens=min(16, work.tokens)), 1, 1)  # warms up
    return model


def recipe(work: Workload, steps: int) -> Any:
    from ..method.distillation import Recipe

    shared = {f.name for f in fields(Recipe)} & {f.name for f in fields(Workload)}
    same = {name: getattr(work, name) for name in shared}
    gate = {"gate_votes": 1, "gate_lead": 0}
    return Recipe(**same | gate | {"steps": steps, "max_new_tokens": work.tokens})


def seconds(
    model: Any,
    work: Workload,
    memories: int,
    steps: int,
    *,
    first: int = 0,
    took: list[Step] | None = None,
) -> float:
    """Seconds to distil `memories` problems from the `first` on in one batch, on a model that is
    scripted for it.

    The steps, the final check among them, are added to `took`.
    """
    from ..method.distillation import distil

    fixed = scripted(model, work.tokens, work.rollouts)
    problems = PROBLEMS[first : first + memories]
    began, trained = time.perf_counter(), 0
    for _, record in distil(fixed, problems, [first_vote(work)] * memories, recipe(work, steps)):
        if isinstance(record, Step):
            trained += record.grad_norm > 0
            if took is not None:
                took.append(record)
    synchronise(model)
    whole = time.perf_counter() - began
    if trained != memories * steps:
        raise LatentmemError(
            f"Only {trained} of {memories * steps} steps had a gradient, so the row would be "
            "wrong: use at least 3 rollouts."
        )
    return whole


# ---------- Search: the 95th percentile of the milliseconds of one search in a large bank.

BATCH = 2000  # memories in one transaction


def unit_keys(count: int, seed: int, dim: int = EMBEDDING) -> np.ndarray:
    """Random unit keys [count, dim], float32, in 64 loose groups."""
    rng = np.random.default_rng(seed)
    keys = rng.standard_normal((64, dim), np.float32)[rng.integers(0, 64, count)]
    keys += rng.standard_normal((count, dim), np.float32)
    return keys / np.linalg.norm(keys, axis=1, keepdims=True)


def search(work: Workload) -> Side:
    """Searches of the bank after the first, which reads the keys."""
    bank = filled(work.memories, work.seed)
    asked = unit_keys(work.queries, work.seed + 1)
    bank.search(asked[0], k=HITS)
    return Side(
        lambda: p95([lambda q=q: bank.search(q, k=HITS) for q in asked]),
        f"{work.memories} memories, {work.queries} searches for {HITS} each; the first search, "
        "which reads the bank, is not counted on either side",
    )


def p95(calls: list[Callable[[], Any]]) -> float:
    """The 95th percentile of the milliseconds that the calls take."""
    took = []
    for call in calls:
        began = time.perf_counter()
        call()
        took.append(1000 * (time.perf_counter() - began))
    return float(np.percentile(took, 95))


def filled(count: int, seed: int, path: str | Path = ":memory:") -> Bank:
    """A bank of `count` memories with random keys and small soft prompts, stored as by `put`."""
    bank = Bank(path)
    extend(bank, unit_keys(count, seed))
    return bank


def extend(bank: Bank, keys: np.ndarray, start: int = 0) -> None:
    """Add one memory for each key [n, d] in large transactions; the ids count from `start`."""
    for at in range(0, len(keys), BATCH):
        # One transaction for many: a put each would measure the disk.
        bank.put_all(list(_memories(keys[at : at + BATCH], start + at)))


def _memories(keys: np.ndarray, start: int) -> Iterator[Memory]:
    vote = Vote((Cluster("1", (0, 1, 2, 3, 4)), Cluster("2", (5, 6, 7))), 8, 8)
    for i, key in enumerate(keys, start):
        yield Memory(
            Problem(f"What is {i} plus {i % 97}?", source=f"set {i % 5}"),
            np.full((1, 4), i, np.float32),
            {"input": key},
            "bench",
            "bench",
            vote,
            (),
            (),
            1,
            {},
            "2026-01-31T12:00:00+00:00",
        )


def peak_bytes() -> float:
    """GB (1e9 bytes) that this process has held at most."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e9  # Linux counts in KiB
