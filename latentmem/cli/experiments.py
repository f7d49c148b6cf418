"""The commands `evaluate` (does a memory help on problems it has not seen?) and `bench` (our
figures beside those of other programs)."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..files import file_errors
from ..records import LatentmemError, Status, Step
from .options import DONE, command, engine_for, option

if TYPE_CHECKING:
    from ..evaluation.suites import RunOptions, Suite

evaluation_commands = typer.Typer()
DECIDING = (
    "model device seed rollouts max_new_tokens steps learning_rate key min_similarity verifier"
).split()
SHOWN = (
    "recipe learner kind problem_id step accuracy base delta helped hurt reason same_family"
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
Protocols = Annotated[
    list[str], option("heldout, stream, transfer, single or keys; may be given again.")
]
Distil = Annotated[Count, option("Problems to learn from.", min=0)]
Test = Annotated[Count, option("Problems to be asked.", min=0)]
Stream = Annotated[Count, option("Problems of the stream.", "--stream", min=1)]
Systems = Annotated[str, option("Systems of the comparison, with commas between.")]
Forms = Annotated[str, option("one (a greedy trace), vote (of eight), or one,vote.")]
ResultsFolder = Annotated[Path | None, option("The folder of results (default: evaluation-SUITE).")]
Resume = Annotated[
    bool, typer.Option(help="Continue with what the folder holds, or refuse one that is not empty.")
]
Strict = Annotated[bool, typer.Option("--strict", help="Refuse a data set with a malformed line.")]
Rows = Annotated[Count, option("Traces sampled in one batch.", min=1)]
Together = Annotated[Count, option("Memories trained in one batch.", min=1)]
Block = Annotated[int, typer.Option(min=1, help="Problems of the stream that arrive together.")]
Votes = Annotated[Count, option("Traces of vote_n.", min=1)]
OfflineSteps = Annotated[
    Count, option("Gradient steps of the offline systems, four problems each.", min=1)
]
SweepFile = Annotated[Path | None, option("Try the recipes of this JSON file instead.")]
Learners = Annotated[str, option("How `single` trains: soft prompt, LoRA, full parameters.")]
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
    resume: Resume = True,
    strict: Strict = False,
    rows: Rows = None,
    together: Together = None,
    block: Block = 1,
    votes: Votes = None,
    offline_steps: OfflineSteps = None,
    sweep: SweepFile = None,
    learners: Learners = "",
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
        "learners": _listed(learners),
    }
    chosen = _suite(suite, _given(asked), _listed(forms))
    folder = out or Path(f"evaluation-{suite}")
    if report_only:
        return report(folder, also)
    _refuse_idle(sweep, asked)
    if not resume:
        _refuse_full(folder)
    from ..evaluation.suites import RunOptions
    from ..evaluation.sweep import read

    budgets = _given({"votes": votes, "offline_steps": offline_steps})
    plan = read(sweep) if sweep else None
    how = {"strict": strict, "rows": rows, "together": together, "block": block, **budgets}
    follow(records(RunOptions(chosen, folder, sweep=plan, **how), overrides), as_json)
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


def _refuse_idle(sweep: Path | None, asked: dict[str, Any]) -> None:
    """Raises LatentmemError for options that a sweep does not use."""
    asked = asked | {"data": asked["data"][1:]}  # a sweep is about the first
    if sweep and (idle := _given(asked)):
        raise LatentmemError(
            f"A sweep says itself what it tries and asks, and {', '.join(idle)} would do nothing "
            "beside --sweep: leave it out, or write it into the sweep file."
        )


def _refuse_full(folder: Path) -> None:
    """Raises LatentmemError for a folder that is not empty, or not a folder."""
    with file_errors(folder, "a folder of results", "give another with --out"):
        if folder.exists() and any(folder.iterdir()):
            raise LatentmemError(
                f"{folder} is not empty: give another folder with --out, or leave --no-resume out."
            )


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


def follow(those: Iterator[Any], as_json: bool) -> None:
    """Progress on standard error; with --json results and lessons on standard output."""
    from ..evaluation.results import Learned, Progress, Result
    from . import console

    with console.progress() as show:
        for record in those:
            if isinstance(record, Progress):
                show(standing(record), often=True)
            elif isinstance(record, Status):
                show(record.text, often=record.total > 0)
            elif isinstance(record, Step):
                agreement = f"agreement {record.agreement:.0%}"
                show(f"{record.problem_id}: {record.title}, {agreement}", often=True)
            elif isinstance(record, dict):
                show(", ".join(f"{k} {v}" for k, v in record.items() if k in SHOWN))
            if as_json and isinstance(record, (Result, Learned, dict)):
                console.print_lines([record])


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
TogetherSteps = Annotated[int, typer.Option(min=1, help="Steps of the row `together`.")]
Memories = Annotated[int, typer.Option(min=1, help="In the bank that is searched.")]
Mapped = Annotated[int, typer.Option(min=3, help="In the bank whose map is drawn.")]
PeerDtype = Annotated[
    str,
    typer.Option(
        help="float32, bfloat16; auto: what suits the device, for peak memory the smaller."
    ),
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
Profile = Annotated[
    bool,
    typer.Option(
        "--profile",
        help="Where the time of a distillation goes, instead of the rows (profile.json).",
    ),
]
Largest = Annotated[Count, option("With --scale: no sizes above this.", min=1)]
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
    together_steps: TogetherSteps = 2,
    memories: Memories = 100_000,
    mapped: Mapped = 10_000,
    peer_dtype: PeerDtype = "auto",
    out: ReportFile = None,
    resume: PassOver = False,
    scale: Scale = False,
    profile: Profile = False,
    largest: Largest = None,
    table: TableOnly = False,
) -> int:
    """Measure this machine: our figures beside those of other programs for the same work, in one
    run.

    Peers that are not installed (extra `bench`) leave their rows with ours alone. ctrl-C stops;
    what is done is kept.
    """
    from ..bench import profile as profiling
    from ..bench import runner
    from ..bench import scale as scaling
    from ..bench.workloads import Workload
    from ..settings import Settings

    settings = Settings(**overrides)
    work = Workload(
        **{name: getattr(settings, name) for name in (*SHARED, *TRAINED)},
        tokens=tokens,
        peer_steps=peer_steps,
        together_steps=together_steps,
        memories=memories,
        mapped=mapped,
        peer_dtype=peer_dtype,
    )
    kind = "scale" if scale else "profile" if profile else "bench"
    file = out or Path(f"{kind}.json")
    if table:
        return show(file, kind, as_json)
    if profile:
        measured: Iterator[Any] = profiling.run(work, file)
    elif scale:
        chosen = scaling.chosen(only)
        measured = scaling.run(chosen, work, repeats, file, resume=resume, largest=largest)
    else:
        measured = runner.run(runner.chosen(only), work, repeats, file, resume=resume)
    follow_bench(measured, as_json)
    return DONE if as_json else show(file, kind, as_json=False, done=True)


def follow_bench(records: Any, as_json: bool) -> None:
    """Progress on standard error; with --json every finished row as a line on standard output."""
    from . import console

    with console.progress() as show:
        for record in records:
            if isinstance(record, Status):
                part = f" ({record.done:.0f} of {record.total:.0f})" if record.total else ""
                show(record.text + part)
            elif as_json:
                console.print_lines([{"record": type(record).__name__, **asdict(record)}])


def show(file: Path, kind: str, as_json: bool, done: bool = False) -> int:
    """The report in `file` as tables or lines of JSON; a `done` series gets its picture."""
    from ..bench import report
    from . import console

    data = report.read(file, kind)
    rows = data.get("rows", [])
    if as_json:
        name = {"scale": "Series", "profile": "Part", "bench": "Row"}[kind]
        console.print_lines([{"record": name, **r} for r in rows])
    elif kind == "bench":
        typer.echo(report.markdown(data), nl=False)
    else:
        tables = report.figure_markdown if kind == "scale" else report.parts_markdown
        typer.echo(tables(rows), nl=False)
    if done and kind != "profile":
        picture = f" The picture is in {report.save_figure(rows, file)}." if kind == "scale" else ""
        typer.echo(f"\nThe report is in {file}.{picture}")
    return DONE
