"""The commands `evaluate` (does a memory help on problems it has not seen?) and `bench` (our
figures beside those of other programs)."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..records import Step
from .options import DONE, command, engine_for, option

if TYPE_CHECKING:
    from ..evaluation.suites import RunOptions, Suite

evaluation_commands = typer.Typer()
DECIDING = (
    "model device seed rollouts max_new_tokens steps learning_rate key min_similarity verifier"
).split()
UNMEASURED = (
    "nothing of what was asked for could be measured; ask problems with --test, or give other data"
)


Count = int | None
SuiteName = Annotated[
    str, typer.Option(help="quick (minutes on two cores), standard, or paper (a GPU).")
]
Data = Annotated[
    list[str],
    option(
        "A file (JSONL, CSV, Parquet), gsm8k, math500, amc23, aime24, examples, or "
        "rg:FAMILY?size=100&seed=1; may be given again."
    ),
]
TestData = Annotated[
    list[str], option("Ask problems of these instead of the other part of --data.")
]
Protocols = Annotated[list[str], option("heldout, stream, transfer or keys; may be given again.")]
Distil = Annotated[Count, option("Problems to learn from.", min=0)]
Test = Annotated[Count, option("Problems to be asked.", min=0)]
Stream = Annotated[Count, option("Problems of the stream.", "--stream", min=1)]
Systems = Annotated[str, option("Systems of the comparison, with commas between.")]
Forms = Annotated[str, option("one (a greedy trace), vote (of eight), or one,vote.")]
ResultsFolder = Annotated[Path | None, option("The folder of results (default: evaluation-SUITE).")]
Rows = Annotated[Count, option("Traces sampled in one batch.", min=1)]
Together = Annotated[Count, option("Memories trained in one batch.", min=1)]
Block = Annotated[int, typer.Option(min=1, help="Problems of the stream that arrive together.")]
Votes = Annotated[Count, option("Traces of vote_n.", min=1)]
ReportOnly = Annotated[
    bool, typer.Option("--report-only", help="Make the report of what is there.")
]
Also = Annotated[list[Path], option("Another folder whose runs the report shows.")]


@command(evaluation_commands, *DECIDING, name="evaluate")
def evaluate(
    overrides: dict[str, Any],
    as_json: bool,
    suite: SuiteName = "quick",
    data: Data = [],
    test_data: TestData = [],
    protocol: Protocols = [],
    distil: Distil = None,
    test: Test = None,
    arriving: Stream = None,
    systems: Systems = "",
    forms: Forms = "",
    out: ResultsFolder = None,
    rows: Rows = None,
    together: Together = None,
    block: Block = 1,
    votes: Votes = None,
    report_only: ReportOnly = False,
    also: Also = [],
) -> int:
    """Compare systems on problems with known answers. What is done is kept: after a stop, the same
    command continues.

    At the end, and with --report-only, the folder gets report.html, report.md, evidence.json and
    outcomes.jsonl.
    """
    asked = {
        "data": tuple(data),
        "test_data": tuple(test_data),
        "protocols": tuple(protocol),
        "distil": distil,
        "test": test,
        "stream": arriving,
        "systems": _listed(systems),
    }
    chosen = _suite(suite, _given(asked), _listed(forms))
    folder = out or Path(f"evaluation-{suite}")
    if report_only:
        return report(folder, also)
    from ..evaluation.results import Learned, Result
    from ..evaluation.suites import RunOptions
    from . import console

    how = {"rows": rows, "together": together, "block": block, **_given({"votes": votes})}
    for record in console.follow(records(RunOptions(chosen, folder, **how), overrides), told):
        if as_json and isinstance(record, (Result, Learned, dict)):
            console.print_lines([record])
    return report(folder, also, remedy=UNMEASURED)


def _suite(name: str, changes: dict[str, Any], forms: tuple[str, ...]) -> Suite:
    """A suite with what the command line asks for. Raises LatentmemError."""
    from ..evaluation.suites import suite_named

    suite = replace(suite_named(name), **changes)
    if "systems" in changes:
        suite = replace(suite, online=())
    return replace(suite, modes=dict.fromkeys(suite.systems, forms)) if forms else suite


def report(folder: Path, also: list[Path], **remedy: str) -> int:
    """Write the report and name its files. `remedy`: for an error if there is nothing."""
    from ..evaluation.report import make

    for file in make(folder, also, **remedy).values():
        typer.echo(f"{file} is written.", err=True)
    return DONE


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """The options that were given; for the others the suite's values stay."""
    return {name: value for name, value in options.items() if value not in (None, ())}


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def records(options: RunOptions, overrides: dict[str, Any]) -> Iterator[Any]:
    """The suite with each of its models in turn. A model, or another setting, from the command line
    or the environment replaces the suite's."""
    from ..evaluation.suites import run, slug
    from ..settings import Settings

    suite = options.suite
    by_hand = Settings(**overrides).model_fields_set  # the environment's among them
    usual = {name: value for name, value in suite.settings.items() if name not in by_hand}
    models = () if "model" in by_hand else suite.models
    for model in models or (None,):
        engine = engine_for({**usual, **({"model": model} if model else {}), **overrides})
        out = options.out / slug(model.rsplit("/", 1)[-1]) if len(models) > 1 else options.out
        yield from run(engine, replace(options, out=out, seed=engine.settings.seed))
        del engine
        # its parts refer to each other in circles, and the next model needs the room
        gc.collect()


def told(record: Any) -> str:
    """A record of an evaluation in one line, '' for one that is not worth one."""
    from ..evaluation.results import Progress
    from .console import agreed

    if isinstance(record, Progress):
        return standing(record)
    if isinstance(record, Step):
        return f"{record.problem_id}: {record.title}{agreed(record)}"
    if isinstance(record, dict):
        return f"{record['kind']} keys: same family {record['same_family']:.1%}"
    return ""


def standing(progress: Any) -> str:
    """How the systems stand, in one line."""
    each = [f"{s.system} ({s.form}) {s.accuracy:.0%} of {s.n}" for s in progress.standings]
    return f"{progress.done} of {progress.total} replies" + (": " + ", ".join(each) if each else "")


# ---------- The command `bench`: our figures beside those of other programs, and how cost grows.

bench_commands = typer.Typer()
MEASURED = ("model", "device", "seed", "rollouts", "temperature", "steps")


Only = Annotated[list[str], option("Only this row, or series with --scale; may be given again.")]
Repeats = Annotated[
    int, typer.Option(min=1, help="Runs of each side, in turns; the median counts.")
]
Tokens = Annotated[int, typer.Option(min=12, help="Length of every rollout.")]
PeerSteps = Annotated[
    int, typer.Option(min=1, help="Steps that both sides of `memory` are measured for.")
]
ReportFile = Annotated[
    Path | None,
    option("The report, to which rows are added as they are done (bench.json; scale.json)."),
]
PassOver = Annotated[
    bool,
    typer.Option(
        "--resume", help="Pass over what the report has with these settings and versions."
    ),
]
Scale = Annotated[
    bool, typer.Option("--scale", help="How cost grows, with a picture, instead of the rows.")
]
TableOnly = Annotated[
    bool, typer.Option("--table", help="Print the report as it is; measure nothing.")
]
SHARED = ("model", "device", "dtype", "rollouts", "temperature", "steps", "seed")
TRAINED = ("virtual_tokens", "learning_rate", "init_text")  # settings that the bench takes over


@command(bench_commands, *MEASURED, name="bench")
def bench(
    overrides: dict[str, Any],
    as_json: bool,
    only: Only = [],
    repeats: Repeats = 3,
    tokens: Tokens = 200,
    peer_steps: PeerSteps = 2,
    out: ReportFile = None,
    resume: PassOver = False,
    scale: Scale = False,
    table: TableOnly = False,
) -> int:
    """Measure this machine: our figures beside those of other programs for the same work, in one
    run.

    Peers that are not installed (extra `bench`) leave their rows with ours alone. ctrl-C stops;
    what is done is kept.
    """
    from ..bench import runner
    from ..bench import scale as scaling
    from ..bench.workloads import Workload
    from ..settings import Settings
    from . import console

    settings = Settings(**overrides)
    work = Workload(
        **{name: getattr(settings, name) for name in (*SHARED, *TRAINED)},
        tokens=tokens,
        peer_steps=peer_steps,
    )
    kind = "scale" if scale else "bench"
    file = out or Path(f"{kind}.json")
    if not table:
        module: Any = scaling if scale else runner
        chosen = module.chosen(only)
        for record in console.follow(module.run(chosen, work, repeats, file, resume=resume)):
            if as_json:
                console.print_lines([{"record": type(record).__name__, **asdict(record)}])
    return DONE if as_json and not table else show(file, kind, as_json, done=not table)


def show(file: Path, kind: str, as_json: bool, done: bool) -> int:
    """The report in `file` as tables or lines of JSON; series that are `done` get their page."""
    from ..bench import report
    from . import console

    data = report.read(file, kind)
    if as_json:
        name = {"scale": "Series", "bench": "Row"}[kind]
        console.print_lines({"record": name, **r} for r in data.get("rows", []))
        return DONE
    made = (report.growth if kind == "scale" else report.overview)(data)
    typer.echo(made.markdown(), nl=False)
    if done:
        page = ""
        if kind == "scale":
            page = f" The picture is in {file.with_suffix('.html')}."
            report.write(file.with_suffix(".html"), made.html())
        typer.echo(f"\nThe report is in {file}.{page}")
    return DONE
