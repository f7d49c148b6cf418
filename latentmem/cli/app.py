"""The command line: `latentmem` or `python -m latentmem`. Thin: it reads options, asks the engine,
prints records.

Exit codes: 0 done; 1 an error, one sentence on standard error; 2 a wrong option; 3 no answer, or
nothing was learnt; 130 stopped with ctrl-C. Heavy parts are imported inside the commands, so that
`--help` is quick.
"""

from __future__ import annotations

import io
import os
import socket
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from .. import __version__
from ..evaluation.reader import FORMATS, read_problems
from ..files import write_whole
from ..records import Delta, LatentmemError, Receipt, from_json
from . import bank, experiments, options
from .options import (
    DONE,
    ERROR,
    NOTHING,
    SAMPLING,
    STOPPED,
    ProblemFile,
    ProblemIds,
    ProblemText,
    command,
    engine_for,
    named_problems,
    one_problem,
    option,
)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)  # plain help: the marked-up one takes a tenth of a second to import


def _say_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"latentmem {__version__}")
        raise typer.Exit


@app.callback()
def top(
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_say_version, help="Print the version."),
    ] = False,
) -> None:
    """Watch a language model learn from its own thinking, and ask of any answer: which memory
    answered this?"""


@command(app, *SAMPLING, name="solve")
def solve(
    overrides: dict[str, Any],
    as_json: bool,
    problem: ProblemText = None,
    file: ProblemFile = None,
    ids: ProblemIds = [],
    memory: Annotated[str | None, option("Think with this memory.")] = None,
) -> int:
    """Sample traces for a problem and vote: the model alone, or with one memory."""
    from . import console

    asked = one_problem(problem, file, ids)
    engine = engine_for(overrides) if memory is None else bank.engine_on_bank(overrides)
    scene = console.run(engine.think(asked, memory_id=memory), as_json).scene
    vote = scene.votes["zero_shot" if memory is None else "memory"]
    if not as_json:
        message = "No answer: no trace ended with a boxed answer."
        if vote.clusters:
            by = f"{vote.clusters[0].size} of {vote.total} traces"
            message = f"The answer is {vote.label}, by {by}."
        console.out().print(console.vote_table(vote))
        console.say(message)
    return NOTHING if vote.abstained else DONE


@command(app, *SAMPLING, "steps", "learning_rate", name="distil")
def distil(
    overrides: dict[str, Any],
    as_json: bool,
    problem: ProblemText = None,
    file: ProblemFile = None,
    ids: ProblemIds = [],
) -> int:
    """Learn from the thinking on a problem: gives a memory, or in plain words the reason why there
    is none.

    Several --id of a file are distilled together, in one batch.
    """
    from . import console

    asked, engine = named_problems(problem, file, ids), engine_for(overrides)
    records = engine.distil(asked[0]) if len(asked) == 1 else engine.distil_many(asked)
    ended = console.run(records, as_json).distilled
    if not as_json:
        out = console.out()
        for result in ended:
            if result.steps:
                out.print(console.steps_table(result.steps))
            what = f"Memory {result.memory.id} “{result.memory.name}”. " if result.memory else ""
            which = f"{result.problem_id}: " if len(ended) > 1 else ""
            console.say(f"{which}{what}{result.reason}")
    return DONE if any(result.memory for result in ended) else NOTHING


@command(app, *SAMPLING, "steps", "learning_rate", name="build")
def build(
    overrides: dict[str, Any],
    as_json: bool,
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="Problems: JSONL, JSON, CSV, Parquet.")
    ],
    batch: Annotated[
        int, typer.Option(min=1, max=64, help="Problems that are learnt from together.")
    ] = 1,
    kind: Annotated[
        Literal["process", "ray"],
        typer.Option("--engine", help="This process, or workers of Ray (the extra `ray`)."),
    ] = "process",
    workers: Annotated[int, typer.Option(min=1, help="Of Ray, each with a model.")] = 2,
    threads: Annotated[
        int | None, option("Of each worker (default: the machine's cores, shared).", min=1)
    ] = None,
) -> int:
    """Learn from every problem of a file into the bank.

    Each memory is kept at once. After ctrl-C or a crash the same command goes on: what the bank
    has, and what taught nothing with these settings, is passed over.
    """
    from ..engine import build as building
    from ..evaluation.datasets import unique
    from . import console

    problems = unique(read_problems(data))
    if not problems:
        raise LatentmemError(f"{data} has no problems: give a file of problems ({FORMATS}).")
    engine = engine_for(overrides)
    bank = engine.settings.bank
    journal = None if str(bank) == ":memory:" else bank.with_name(f"{bank.name}.build.jsonl")
    outcomes: list[building.Outcome] = []
    if kind == "ray":
        from ..engine.ray_build import Crew, parallel

        crew = Crew(workers, threads or max(1, (os.cpu_count() or 1) // workers), batch)
        records = parallel(engine, problems, crew, make=options.make_engine, journal=journal)
    else:
        records = building.build(engine, problems, journal=journal, batch=batch)
    try:
        for record in console.follow(records, partial(console.building, outcomes, len(problems))):
            if isinstance(record, building.Outcome):
                outcomes.append(record)
            if as_json and not isinstance(record, Delta):
                console.print_lines([record])
            elif isinstance(record, building.Outcome):
                console.say(console.outcome_line(record))
    except KeyboardInterrupt:
        done = f"{len(outcomes)} of {len(problems)} problems are done"
        typer.echo(f"Stopped: {done}. The same command goes on.", err=True)
        return STOPPED
    if not as_json:
        console.say(building.summary(outcomes))
    return DONE if any(one.memory for one in outcomes) else NOTHING


@command(app, *SAMPLING, "key", "min_similarity", "verifier", name="answer")
def answer(
    overrides: dict[str, Any],
    as_json: bool,
    problem: ProblemText = None,
    file: ProblemFile = None,
    ids: ProblemIds = [],
    memory: Annotated[
        str, typer.Option(help="auto: the nearest memory; off: none; or a memory's id.")
    ] = "auto",
    receipt: Annotated[
        Path | None, option("Also write the receipt to this file, for `replay`.")
    ] = None,
) -> int:
    """Answer a problem alone and with a memory, choose a side, and print the receipt."""
    from . import console

    asked = one_problem(problem, file, ids)
    made = console.run(engine_for(overrides).answer(asked, memory), as_json).scene.receipt
    assert made is not None, "the last record of an answer is its receipt"
    if not as_json:
        console.say(made.sentence())
        console.out().print(console.receipt_table(made))
    if receipt is not None:  # last: a full disk must not cost the answer
        write_whole(receipt, console.line(made) + "\n")
    return NOTHING if made.answer is None else DONE


@command(app, "model", "device", "bank", name="replay")
def replay(
    overrides: dict[str, Any],
    as_json: bool,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="RECEIPT.json", help="From `answer --receipt`, or what `answer --json` printed."
        ),
    ],
) -> int:
    """Answer again as a receipt says, and check that every token is the same."""
    from . import console

    receipt = read_receipt(file)
    # A replay makes no bank, neither at a mistyped path nor where no memory was tried.
    made = bank.engine_on_bank if receipt.used else engine_for
    engine = made(overrides if receipt.used else overrides | {"bank": ":memory:"})
    again = console.run(engine.replay(receipt), as_json).scene.receipt
    assert again is not None, "the last record of a replay is its receipt"
    if not as_json:
        console.say(
            f"Receipt {receipt.id} is confirmed: the same {again.tokens} tokens and answer, "
            f"{again.answer}."
        )
    return DONE


def read_receipt(file: Path) -> Receipt:
    """The last receipt in a file of JSON lines. Raises LatentmemError if there is none or it is
    damaged."""
    try:
        lines = [line for line in file.read_text(encoding="utf-8").split("\n") if line.strip()]
    except OSError as e:
        raise LatentmemError(
            f"{file} cannot be read ({e.strerror}): give one that `answer --receipt` wrote."
        ) from None
    except UnicodeDecodeError:
        raise LatentmemError(
            f"{file} is not UTF-8: give a file that `answer --receipt` wrote."
        ) from None
    marked = [line for line in lines if '"record": "Receipt"' in line]
    if not marked and len(lines) != 1:
        raise LatentmemError(f"{file} holds no receipt: give a file that `answer --receipt` wrote.")
    try:
        return from_json(Receipt, (marked or lines)[-1])
    except LatentmemError as e:
        why = f"is damaged ({e})" if marked else "is no receipt"
        raise LatentmemError(f"{file} {why}: give a file that `answer --receipt` wrote.") from None


@command(app, "model", "device", "bank", name="doctor")
def doctor(overrides: dict[str, Any], as_json: bool) -> int:
    """Versions, machine, settings, weights and the bank's health. Exits with 1 if something is
    wrong."""
    from ..engine.doctor import examine
    from . import console

    report = examine(overrides)
    if as_json:
        console.print_lines([{"record": "Report", **vars(report)}])
    else:
        for title, facts in report.sections.items():
            console.out().print(console.facts_table(facts.items(), title))
            console.out().print()
    if not report.problems and not as_json:
        console.say("All is well.")
    return bank.warn(report.problems)


@command(app, *SAMPLING, name="serve")
def serve(
    overrides: dict[str, Any],
    as_json: bool,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port to listen on.")] = 7860,
    public: Annotated[
        bool, typer.Option("--public", help="Let other machines in (--host 0.0.0.0).")
    ] = False,
) -> int:
    """Start the app and print its address."""
    engine = engine_for(overrides)
    address = "0.0.0.0" if public else host
    check_host(address)
    from .. import ui

    engine = ui.prepare(engine)
    try:
        ui.build(engine).launch(server_name=address, server_port=port, **ui.launch_options(engine))
    except OSError as e:
        raise LatentmemError(
            f"The app cannot listen on port {port} ({e}): choose another with --port."
        ) from None
    return DONE


def check_host(host: str) -> None:
    """Raises LatentmemError for a host that is no address of this machine."""
    try:
        for family, kind, _, _, address in socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM):
            with socket.socket(family, kind) as probe:
                probe.bind(address)
    except (OSError, UnicodeError) as e:
        raise LatentmemError(
            f"--host {host} is no address of this machine ({getattr(e, 'strerror', None) or e}): "
            "use 127.0.0.1, or 0.0.0.0 to let other machines in."
        ) from None


app.add_typer(bank.commands)
app.add_typer(experiments.bench_commands)
app.add_typer(experiments.evaluation_commands)


def main() -> None:
    """The entry point of `latentmem` and of `python -m latentmem`."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # it was closed before we began
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # not every terminal and pipe is UTF-8
    try:
        try:
            app(prog_name="latentmem")
        finally:
            sys.stdout.flush()
    except OSError as e:  # nobody reads the output, or its disk is full
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nor fail again at the end
        if not isinstance(e, BrokenPipeError):
            said = f"The output cannot be written ({e.strerror or e}): send it elsewhere."
            typer.echo(said, err=True)
        sys.exit(ERROR)
