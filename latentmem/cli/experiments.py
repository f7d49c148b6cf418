"""The command `evaluate`: does a memory help on problems it has not seen?"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..records import LatentmemError, Status, Step
from . import options as cli_command
from .options import DONE, command

if TYPE_CHECKING:
    from ..evaluation.suites import Order, Suite

evaluation_commands = typer.Typer()
DECIDING = (
    "model",
    "device",
    "seed",
    "rollouts",
    "max_new_tokens",
    "steps",
    "learning_rate",
    "key",
    "min_similarity",
    "verifier",
)
SHOWN = (
    "recipe",
    "learner",
    "kind",
    "problem_id",
    "step",
    "accuracy",
    "base",
    "delta",
    "helped",
    "hurt",
    "reason",
    "same_family",
)
LIST = {"show_default": False}
UNMEASURED = (
    "nothing of what was asked for could be measured; ask problems with --test, or give other data"
)


@command(evaluation_commands, *DECIDING, name="evaluate")
def evaluate(
    overrides: dict[str, Any],
    as_json: bool,
    suite: Annotated[
        str, typer.Option(help="quick (minutes on two cores), standard, or paper (a GPU).")
    ] = "quick",
    data: Annotated[
        list[str],
        typer.Option(
            help="A JSONL file, gsm8k, math500, amc23, aime24, examples, or "
            "rg:FAMILY?size=100&seed=1; may be given again.",
            **LIST,
        ),
    ] = [],
    test_data: Annotated[
        list[str],
        typer.Option(help="Ask problems of these instead of the other part of --data.", **LIST),
    ] = [],
    protocol: Annotated[
        list[str],
        typer.Option(help="heldout, stream, transfer, single or keys; may be given again.", **LIST),
    ] = [],
    distil: Annotated[
        int | None, typer.Option(min=0, help="Problems to learn from.", **LIST)
    ] = None,
    test: Annotated[int | None, typer.Option(min=0, help="Problems to be asked.", **LIST)] = None,
    arriving: Annotated[
        int | None, typer.Option("--stream", min=1, help="Problems of the stream.", **LIST)
    ] = None,
    systems: Annotated[
        str, typer.Option(help="Rows of the comparison, with commas between.", **LIST)
    ] = "",
    forms: Annotated[
        str, typer.Option(help="one (a greedy trace), vote (of eight), or one,vote.", **LIST)
    ] = "",
    out: Annotated[
        Path | None, typer.Option(help="The folder of results (default: evaluation-SUITE).", **LIST)
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(help="Go on with what the folder holds, or refuse one that is not empty."),
    ] = True,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse a data set with a malformed line.")
    ] = False,
    rows: Annotated[
        int | None, typer.Option(min=1, help="Traces sampled in one batch.", **LIST)
    ] = None,
    together: Annotated[
        int | None, typer.Option(min=1, help="Memories trained in one batch.", **LIST)
    ] = None,
    block: Annotated[
        int, typer.Option(min=1, help="Problems of the stream that arrive together.")
    ] = 1,
    votes: Annotated[int | None, typer.Option(min=1, help="Traces of vote_n.", **LIST)] = None,
    offline_steps: Annotated[
        int | None,
        typer.Option(min=1, help="Gradient steps of the offline rows, four problems each.", **LIST),
    ] = None,
    sweep: Annotated[
        Path | None, typer.Option(help="Try the recipes of this JSON file instead.", **LIST)
    ] = None,
    learners: Annotated[
        str, typer.Option(help="How `single` trains: soft prompt, LoRA, full parameters.", **LIST)
    ] = "",
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Make the report of what is there.")
    ] = False,
    also: Annotated[
        list[Path], typer.Option(help="Another folder whose runs the report shows.", **LIST)
    ] = [],
    readme: Annotated[
        Path | None,
        typer.Option(help="Write the table of --out's evidence.json into this README.", **LIST),
    ] = None,
) -> int:
    """Compare systems on problems with known answers. What is done is kept: after a stop, the same
    command goes on.

    At the end, and with --report-only, the folder gets report.html, report.md, evidence.json and
    outcomes.jsonl.
    """
    from ..evaluation.suites import Order, suite_named
    from ..evaluation.sweep import read

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
    chosen = replace(suite_named(suite), **_given(asked))
    if systems:
        chosen = replace(chosen, online=())
    if forms:
        chosen = replace(chosen, modes={name: _listed(forms) for name in chosen.systems})
    folder = out or Path(f"evaluation-{suite}")
    if readme is not None:
        from ..evaluation.evidence import update_readme

        update_readme(readme, folder / "evidence.json")
        return DONE
    if report_only:
        return report(folder, also)
    if not resume:
        _refuse_full(folder)
    _refuse_idle(sweep, asked)
    order = Order(
        chosen,
        folder,
        strict=strict,
        rows=rows,
        together=together,
        block=block,
        sweep=read(sweep) if sweep else None,
        **_given({"votes": votes, "offline_steps": offline_steps}),
    )
    follow(records(order, chosen, overrides), as_json)
    return report(folder, also, remedy=UNMEASURED)


def report(folder: Path, also: list[Path], **told: str) -> int:
    """Write the report and say where it is. `told`: what is said where there is nothing to report."""
    from ..evaluation.report import make

    for file in make(folder, also, **told).values():
        typer.echo(f"{file} is written.", err=True)
    return DONE


def _refuse_idle(sweep: Path | None, asked: dict[str, Any]) -> None:
    """Raises LatentmemError for what a sweep would pass over."""
    if sweep is None:
        return
    asked = asked | {"data": asked["data"][1:]}  # the first is what it is about
    if idle := [name for name, value in asked.items() if value not in (None, ())]:
        raise LatentmemError(
            f"A sweep says itself what it tries and asks, and {', '.join(idle)} would do nothing "
            "beside --sweep: leave it out, or write it into the sweep file."
        )


def _refuse_full(folder: Path) -> None:
    """Raises LatentmemError for a folder that holds something, or is none."""
    try:
        full = any(folder.iterdir())
    except FileNotFoundError:
        return
    except OSError as e:
        raise LatentmemError(
            f"{folder} cannot be a folder of results ({e.strerror}): give another with --out."
        ) from None
    if full:
        raise LatentmemError(
            f"{folder} is not empty: give another folder with --out, or leave --no-resume out."
        )


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """Those that were given; the others keep the suite's values."""
    return {name: value for name, value in options.items() if value not in (None, ())}


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def records(order: Order, suite: Suite, overrides: dict[str, Any]) -> Iterator[Any]:
    """The suite with each of its models in turn; a model, or another setting, that a person gave on
    the command line or in the environment takes the place of the suite's."""
    from ..evaluation.suites import run, slug
    from ..settings import Settings

    by_hand = Settings(**overrides).model_fields_set  # the environment's among them
    usual = {name: value for name, value in suite.settings.items() if name not in by_hand}
    models = [None] if "model" in by_hand else list(suite.models) or [None]
    for model in models:
        given = {**usual, **({"model": model} if model else {}), **overrides}
        engine = cli_command.engine_for(given)
        out = order.out / slug(model.rsplit("/", 1)[-1]) if len(models) > 1 else order.out
        yield from run(engine, replace(order, out=out, seed=engine.settings.seed))
        del engine
        # what it was made of refers to itself in circles, and the next model needs the room
        gc.collect()


def follow(those: Iterator[Any], as_json: bool) -> None:
    """Progress on standard error; with --json every result and lesson as a line on standard output."""
    from ..evaluation.results import Learned, Progress, Result
    from . import console

    last = ""
    for record in those:
        if isinstance(record, (Progress, Status)):  # training says the same for each part of a step
            said = standing(record) if isinstance(record, Progress) else record.text
            if said != last:
                typer.echo(said, err=True)
            last = said
        elif isinstance(record, Step):
            typer.echo(
                f"{record.problem_id}: {record.title}, agreement {record.agreement:.0%}", err=True
            )
        elif isinstance(record, dict):
            typer.echo(", ".join(f"{k} {v}" for k, v in record.items() if k in SHOWN), err=True)
        if as_json and isinstance(record, (Result, Learned, dict)):
            console.print_lines([record])


def standing(progress: Any) -> str:
    """How the systems stand, in one line."""
    each = [f"{s.system} ({s.form}) {s.accuracy:.0%} of {s.n}" for s in progress.standings]
    return f"{progress.done} of {progress.total} replies" + (": " + ", ".join(each) if each else "")


# ---------- The command `bench`: our figures beside those of other programs, and how cost grows.

bench_commands = typer.Typer()
MEASURED = ("model", "device", "seed", "rollouts", "temperature", "steps")


@command(bench_commands, *MEASURED, name="bench")
def bench(
    overrides: dict[str, Any],
    as_json: bool,
    only: Annotated[
        list[str],
        typer.Option(
            help="Only this row, or series with --scale; may be given again.", show_default=False
        ),
    ] = [],
    repeats: Annotated[
        int, typer.Option(min=1, help="Runs of each side, in turns; the median counts.")
    ] = 3,
    tokens: Annotated[int, typer.Option(min=12, help="Length of every rollout.")] = 200,
    peer_steps: Annotated[
        int, typer.Option(min=1, help="Steps that both sides of `memory` are measured for.")
    ] = 2,
    together_steps: Annotated[int, typer.Option(min=1, help="Steps of the row `together`.")] = 2,
    memories: Annotated[int, typer.Option(min=1, help="In the bank that is searched.")] = 100_000,
    mapped: Annotated[int, typer.Option(min=3, help="In the bank whose map is drawn.")] = 10_000,
    peer_dtype: Annotated[
        str,
        typer.Option(
            help="float32, bfloat16; auto: the faster in a short probe, "
            "for peak memory the smaller."
        ),
    ] = "auto",
    out: Annotated[
        Path | None,
        typer.Option(
            help="The report, to which rows are added as they are done (bench.json; scale.json).",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Pass over what the report has with these settings and versions."
        ),
    ] = False,
    scale: Annotated[
        bool, typer.Option("--scale", help="How cost grows, with a picture, instead of the rows.")
    ] = False,
    profile: Annotated[
        bool,
        typer.Option(
            "--profile",
            help="Where the time of a distillation goes, instead of the rows (profile.json).",
        ),
    ] = False,
    largest: Annotated[
        int | None,
        typer.Option(min=1, help="With --scale: no sizes above this.", show_default=False),
    ] = None,
    table: Annotated[
        bool, typer.Option("--table", help="Print the report as it is; measure nothing.")
    ] = False,
) -> int:
    """Measure this machine: our figures beside those of other programs for the same work, in one
    run.

    Peers that are not installed (extra `bench`) leave their rows with ours alone. ctrl-C stops;
    what is done is kept.
    """
    from ..bench import runner as bench_run
    from ..bench import runner as row_table
    from ..bench import scale as scaling
    from ..bench.workloads import Work
    from ..settings import Settings

    settings = Settings(**overrides)
    shared = {
        name: getattr(settings, name)
        for name in (
            "model",
            "device",
            "dtype",
            "rollouts",
            "temperature",
            "steps",
            "seed",
            "virtual_tokens",
            "learning_rate",
            "init_text",
        )
    }
    work = Work(
        **shared,
        tokens=tokens,
        peer_steps=peer_steps,
        together_steps=together_steps,
        memories=memories,
        mapped=mapped,
        peer_dtype=peer_dtype,
    )
    file = out or Path("scale.json" if scale else "profile.json" if profile else "bench.json")
    if profile:
        return profiled(work, file, as_json, table)
    if table:
        return show(file, scale, as_json)
    if scale:
        records = scaling.run(
            scaling.chosen(only), work, repeats, file, resume=resume, largest=largest
        )
    else:
        records = bench_run.run(row_table.chosen(only), work, repeats, file, resume=resume)
    follow_bench(records, as_json)
    return show(file, scale, as_json=False, pictures=True) if not as_json else DONE


def profiled(work: Any, file: Path, as_json: bool, table: bool) -> int:
    """The operations of rollouts and of a gradient step, measured unless `table`, as tables or as
    lines of JSON."""
    from ..bench import profile, report
    from . import console

    if not table:
        follow_bench(profile.run(work, file), as_json)
    parts = report.read(file, "profile").get("rows", [])
    if not as_json:
        typer.echo(profile.markdown(parts), nl=False)
    elif table:
        console.print_lines([{"record": "Part", **p} for p in parts])
    return DONE


def follow_bench(records: Any, as_json: bool) -> None:
    """Progress on standard error; with --json every finished row as a line on standard output."""
    from dataclasses import asdict

    from . import console

    for record in records:
        if isinstance(record, Status):
            part = f" ({record.done:.0f} of {record.total:.0f})" if record.total else ""
            typer.echo(record.text + part, err=True)
        elif as_json:
            console.print_lines([{"record": type(record).__name__, **asdict(record)}])


def show(file: Path, scale: bool, as_json: bool, pictures: bool = False) -> int:
    """The report in `file`: a table in Markdown, or its rows as lines of JSON."""
    from ..bench import report
    from ..bench import report as figure
    from . import console

    data = report.read(file, "scale" if scale else "bench")
    rows = data.get("rows", [])
    if as_json:
        console.print_lines([{"record": "Series" if scale else "Row", **r} for r in rows])
        return DONE
    typer.echo(
        figure.figure_markdown(rows)
        if scale
        else report.markdown(rows, data.get("machine"), data.get("versions")),
        nl=False,
    )
    said = [f"The report is in {file}."]
    if scale and pictures:
        page, _ = figure.save_figure(rows, file)
        said.append(f"The picture is in {page}.")
    if pictures:
        typer.echo("\n" + " ".join(said))
    return DONE
