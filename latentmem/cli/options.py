"""What commands share: settings as options, `--set`, `--json`, exit codes, problems."""

from __future__ import annotations

import functools
import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
from typer.core import TyperCommand, TyperGroup

from ..evaluation.reader import FORMATS, read_problems
from ..records import LatentmemError, Problem

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from ..engine import Engine
    from ..settings import Settings

DONE, ERROR, NOTHING, STOPPED = 0, 1, 3, 130  # exit codes; 2 is typer's, for a wrong option

SAMPLING = ("model", "device", "bank", "seed", "rollouts", "temperature", "max_new_tokens")


def option(text: str, *names: str, **more: Any) -> Any:
    """An option whose help shows no default."""
    return typer.Option(*names, help=text, show_default=False, **more)


ProblemText = Annotated[
    str | None, typer.Argument(metavar="PROBLEM", help="The problem; - reads standard input.")
]
ProblemFile = Annotated[
    Path | None,
    option("A file of problems: JSONL, JSON, CSV, Parquet.", "--file"),
]
ProblemIds = Annotated[
    list[str],
    option("Which problem of the file (default: the first).", "--id"),
]

MemoryId = Annotated[
    str, typer.Argument(metavar="ID", help="A memory's id, or its first characters.")
]

Body = Callable[..., int]  # (overrides, as_json, ...) -> exit code


def make_engine(settings: Settings) -> Engine:
    """The engine behind every command; tests put theirs here."""
    from ..engine import Engine

    return Engine(settings)


def engine_for(overrides: dict[str, Any]) -> Engine:
    """An engine with the settings of the command line. Raises LatentmemError for a wrong one."""
    from ..settings import Settings

    return make_engine(Settings(**overrides))


def command(
    group: typer.Typer, *options: str, name: str = ""
) -> Callable[[Body], Callable[..., None]]:
    """Registers `body(overrides, as_json, ...) -> exit code` with some settings as options, `--set`
    and `--json`.

    Without a name, it is what the group itself does, and its options hold for the group's commands
    too: `memories --bank B show ID` and `memories show ID --bank B` are the same. A LatentmemError
    becomes its sentence on standard error, ctrl-C one line.
    """

    def register(body: Body) -> Callable[..., None]:
        @functools.wraps(body)
        def run(ctx: typer.Context, set_: list[str], json_: bool, **values: Any) -> None:
            given = {field: v for field in options if (v := values.pop(field)) is not None}
            before, was_json = ctx.obj or ({}, False)
            try:
                ctx.obj = overrides, as_json = before | given | assignments(set_), was_json or json_
                if ctx.invoked_subcommand:
                    return
                code = body(overrides, as_json, **values)
            except LatentmemError as e:
                from .console import plain

                typer.echo(plain(e), err=True)  # it may quote what strangers wrote
                code = ERROR
            except KeyboardInterrupt:
                typer.echo("Stopped; nothing half-done was stored.", err=True)
                code = STOPPED
            raise typer.Exit(code)

        # typer reads the signature: ours in place of the body's.
        own = list(inspect.signature(body, eval_str=True).parameters.values())[2:]
        own = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
        run.__signature__ = inspect.Signature(
            [_parameter("ctx", typer.Context), *own, *_shared(options)]
        )
        if name:
            return group.command(name, cls=SettingsCommand)(run)
        return group.callback(cls=SettingsGroup, invoke_without_command=True)(run)

    return register


def _parameter(name: str, kind: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=default)


def _shared(options: tuple[str, ...]) -> list[inspect.Parameter]:
    """The options of the given settings, `--set` and `--json` as parameters of a function. Values
    arrive as they were typed: Settings reads and checks them, wherever they come from."""
    panel: dict[str, Any] = {"rich_help_panel": "Settings", "show_default": False}
    made = []
    for field in options:
        option = typer.Option("--" + field.replace("_", "-"), **panel)
        made.append(_parameter(field, Annotated[str | None, option], None))
    others = typer.Option(
        "--set", metavar="FIELD=VALUE", help="Any setting; `latentmem doctor` lists them.", **panel
    )
    lines = typer.Option("--json", help="Standard output: one JSON record a line, nothing else.")
    made.append(_parameter("set_", Annotated[list[str], others], []))
    return [*made, _parameter("json_", Annotated[bool, lines], False)]


class _Described:
    """Takes help, type and bounds of the options that are settings from the fields of Settings, and
    only when help is shown, so that `latentmem --help` loads no pydantic."""

    params: list[Any]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        from ..settings import Settings

        for option in self.params:
            if field := Settings.model_fields.get(option.name):
                option.metavar, bounds = allowed(field)
                option.help = f"{field.description}{bounds}"
        super().format_options(ctx, formatter)  # type: ignore[misc]


class SettingsCommand(_Described, TyperCommand):
    """A command with settings among its options."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except Exception as e:  # click's NoSuchOption, which typer keeps to itself
            if re.match(r"-[^-A-Za-z]", getattr(e, "option_name", "")):
                hint = " (A problem that begins with - stands behind --, as in -- '-5 + 3'.)"
                e.message += hint  # type: ignore[attr-defined]
            raise


class SettingsGroup(_Described, TyperGroup):
    """A group of commands with settings among its options."""


def allowed(field: FieldInfo) -> tuple[str, str]:
    """The values that a setting takes, as typer shows them: ('auto|cpu', ''), or
    ('<int>', '  [1<=x<=256]')."""
    if choices := get_args(field.annotation):
        return "|".join(map(str, choices)), ""
    kind = f"<{field.annotation.__name__.lower()}>"
    low, high = "", ""
    for one in field.metadata:
        for name, sign in (("ge", "<="), ("gt", "<")):
            low = f"{getattr(one, name):g}{sign}" if hasattr(one, name) else low
        for name, sign in (("le", "<="), ("lt", "<")):
            high = f"{sign}{getattr(one, name):g}" if hasattr(one, name) else high
    return kind, f"  [{low}x{high}]" if low or high else ""


def assignments(pairs: list[str]) -> dict[str, str]:
    """{'steps': '5'} of ['steps=5'], unchecked. Raises LatentmemError for one without '='."""
    for pair in pairs:
        if "=" not in pair:
            raise LatentmemError(
                f"--set {pair!r} has no value: write FIELD=VALUE, for example --set steps=5."
            )
    parts = (pair.partition("=") for pair in pairs)
    return {name.strip().replace("-", "_"): value.strip() for name, _, value in parts}


def named_problems(text: str | None, file: Path | None, ids: list[str]) -> list[Problem]:
    """The problems that a person names: as an argument, on standard input (-), or by id in a file;
    at least one.

    Raises LatentmemError if there is none, if an id is not in the file, or if the text is not
    UTF-8.
    """
    if (text is None) == (file is None):
        raise LatentmemError(
            "Give one problem: as text, as - for standard input, or as --file problems.jsonl --id "
            "X."
        )
    if file is not None:
        return _from_file(file, ids)
    if ids:
        raise LatentmemError(f"--id {ids[0]} needs a file to look in: add --file problems.jsonl.")
    if text == "-":
        try:
            text = sys.stdin.read()
        except UnicodeDecodeError:
            raise LatentmemError("Standard input is not UTF-8: save it as UTF-8.") from None
    assert text is not None
    if any("\ud800" <= c <= "\udfff" for c in text):  # how Python spells bytes that are not UTF-8
        raise LatentmemError("The problem is not UTF-8: type or save it as UTF-8.")
    return [Problem(text.strip())]


def one_problem(text: str | None, file: Path | None, ids: list[str]) -> Problem:
    """Like `named_problems`, for a command that takes exactly one."""
    problems = named_problems(text, file, ids)
    if len(problems) > 1:
        raise LatentmemError(
            f"{len(problems)} problems were named: this command takes one, give --id once."
        )
    return problems[0]


def _from_file(file: Path, ids: list[str]) -> list[Problem]:
    found: dict[str, Problem] = {}
    for problem in read_problems(file):
        if not ids:
            return [problem]
        found.setdefault(problem.id, problem)
    missing = [i for i in ids if i not in found]
    if missing:
        raise LatentmemError(
            f"{file} has no problem {missing[0]!r}: its {len(found)} ids begin with "
            f"{', '.join(list(found)[:3])}."
        )
    if not ids:
        raise LatentmemError(f"{file} has no problems: give a file of problems ({FORMATS}).")
    return [found[i] for i in ids]
