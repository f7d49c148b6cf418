"""The three sizes of the evaluation, and one run: data, systems, protocols, in one folder."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..engine.doctor import installed
from ..files import file_errors
from ..records import LatentmemError, Status
from . import protocols
from .datasets import DataSet, apart, load, split, unique
from .journal import Journal
from .protocols import MODES, Event, SystemSpec
from .results import VOTES

if TYPE_CHECKING:
    from ..engine import Engine
    from .baselines.registry import SystemFactory

T = TypeVar("T")
PROTOCOLS = ("heldout", "stream", "transfer", "keys")
# with the recipe's, what decides a result
DECIDING = ("model", "embedder", "dtype", "key", "min_similarity", "verifier")
Stage = Callable[["SystemFactory"], Iterator[Any]]  # a protocol on a data set
PACKAGES = ("latentmem", "torch", "transformers", "numpy")


@dataclass(frozen=True)
class Suite:
    """What a run does. `settings` differ from the defaults; those that a person sets take
    precedence. Sizes count problems."""

    name: str
    data: tuple[str, ...]
    distil: int  # 0 in a transfer: all problems of a set, and the other sets are the test
    test: int
    systems: tuple[str, ...]
    # of a system that is not asked in both forms
    modes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    protocols: tuple[str, ...] = ("heldout",)
    stream: int = 0  # problems of the stream, 0 for all
    online: tuple[str, ...] = ()  # systems of the stream, () for all that can take part
    test_data: tuple[str, ...] = ()  # other sets to be asked, in place of a second part of each
    settings: Mapping[str, Any] = field(default_factory=dict)
    models: tuple[str, ...] = ()  # one after another; () is the model of the settings


MAIN_SYSTEMS = (
    *("zero_shot", "elm", "elm_unrouted", "icl_raw", "untrained_prompt", "untrained_routed"),
    *("format_only", "random_memory", "elm_kv"),
)

SUITES: Mapping[str, Suite] = {
    # The families of the starter memories; with six traces the gate lets few of their problems
    # pass, one of the first eight.
    "quick": Suite(
        "quick",
        ("examples?source=ages,average,change,distance,equation,sharing",),
        8,
        12,
        ("zero_shot", "icl_raw", "elm"),
        {"zero_shot": ("one", "vote"), "icl_raw": ("one",), "elm": ("one",)},
        settings={"rollouts": 6, "steps": 3, "max_new_tokens": 320},
    ),
    "standard": Suite(
        "standard",
        ("gsm8k",),
        16,
        100,
        MAIN_SYSTEMS,
        protocols=("heldout", "stream", "keys"),
        stream=24,
        online=("zero_shot", "icl_raw", "elm"),
    ),
    "paper": Suite(
        "paper",
        ("math500", "amc23", "aime24"),
        0,
        0,
        MAIN_SYSTEMS,
        protocols=("stream", "transfer"),
        # Qwen2.5-Math reads 4,096 tokens: half of them are left for a past problem with its trace,
        # else the systems that show one would fall back to the model alone.
        settings={"max_new_tokens": 2048, "dtype": "bfloat16", "recipe": "paper"},
        models=("meta-llama/Llama-3.1-8B-Instruct", "Qwen/Qwen2.5-Math-7B"),
    ),
}


@dataclass(frozen=True)
class RunOptions:
    """A suite with what a person asked for."""

    suite: Suite
    out: Path
    seed: int = 0
    rows: int | None = None
    together: int | None = None
    block: int = 1
    votes: int = VOTES  # N of vote_n

    @property
    def budget(self) -> dict[str, int]:
        """N of vote_n if a person asked for it; a folder does not continue with another."""
        return {"votes": self.votes} if self.votes != VOTES else {}


def named(what: str, names: Sequence[str], known: Mapping[str, T]) -> tuple[T, ...]:
    """What the names stand for, each once. Raises LatentmemError for a name that is not known."""
    for name in names:
        if name not in known:
            raise LatentmemError(f"There is no {what} {name!r}: use {', '.join(known)}.")
    return tuple(known[name] for name in dict.fromkeys(names))


def suite_named(name: str) -> Suite:
    """Raises LatentmemError for another name."""
    return named("suite", [name], SUITES)[0]


def run(engine: Engine, options: RunOptions) -> Iterator[Event | dict[str, Any]]:
    """Run everything that a suite asks for, each protocol and data set in its own folder under
    `out`; continues with what is there. All share the rollouts in `out`/cache."""
    from .baselines.registry import SystemFactory

    suite, limit = options.suite, engine.settings.max_problem_chars
    datas, others = (
        [load(s, most_chars=limit) for s in specs] for specs in (suite.data, suite.test_data)
    )
    for data in (*datas, *others):
        yield from (Status(f"{data.name}: {note}") for note in data.notes)
    # All errors show now: to load a model takes minutes, and the turn of the last protocol may be
    # hours away.
    _check(suite, datas, others)
    plan = _plan(options, datas, others)
    with file_errors(options.out, "a folder of results", "give another with --out"):
        (options.out / "cache").mkdir(parents=True, exist_ok=True)
    yield from engine.load()
    factory = SystemFactory(
        engine,
        options.out / "cache",
        rows=options.rows,
        group=options.together,
        votes=options.votes,
    )
    for stage in plan:
        yield from stage(factory)


def _check(suite: Suite, datas: Sequence[DataSet], others: Sequence[DataSet]) -> None:
    """Raises LatentmemError for what does not fit together or has no such name."""
    from .baselines.registry import SYSTEMS

    for those in (datas, others):  # a name stands for the set in units, folders and tables
        names = [d.name for d in those]
        if twice := [name for name in names if names.count(name) > 1]:
            raise LatentmemError(
                f"Two data sets are called {twice[0]}: rename a file, or give each an --out of its "
                "own."
            )
    named("protocol", suite.protocols, dict.fromkeys(PROTOCOLS))
    named("system", suite.systems, SYSTEMS)
    for modes in suite.modes.values():
        named("form", modes, MODES)
    if others and (wrong := [p for p in suite.protocols if p != "heldout"]):
        raise LatentmemError(
            f"Test data belong to heldout, and {wrong[0]} takes its problems from --data: leave "
            "--test-data out."
        )
    if "transfer" in suite.protocols and len(datas) < 2:
        raise LatentmemError("A transfer needs two data sets: give --data twice or more.")


def _plan(options: RunOptions, datas: Sequence[DataSet], others: Sequence[DataSet]) -> list[Stage]:
    """The stages of a suite in order. Raises LatentmemError for one that cannot be run."""
    suite, plan = options.suite, []
    for protocol in dict.fromkeys(suite.protocols):
        if protocol == "stream":
            sizes = [suite.stream or len(unique(data.problems)) for data in datas]
            arriving = [
                split(d, n, 0, options.seed).distil for d, n in zip(datas, sizes, strict=True)
            ]
            plan += [partial(_stream, options, some) for some in arriving]
        elif protocol == "keys":
            plan += [lambda f, d=d: protocols.key_quality(f, d, options.out) for d in datas]
        else:
            parts = (
                list(_moved(datas, options))
                if protocol == "transfer"
                else [_parts(data, others, options) for data in datas]
            )
            plan += [partial(_heldout, options, *part, protocol) for part in parts]
    return plan


def system_specs(factory: SystemFactory, suite: Suite) -> list[SystemSpec]:
    """The suite's systems, each once, in the forms that it is asked in."""
    from .baselines.registry import SYSTEMS

    return [
        SystemSpec(
            name,
            named("form", suite.modes.get(name, tuple(MODES)), MODES),
            lambda name=name: factory.make(name),
            SYSTEMS[name].learns,
        )
        for name in dict.fromkeys(suite.systems)
    ]


def _parts(
    data: DataSet, others: Sequence[DataSet], options: RunOptions
) -> tuple[DataSet, list[DataSet]]:
    """What to learn from, and what to ask: the other part of the same set, or other sets."""
    suite = options.suite
    parts = split(data, suite.distil, 0 if others else suite.test, options.seed)
    return parts.distil, [
        apart(parts.distil, split(o, 0, suite.test, options.seed).test) for o in others
    ] or [parts.test]


def _moved(
    datas: Sequence[DataSet], options: RunOptions
) -> Iterator[tuple[DataSet, list[DataSet]]]:
    """For each data set of a transfer, what to learn from and what to ask afterwards: a matrix."""
    size = options.suite.distil
    parts = [
        split(d, size or len(unique(d.problems)), options.suite.test if size else 0, options.seed)
        for d in datas
    ]
    for one in parts:
        if size:
            yield one.distil, [p.test if p is one else apart(one.distil, p.test) for p in parts]
        else:
            yield one.distil, [apart(one.distil, p.distil) for p in parts if p is not one]


def _heldout(
    options: RunOptions,
    learn: DataSet,
    tests: Sequence[DataSet],
    protocol: str,
    factory: SystemFactory,
) -> Iterator[Event]:
    parts = {"distil": part(learn), "test": [part(t) for t in tests]}
    config = run_config(factory, {"protocol": protocol, **parts, **options.budget})
    specs = system_specs(factory, options.suite)
    how = {"rows": factory.sampler.rows, "together": factory.teacher.group}
    with Journal(options.out / f"{protocol}-{slug(learn.name)}", config) as journal:
        yield from protocols.run_heldout(specs, learn, tests, journal, **how)


def _stream(options: RunOptions, arriving: DataSet, factory: SystemFactory) -> Iterator[Event]:
    online = [
        e
        for e in system_specs(factory, options.suite)
        if e.learns != "offline" and e.name in (options.suite.online or options.suite.systems)
    ]
    details = {
        "protocol": "stream",
        "data": part(arriving),
        "block": options.block,
        "systems": {e.name: [f.name for f in e.modes] for e in online},
        **options.budget,
    }
    config = run_config(factory, details)
    with Journal(options.out / f"stream-{slug(arriving.name)}", config) as journal:
        yield from protocols.run_stream(online, arriving, journal, block=options.block)


def part(data: DataSet) -> dict[str, Any]:
    """What identifies a part of a data set."""
    return {"name": data.name, "problems": len(data.problems), "digest": data.digest}


def run_config(factory: SystemFactory, details: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a run: every setting that decides a result."""
    settings = {name: getattr(factory.settings, name) for name in DECIDING} | asdict(factory.recipe)
    return {
        **details,
        "seed": factory.settings.seed,
        "model": factory.engine.model.fingerprint,
        "settings": settings,
        "rows": factory.sampler.rows,
        "together": factory.teacher.group,
        "rates": factory.rates,
        "made": made(factory),
    }


def made(factory: SystemFactory) -> dict[str, Any]:
    """What a run began with; only what decides the tokens (`journal.KEPT`) must stay so."""
    body = factory.engine.model.body
    found = {
        "device": body.device.type,
        "dtype": body.arithmetic,
        "training": str(body.dtype).removeprefix("torch."),
        "python": platform.python_version(),
        "machine": platform.platform(),
    }
    return found | installed(PACKAGES)


def slug(name: str) -> str:
    """A data set's name as the name of a folder."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name)[:60]
