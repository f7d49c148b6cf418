"""The command `bench`: our figures beside those of other programs, and how cost grows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .cli_command import DONE, command
from .records import Status

commands = typer.Typer()
MEASURED = ("model", "device", "seed", "rollouts", "temperature", "steps")


@command(commands, *MEASURED, name="bench")
def bench(overrides: dict[str, Any], as_json: bool,
          only: Annotated[list[str], typer.Option(help="Only this row, or series with --scale; may be given again.",
                                                  show_default=False)] = [],  # noqa: B006 - typer makes a new list
          repeats: Annotated[int, typer.Option(min=1, help="Runs of each side, in turns; the median counts.")] = 3,
          tokens: Annotated[int, typer.Option(min=12, help="Length of every rollout.")] = 200,
          peer_steps: Annotated[int, typer.Option(min=1, help="Steps that both sides of `memory` are measured for.")] = 2,
          together_steps: Annotated[int, typer.Option(min=1, help="Steps of the row `together`.")] = 2,
          memories: Annotated[int, typer.Option(min=1, help="In the bank that is searched.")] = 100_000,
          mapped: Annotated[int, typer.Option(min=3, help="In the bank whose map is drawn.")] = 10_000,
          peer_dtype: Annotated[str, typer.Option(help="float32, bfloat16; auto: the faster in a short probe, "
                                                         "for peak memory the smaller.")] = "auto",
          out: Annotated[Path | None, typer.Option(help="The report, to which rows are added as they are done "
                                                        "(bench.json; scale.json).", show_default=False)] = None,
          resume: Annotated[bool, typer.Option("--resume", help="Pass over what the report has with these settings and "
                                                                "versions.")] = False,
          scale: Annotated[bool, typer.Option("--scale", help="How cost grows, with a picture, instead of the rows.")] = False,
          profile: Annotated[bool, typer.Option("--profile", help="Where the time of a distillation goes, instead of the "
                                                                  "rows (profile.json).")] = False,
          largest: Annotated[int | None, typer.Option(min=1, help="With --scale: no sizes above this.",
                                                      show_default=False)] = None,
          table: Annotated[bool, typer.Option("--table", help="Print the report as it is; measure nothing.")] = False) -> int:
    """Measure this machine: our figures beside those of other programs for the same work, in one run.

    Peers that are not installed (extra `bench`) leave their rows with ours alone. ctrl-C stops; what is done is kept.
    """
    from .bench import rows as row_table
    from .bench import run as bench_run
    from .bench import scale as scaling
    from .bench.work import Work
    from .settings import Settings

    settings = Settings(**overrides)
    shared = {name: getattr(settings, name) for name in ("model", "device", "dtype", "rollouts", "temperature", "steps", "seed",
                                                         "virtual_tokens", "learning_rate", "init_text")}
    work = Work(**shared, tokens=tokens, peer_steps=peer_steps, together_steps=together_steps, memories=memories,
                mapped=mapped, peer_dtype=peer_dtype)
    file = out or Path("scale.json" if scale else "profile.json" if profile else "bench.json")
    if profile:
        return profiled(work, file, as_json, table)
    if table:
        return show(file, scale, as_json)
    if scale:
        records = scaling.run(scaling.chosen(only), work, repeats, file, resume=resume, largest=largest)
    else:
        records = bench_run.run(row_table.chosen(only), work, repeats, file, resume=resume)
    follow(records, as_json)
    return show(file, scale, as_json=False, pictures=True) if not as_json else DONE


def profiled(work: Any, file: Path, as_json: bool, table: bool) -> int:
    """The operations of rollouts and of a gradient step, measured unless `table`, as tables or as lines of JSON."""
    from . import console
    from .bench import profile, report

    if not table:
        follow(profile.run(work, file), as_json)
    parts = report.read(file, "profile").get("rows", [])
    if not as_json:
        typer.echo(profile.markdown(parts), nl=False)
    elif table:
        console.print_lines([{"record": "Part", **p} for p in parts])
    return DONE


def follow(records: Any, as_json: bool) -> None:
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
    from . import console
    from .bench import figure, report

    data = report.read(file, "scale" if scale else "bench")
    rows = data.get("rows", [])
    if as_json:
        console.print_lines([{"record": "Series" if scale else "Row", **r} for r in rows])
        return DONE
    typer.echo(figure.markdown(rows) if scale else report.markdown(rows, data.get("machine"), data.get("versions")), nl=False)
    said = [f"The report is in {file}."]
    if scale and pictures:
        page, _ = figure.save(rows, file)
        said.append(f"The picture is in {page}.")
    if pictures:
        typer.echo("\n" + " ".join(said))
    return DONE
