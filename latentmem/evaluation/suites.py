"""The three sizes of the evaluation, and how one is run: which data, which systems, which protocols, in one folder."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..baselines.base import VOTES, Course, Form
from ..records import LatentmemError, Status
from . import heldout, single, stream, sweep
from .datasets import DataSet, apart, load, shuffled, split, unique
from .journal import Journal
from .sweep import Sweep
from .work import FORMS, Entrant, Event

if TYPE_CHECKING:
    from ..baselines.registry import Workshop
    from ..engine import Engine

PROTOCOLS = ("heldout", "stream", "transfer", "single", "keys")
DECIDING = ("model", "embedder", "dtype", "key", "min_similarity", "verifier")  # with the recipe's, what decides a result
PACKAGES = ("latentmem", "torch", "transformers", "numpy")


@dataclass(frozen=True)
class Suite:
    """What is run. `settings` differ from the defaults; what a person sets comes after. Sizes count problems."""

    name: str
    data: tuple[str, ...]
    distil: int  # 0 in a transfer: all problems of a set, and the other sets are the test
    test: int
    systems: tuple[str, ...]
    forms: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # of single systems, in place of `--forms`
    protocols: tuple[str, ...] = ("heldout",)
    stream: int = 0  # problems of the stream, 0 for all
    online: tuple[str, ...] = ()  # systems of the stream, () for all that can take part
    single: int = 1  # problems that are trained on by themselves
    learners: tuple[str, ...] = ("soft prompt",)  # how
    test_data: tuple[str, ...] = ()  # other sets to be asked, in place of a second part of each
    settings: Mapping[str, Any] = field(default_factory=dict)
    models: tuple[str, ...] = ()  # one after another; () is the model of the settings


ROWS = ("zero_shot", "elm", "elm_unrouted", "icl_raw", "untrained_prompt", "untrained_routed", "format_only",
        "random_memory", "elm_kv")

SUITES: Mapping[str, Suite] = {
    # The families of the starter memories; with six traces the gate lets few of their problems pass, one of the first eight.
    "quick": Suite("quick", ("examples?source=ages,average,change,distance,equation,sharing",), 8, 12,
                   ("zero_shot", "icl_raw", "elm"), {"zero_shot": ("one", "vote"), "icl_raw": ("one",), "elm": ("one",)},
                   settings={"rollouts": 6, "steps": 3, "max_new_tokens": 320}),
    "standard": Suite("standard", ("gsm8k",), 16, 100, ROWS, protocols=("heldout", "stream", "keys"), stream=24,
                      online=("zero_shot", "icl_raw", "elm")),
    "paper": Suite("paper", ("math500", "amc23", "aime24"), 0, 0, ROWS, protocols=("stream", "transfer"),
                   settings={"max_new_tokens": 3072, "dtype": "bfloat16"},
                   models=("meta-llama/Llama-3.1-8B-Instruct", "Qwen/Qwen2.5-Math-7B")),
}


@dataclass(frozen=True)
class Order:
    """A suite as a person asked for it."""

    suite: Suite
    out: Path
    seed: int = 0
    strict: bool = False
    rows: int | None = None
    together: int | None = None
    block: int = 1
    votes: int = VOTES  # N of vote_n
    offline_steps: int = Course.steps  # of the offline rows, a few problems each
    sweep: Sweep | None = None  # recipes to try, in place of the protocols


def suite_named(name: str) -> Suite:
    """Raises LatentmemError for another name."""
    if name not in SUITES:
        raise LatentmemError(f"There is no suite {name!r}: use {', '.join(SUITES)}.")
    return SUITES[name]


def forms_named(names: Sequence[str]) -> tuple[Form, ...]:
    """Raises LatentmemError for another name."""
    for name in names:
        if name not in FORMS:
            raise LatentmemError(f"There is no form {name!r}: use {', '.join(FORMS)}.")
    return tuple(FORMS[name] for name in dict.fromkeys(names))


def run(engine: Engine, order: Order) -> Iterator[Event | dict[str, Any]]:
    """Everything that a suite asks for, each protocol and data set in a folder of its own under `out`; goes on from
    what is there. The rollouts are kept in `out`/cache, shared by all."""
    from ..baselines.registry import Workshop

    suite = order.suite
    datas, others = ([load(spec, strict=order.strict) for spec in specs] for specs in (suite.data, suite.test_data))
    for data in (*datas, *others):
        yield from (Status(f"{data.name}: {note}") for note in data.notes)
    _distinct(datas)
    _distinct(others)
    if others and (refused := next((p for p in suite.protocols if p not in ("heldout", "single")), None)):
        raise LatentmemError(f"Test data belong to heldout and single, and {refused} takes its problems from --data: leave "
                             "--test-data out.")
    yield from engine.load()
    shop = Workshop(engine, order.out / "cache", rows=order.rows, group=order.together, votes=order.votes,
                    offline_steps=order.offline_steps)
    if order.sweep is not None:
        data = datas[0] if not order.sweep.data else load(order.sweep.data, strict=order.strict)
        mixed = replace(data, problems=tuple(shuffled(unique(data.problems), order.sweep.seed)))
        yield from sweep.run(shop, order.sweep, mixed, order.out)
        return
    entrants = cast(shop, suite)
    for protocol in suite.protocols:
        if protocol == "heldout":
            for data in datas:
                learn, tests = _parts(data, others, order)
                yield from _heldout(shop, entrants, learn, tests, order)
        elif protocol == "stream":
            for data in datas:
                yield from _stream(shop, entrants, data, order)
        elif protocol == "transfer":
            yield from _transfer(shop, entrants, datas, order)
        elif protocol == "single":
            for data in datas:
                yield from _single(shop, data, others, order)
        elif protocol == "keys":
            for data in datas:
                yield from single.key_quality(shop, data, order.out)
        else:
            raise LatentmemError(f"There is no protocol {protocol!r}: use {', '.join(PROTOCOLS)}.")


def cast(shop: Workshop, suite: Suite) -> list[Entrant]:
    """The suite's systems. Raises LatentmemError for one that does not exist."""
    from ..baselines.registry import ROWS as THERE

    missing = next((name for name in suite.systems if name not in THERE), None)
    if missing is not None:
        raise LatentmemError(f"There is no system {missing!r}: use {', '.join(THERE)}.")
    return [Entrant(name, forms_named(suite.forms.get(name, tuple(FORMS))), lambda name=name: shop.make(name),
                    THERE[name].learns) for name in suite.systems]


def _distinct(datas: Sequence[DataSet]) -> None:
    """A data set's name stands for it in units, folders and tables."""
    names = [d.name for d in datas]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise LatentmemError(f"Two data sets are called {twice}: rename a file, or give each an --out of its own.")


def _parts(data: DataSet, others: Sequence[DataSet], order: Order) -> tuple[DataSet, list[DataSet]]:
    """What is learnt from, and what is asked: the other part of the same set, or parts of other sets."""
    suite = order.suite
    parts = split(data, suite.distil, 0 if others else suite.test, order.seed)
    return parts.distil, [apart(parts.distil, split(o, 0, suite.test, order.seed).test) for o in others] or [parts.test]


def _heldout(shop: Workshop, entrants: Sequence[Entrant], learn: DataSet, tests: Sequence[DataSet], order: Order,
             protocol: str = "heldout") -> Iterator[Event]:
    told = {"protocol": protocol, "distil": part(learn), "test": [part(t) for t in tests], **budgets(order)}
    with Journal(order.out / f"{protocol}-{slug(learn.name)}", facts(shop, told)) as journal:
        yield from heldout.run(entrants, learn, tests, journal, rows=shop.sampler.rows, together=shop.teacher.group)


def _stream(shop: Workshop, entrants: Sequence[Entrant], data: DataSet, order: Order) -> Iterator[Event]:
    online = [e for e in entrants if e.learns != "offline" and e.name in (order.suite.online or order.suite.systems)]
    size = order.suite.stream or len(unique(data.problems))
    arriving = split(data, size, 0, order.seed).distil
    told = {"protocol": "stream", "data": part(arriving), "block": order.block,
            "systems": {e.name: [f.name for f in e.forms] for e in online}, **budgets(order)}
    with Journal(order.out / f"stream-{slug(data.name)}", facts(shop, told)) as journal:
        yield from stream.run(online, arriving, journal, block=order.block)


def _transfer(shop: Workshop, entrants: Sequence[Entrant], datas: Sequence[DataSet], order: Order) -> Iterator[Event]:
    """Learn on each data set and answer all of them: a matrix. Raises LatentmemError for a single set."""
    if len(datas) < 2:
        raise LatentmemError("A transfer needs two data sets: give --data twice or more.")
    size = order.suite.distil
    parts = [split(d, size or len(unique(d.problems)), order.suite.test if size else 0, order.seed) for d in datas]
    for one in parts:
        if size:
            tests = [p.test if p is one else apart(one.distil, p.test) for p in parts]
        else:
            tests = [apart(one.distil, p.distil) for p in parts if p is not one]
        yield from _heldout(shop, entrants, one.distil, tests, order, "transfer")


def _single(shop: Workshop, data: DataSet, others: Sequence[DataSet], order: Order) -> Iterator[Any]:
    suite = order.suite
    learn, tests = _parts(data, others, order)
    train = yield from sweep.teachable(shop, learn.problems, suite.single)
    for test in tests:
        yield from single.run(shop, train, test, order.out, steps=shop.recipe.steps, learners=suite.learners)


def budgets(order: Order) -> dict[str, int]:
    """What of a row's budget was asked for by hand: a folder is not continued with another."""
    asked = {"votes": (order.votes, VOTES), "offline_steps": (order.offline_steps, Course.steps)}
    return {name: value for name, (value, usual) in asked.items() if value != usual}


def part(data: DataSet) -> dict[str, Any]:
    """What identifies a part of a data set."""
    return {"name": data.name, "problems": len(data.problems), "digest": data.digest}


def facts(shop: Workshop, told: Mapping[str, Any]) -> dict[str, Any]:
    """What a run is: its protocol and data, the model's fingerprint, and every setting that decides a result."""
    settings = {name: getattr(shop.settings, name) for name in DECIDING} | asdict(shop.recipe)
    return {**told, "seed": shop.settings.seed, "model": shop.engine.model.fingerprint, "settings": settings,
            "rows": shop.sampler.rows, "together": shop.teacher.group, "rates": shop.rates, "made": made(shop)}


def made(shop: Workshop) -> dict[str, Any]:
    """With what a run was begun; it may go on with something else, but for what decides the tokens (`journal.KEPT`)."""
    body = shop.engine.model.body
    found = {"device": body.device.type, "dtype": body.arithmetic, "training": str(body.dtype).removeprefix("torch."),
             "python": platform.python_version(), "machine": platform.platform()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def slug(name: str) -> str:
    """A data set's name as a folder's name."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name)[:60]
