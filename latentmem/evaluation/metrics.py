"""From results to figures: accuracy with its interval, the paired difference to the model alone,
helped and hurt, routing, votes.

Pure functions. "Helped" is a problem that a system gets right and the model alone in the same form
gets wrong; "hurt" is the reverse.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import comb
from statistics import fmean
from typing import Any, TypeVar

import numpy as np

from ..method.voting import unfit
from .results import Learned, Result, SideResult, decisive, differ

# ---------- Intervals and estimators. Every draw is seeded, so a report is the same each time.

RESAMPLES = 10_000
LEVEL = 0.95
K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean of n values, and its 95 % interval."""

    n: int
    mean: float
    low: float
    high: float


def share(right: int, n: int) -> Estimate | None:
    """A share with its exact binomial interval (Clopper and Pearson 1934); None for no cases."""
    if n == 0:
        return None
    from scipy.stats import binomtest

    interval = binomtest(right, n).proportion_ci(LEVEL)
    return Estimate(n, right / n, float(interval.low), float(interval.high))


def bootstrap(differences: Sequence[float], *, seed: int = 0) -> Estimate | None:
    """The mean of differences of shares, each from -1 to 1, with its percentile bootstrap interval
    (Efron 1979); None for no values.

    To resample n of n values with replacement is to draw the counts of each different value from a
    multinomial distribution. Where all values are equal, resampling sees no spread and gives an
    interval of no width. The bound is then the exact one for a share of which no case was seen.
    """
    n = len(differences)
    if n == 0:
        return None
    values, counts = np.unique(np.asarray(differences, float), return_counts=True)
    mean = float(np.mean(np.asarray(differences, float)))
    if len(values) == 1:
        unseen = share(0, n)
        assert unseen is not None
        return Estimate(n, mean, mean - unseen.high * (mean + 1), mean + unseen.high * (1 - mean))
    rng = np.random.default_rng(seed)
    means = rng.multinomial(n, counts / n, size=RESAMPLES) @ values / n  # [resamples]
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(n, mean, float(low), float(high))


def paired(
    first: Mapping[K, float], second: Mapping[K, float], *, seed: int = 0
) -> Estimate | None:
    """The mean of first - second over the problems of both, with its bootstrap interval."""
    shared = [key for key in first if key in second]
    return bootstrap([float(first[key]) - float(second[key]) for key in shared], seed=seed)


def flips(first: Mapping[K, bool], second: Mapping[K, bool]) -> tuple[int, int]:
    """(helped, hurt): problems right in `first` and wrong in `second`, and the reverse."""
    shared = [key for key in first if key in second]
    helped = sum(first[k] and not second[k] for k in shared)
    return helped, sum(second[k] and not first[k] for k in shared)


def pass_at_k(n: int, right: int, k: int) -> float:
    """The chance that at least one of k traces is right, estimated without bias from n >= k traces
    of which `right` are: 1 - C(n-c,k)/C(n,k) (Chen et al. 2021, arXiv 2107.03374)."""
    assert 0 <= right <= n and 1 <= k <= n
    return 1.0 - comb(n - right, k) / comb(n, k)


def nearest_share(keys: np.ndarray, families: Sequence[str]) -> tuple[float, float]:
    """How often the nearest other key [n, d] (unit rows), and a random one, is of the family."""
    n = len(families)
    similar = np.asarray(keys, float) @ np.asarray(keys, float).T  # [n, n]
    np.fill_diagonal(similar, -np.inf)
    nearest = similar.argmax(1)
    same = np.array([[a == b for b in families] for a in families])  # [n, n]
    return float(same[np.arange(n), nearest].mean()), float((same.sum() - n) / (n * (n - 1)))


BASE = "zero_shot"
ORACLE = "oracle router"
Group = tuple[str, str, str, str]  # learned_on, dataset, system, form


@dataclass(frozen=True, slots=True)
class Row:
    """One system in one form on one data set. Tokens and seconds are those of answering all n
    problems; those of learning stand apart."""

    dataset: str
    learned_on: str
    system: str
    form: str
    accuracy: Estimate
    delta: Estimate | None  # to zero_shot in the same form, on the same problems
    helped: int | None
    hurt: int | None
    coverage: float
    routing_accuracy: float | None
    judged: int  # disagreements with exactly one side right, behind routing_accuracy
    tokens: int
    read: int
    seconds: float
    learn_tokens: int = 0
    learn_seconds: float = 0.0
    memories: int = 0

    @property
    def n(self) -> int:
        return self.accuracy.n


def by(results: Iterable[Result], key: Callable[[Result], K]) -> dict[K, list[Result]]:
    """The results of each key, in the order in which keys first appear."""
    found: dict[K, list[Result]] = {}
    for r in results:
        found.setdefault(key(r), []).append(r)
    return found


def grouped(results: Iterable[Result]) -> dict[Group, list[Result]]:
    return by(results, lambda r: (r.learned_on, r.dataset, r.system, r.form))


def table(
    results: Sequence[Result], learned: Sequence[Learned] = (), *, seed: int = 0
) -> list[Row]:
    """A row for each system, form and data set, in the order in which they first appear."""
    groups = grouped(results)
    return [
        _row(key, mine, groups.get((*key[:2], BASE, key[3])), learned, seed)
        for key, mine in groups.items()
    ]


def _row(
    key: Group,
    mine: Sequence[Result],
    base: Sequence[Result] | None,
    learned: Sequence[Learned],
    seed: int,
) -> Row:
    learned_on, dataset, system, form = key
    right = correct(mine)
    accuracy = share(sum(right.values()), len(right))
    assert accuracy is not None
    delta = helped = hurt = None
    if base is not None and system != BASE:
        delta = paired(right, other := correct(base), seed=seed)
        helped, hurt = flips(right, other) if delta is not None else (None, None)
    sides = [(r, side) for r in mine if (side := decisive(r)) is not None]
    name = system.partition(" (")[0]
    lessons = [x for x in learned if (x.system, x.learned_on) == (name, learned_on)]
    return Row(
        *(dataset, learned_on, system, form, accuracy, delta, helped, hurt),
        coverage=fmean(r.used for r in mine),
        routing_accuracy=fmean(r.chosen == side for r, side in sides) if sides else None,
        judged=len(sides),
        tokens=sum(r.tokens for r in mine),
        read=sum(r.read for r in mine),
        seconds=sum(r.seconds for r in mine),
        learn_tokens=sum(x.spent.tokens for x in lessons),
        learn_seconds=sum(x.spent.seconds for x in lessons),
        memories=sum(t.memory is not None for x in lessons for t in x.taught),
    )


def correct(results: Iterable[Result]) -> dict[str, bool]:
    """Problem id -> whether it was right."""
    return {r.problem_id: r.correct for r in results}


def equal_votes(row: Row, rows: Sequence[Row]) -> int | None:
    """The N of a vote of the model alone that takes as many tokens as this row, with the tokens of
    learning shared out among the problems. None if the model alone was not asked for one trace of
    the same data."""
    alone = next(
        (r for r in rows if (r.dataset, r.system, r.form) == (row.dataset, BASE, "one")), None
    )
    if alone is None or not alone.tokens:
        return None
    return max(1, round((row.tokens + row.learn_tokens) / row.n / (alone.tokens / alone.n)))


SUBJECT = "elm"  # the system that the others are compared with; the subject of a Contrast


@dataclass(frozen=True, slots=True)
class Contrast:
    """`subject` less `system`, paired over the problems that both were asked, in the same form."""

    dataset: str
    form: str
    system: str
    difference: Estimate
    ahead: int  # problems that only the subject got right
    behind: int  # problems that only the other got right


def contrasts(results: Sequence[Result], *, seed: int = 0) -> list[Contrast]:
    """The subject against every system but the model alone, for each data set and form."""
    groups, out = grouped(results), []
    for (learned_on, dataset, system, form), mine in groups.items():
        for (theirs_on, where, other, how), theirs in groups.items() if system == SUBJECT else ():
            same = (where, how) == (dataset, form) and theirs_on in ("", learned_on)
            if other in (SUBJECT, BASE) or not same:
                continue
            right, held = correct(mine), correct(theirs)
            if (difference := paired(right, held, seed=seed)) is not None:
                out.append(Contrast(dataset, form, other, difference, *flips(right, held)))
    return out


# ---------- Other routers over the same traces.


def rerouted(results: Iterable[Result], router: str) -> list[Result]:
    """What another router, a verifier by name or the oracle, would have answered from the same two
    sides.

    Leaves out results without two sides, except where no memory was tried: there the model's own
    answer stands.
    """
    out = []
    for r in results:
        if (side := oracle_side(r) if router == ORACLE else side_by(r, router)) is not None:
            name, taken = f"{r.system} ({router})", r.sides[side]
            told = {"answer": taken.label, "correct": taken.right}
            out.append(replace(r, system=name, chosen=side, **told))
    return out


def side_by(r: Result, verifier: str) -> str | None:
    """The side that a verifier takes: by its scores in a disagreement, where a tie goes to the
    model alone; else the only side with an answer. None where it was not asked."""
    alone, memory = r.sides.get("zero_shot"), r.sides.get("memory")
    if alone is None:
        return None
    if memory is None or r.agreed or memory.label is None:
        return "zero_shot"
    if alone.label is None:
        return "memory"
    if (scores := r.scores.get(verifier)) is None:
        return None
    return "memory" if scores["memory"] > scores["zero_shot"] else "zero_shot"


def oracle_side(r: Result) -> str | None:
    """The side that is right, if one is; no router can do better."""
    alone, memory = r.sides.get("zero_shot"), r.sides.get("memory")
    if alone is None:
        return None
    return "memory" if memory and memory.right and not alone.right else "zero_shot"


def two_sided(results: Sequence[Result]) -> list[str]:
    """Systems that answered with and without a memory."""
    return list(
        dict.fromkeys(r.system for r in results if {"zero_shot", "memory"} <= r.sides.keys())
    )


def memory_systems(results: Sequence[Result]) -> list[str]:
    """Systems that tried a memory or another experience."""
    return list(dict.fromkeys(r.system for r in results if r.memory is not None))


def verifiers(results: Iterable[Result]) -> list[str]:
    return list(dict.fromkeys(name for r in results for name in r.scores))


@dataclass(frozen=True, slots=True)
class Routing:
    """What a router did where both sides had an answer and they differed."""

    system: str
    form: str
    router: str
    memory_right_taken: int = 0
    memory_right_missed: int = 0
    alone_right_taken: int = 0
    alone_right_missed: int = 0
    both_wrong: int = 0
    both_right: int = 0  # in spellings that the comparison of the two sides took for different

    @property
    def taken(self) -> int:
        return self.memory_right_taken + self.alone_right_taken

    @property
    def judged(self) -> int:
        return self.taken + self.memory_right_missed + self.alone_right_missed

    @property
    def accuracy(self) -> float | None:
        return self.taken / self.judged if self.judged else None


def routing(results: Sequence[Result]) -> list[Routing]:
    """A confusion table for each routed system and form: the router that ran, and each verifier."""
    out, routed = [], two_sided(results)
    for (system, form), those in by(results, lambda r: (r.system, r.form)).items():
        mine = [r for r in those if differ(r)]
        if mine and system in routed:
            out.append(confusion(system, form, "as run", [(r, r.chosen) for r in mine]))
            for v in verifiers(mine):
                taken = [(r, side_by(r, v)) for r in mine if v in r.scores]
                out.append(confusion(system, form, v, taken))
    return out


def confusion(
    system: str, form: str, router: str, taken: Sequence[tuple[Result, str | None]]
) -> Routing:
    count: Counter[str] = Counter()
    for r, side in taken:
        alone, memory = r.sides["zero_shot"].right, r.sides["memory"].right
        if alone == memory:
            count["both_right" if alone else "both_wrong"] += 1
        else:
            best = "memory" if memory else "alone"
            found = (side == "memory") == memory and side is not None
            count[f"{best}_right_{'taken' if found else 'missed'}"] += 1
    return Routing(system, form, router, **count)


# ---------- Over time, and by memory.


def curve(results: Sequence[Result]) -> list[tuple[int, float]]:
    """(problems met, accuracy so far) of one system in one form over the stream."""
    right, out = 0, []
    for met, r in enumerate(sorted(results, key=lambda r: r.index), 1):
        right += r.correct
        out.append((met, right / met))
    return out


@dataclass(frozen=True, slots=True)
class MemoryEffect:
    """How often a memory was tried, and the ids of the problems that it helped and hurt."""

    memory: str
    name: str
    used: int
    helped: tuple[str, ...]
    hurt: tuple[str, ...]


def memory_effects(results: Sequence[Result]) -> list[MemoryEffect]:
    """For each memory of one system, what it did against the model alone in the same reply, or
    against zero_shot where the system samples one side only; most used first."""
    base, out = alone_right(results), []
    used = [r for r in results if r.memory is not None and r.used]
    for memory, mine in by(used, lambda r: r.memory).items():
        helped, hurt = [], []
        for r in mine:
            side = r.sides.get("zero_shot")
            alone = side.right if side else base.get((r.dataset, r.problem_id, r.form))
            if alone is not None and alone != r.correct:
                (helped if r.correct else hurt).append(r.problem_id)
        name = mine[0].memory_name
        out.append(MemoryEffect(memory, name, len(mine), tuple(helped), tuple(hurt)))
    return sorted(out, key=lambda s: (-s.used, s.memory))


def alone_right(results: Iterable[Result]) -> dict[tuple[str, str, str], bool]:
    """(data set, problem, form) -> whether the model alone was right."""
    return {(r.dataset, r.problem_id, r.form): r.correct for r in results if r.system == BASE}


@dataclass(frozen=True, slots=True)
class SimilarityThird:
    """A third of the problems on which a system tried an experience, by its similarity."""

    system: str
    form: str
    low: float
    high: float
    n: int
    right: int  # with the experience, before any router
    alone: int
    helped: int
    hurt: int


def thirds(results: Sequence[Result]) -> list[SimilarityThird]:
    """Whether a nearer memory is worth more: each system and form with at least nine problems in
    three equal parts, far to near. Empty for systems that were not compared with the model
    alone."""
    base, out = alone_right(results), []
    for key, mine in by(results, lambda r: (r.system, r.form)).items():
        met = []  # (similarity, right with it, right alone)
        for r in mine:
            alone = base.get((r.dataset, r.problem_id, r.form))
            if r.similarity is not None and r.used and alone is not None:
                side = r.sides.get("memory")
                met.append((r.similarity, side.right if side else r.correct, alone))
        met.sort(key=lambda x: x[0])
        for i in range(3) if len(met) >= 9 else ():
            similar, right, alone = zip(
                *met[len(met) * i // 3 : len(met) * (i + 1) // 3], strict=True
            )
            both = list(zip(right, alone, strict=True))
            helped, hurt = sum(w > a for w, a in both), sum(w < a for w, a in both)
            ends, n = (similar[0], similar[-1]), len(both)
            out.append(SimilarityThird(*key, *ends, n, sum(right), sum(alone), helped, hurt))
    return out


def pooled(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One line for each recipe of a sweep: its memories' mean accuracy, and the paired difference
    over held-out problems.

    Each held-out problem counts once, with the mean over the recipe's memories, because its answers
    behind several memories are not independent.
    """
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for r in rows:
        changes = json.dumps(r["settings"], sort_keys=True)
        groups.setdefault((r["setup"], r["recipe"], changes), []).append(r)
    out = []
    for mine in groups.values():
        kept = [r for r in mine if r["learned"]]
        gains = [  # of each held-out problem
            sum(int(r["right"][i]) - int(r["base_right"][i]) for r in kept) / len(kept)
            for i in range(kept[0]["n"] if kept else 0)
        ]
        line = {k: mine[0][k] for k in ("recipe", "settings", "model", "data", "seed")}
        line |= {"gain": bootstrap(gains), "tried": len(mine), "learned": len(kept)}
        for k in ("accuracy", "base", "finished", "tokens", "label_right"):
            line[k] = sum(r[k] for r in kept) / len(kept) if kept else None
        line |= {k: sum(r[k] for r in kept) for k in ("helped", "hurt")}
        out.append(line | {"train_seconds": sum(r["train_seconds"] for r in mine) / len(mine)})
    return out


# ---------- The votes of a run: TTRL's measures, agreement against accuracy, gates.


def vote_metrics(sides: Sequence[SideResult]) -> dict[str, float]:
    """TTRL's measures of votes and pass@k; empty for none."""
    if not sides:
        return {}
    found = {
        "majority_ratio": fmean(s.majority_ratio for s in sides),
        "label_accuracy": fmean(s.right for s in sides),
        "reward_accuracy": fmean(
            fmean(a == b for a, b in zip(s.traces_agree, s.traces_right, strict=True))
            for s in sides
        ),
        "ground_truth_ratio": fmean(fmean(s.traces_right) for s in sides),
    }
    n = min(len(s.traces_right) for s in sides)
    for k in [k for k in (1, 2, 4, 8, 16) if k <= n]:
        found[f"pass@{k}"] = fmean(
            pass_at_k(len(s.traces_right), sum(s.traces_right), k) for s in sides
        )
    return found


def vote_sides(results: Sequence[Result]) -> list[tuple[str, list[SideResult]]]:
    """(title, votes): each routed system's two sides, or, without one, the model alone."""
    found = [r for r in results if r.form == "vote"]
    out: list[tuple[str, list[SideResult]]] = []
    for system in two_sided(found):
        both = [r.sides for r in found if r.system == system and len(r.sides) == 2]
        for side, what in (("zero_shot", "alone"), ("memory", "with it (post_)")):
            out.append((f"{system}: {what}", [s[side] for s in both]))
    if not out and (alone := [r.sides[BASE] for r in found if r.system == BASE]):
        out = [(f"{BASE}: alone", alone)]
    return out


# (votes, lead), for votes of eight
GATES = (1, 0), (2, 0), (2, 1), (2, 2), (3, 0), (3, 1), (3, 2), (4, 2), (5, 2), (6, 2)


@dataclass(frozen=True, slots=True)
class Gate:
    """What a gate (SCRL, arXiv 2603.19880) lets through of some votes, and how many are right."""

    votes: int
    lead: int
    met: int
    passed: int
    right: int


def gates(results: Sequence[Result]) -> list[Gate]:
    """Each of GATES over the votes of the model alone; those of older runs have no lead."""
    out: list[Gate] = []
    own = [r.sides.get(BASE) for r in results if (r.system, r.form) == (BASE, "vote")]
    known = [s for s in own if s is not None and s.margin is not None]
    for gate in GATES if known else ():
        counts = [(sum(s.traces_agree), s.margin, len(s.traces_agree)) for s in known]
        through = zip(known, counts, strict=True)
        passed = [s.right for s, those in through if not unfit(*those, *gate)]
        out.append(Gate(*gate, len(known), len(passed), sum(passed)))
    return out
