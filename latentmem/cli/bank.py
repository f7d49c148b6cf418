"""The commands about the bank: memories, receipts, export, import, verify, backup, repair. They
load no model."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..model.weights.catalog import hub_id
from ..records import LatentmemError, Memory, MemoryInfo, tried
from .options import DONE, ERROR, MemoryId, command, engine_for, option

if TYPE_CHECKING:
    from ..bank import Bank
    from ..engine import Engine

BANK = ("bank",)
commands = typer.Typer()
memories = typer.Typer(help="List the memories; show, delete, quarantine or release one.")
commands.add_typer(memories, name="memories")
receipts = typer.Typer(help="List the receipts of answers; show or delete some.")
commands.add_typer(receipts, name="receipts")


class NoBankYet(LatentmemError):
    """The bank of the settings, which nobody named, does not exist yet; a list is then empty."""


def engine_on_bank(overrides: dict[str, Any]) -> Engine:
    """An engine whose bank exists. Opening would make one, and at a mistyped path an empty bank
    looks like a sound one. Raises LatentmemError; NoBankYet for a bank that was not named on the
    command line."""
    engine = engine_for(overrides)
    path = engine.settings.bank
    try:
        if str(path) != ":memory:":
            path.stat()
    except FileNotFoundError:
        if "bank" in overrides:
            raise LatentmemError(
                f"There is no bank at {path}: check the path; `latentmem distil` and `import` "
                "make a new one."
            ) from None
        raise NoBankYet(
            f"There is no bank yet at {path}: `latentmem distil` or `import` makes one."
        ) from None
    except OSError:
        pass  # the bank itself says what is wrong
    return engine


def bank_to_list(overrides: dict[str, Any], as_json: bool) -> Bank | None:
    """The bank; None, after saying so, if there is none yet."""
    from . import console

    try:
        return engine_on_bank(overrides).bank
    except NoBankYet as e:
        if not as_json:
            console.say(str(e))
        return None


@command(memories, *BANK)
def list_memories(
    overrides: dict[str, Any],
    as_json: bool,
    contains: Annotated[
        str, option("Only those with this text in problem, answer or id.", "--contains")
    ] = "",
    source: Annotated[str | None, option("Only those from this data set.")] = None,
    quarantined: Annotated[
        bool | None, option("Only those, or only the others.", "--quarantined/--free")
    ] = None,
    limit: Annotated[int | None, option("At most so many, newest first.", min=1)] = None,
) -> int:
    """List the memories, newest first; or show, delete, quarantine or release one."""
    from . import console

    bank = bank_to_list(overrides, as_json)
    if bank is None:
        return DONE
    rows = bank.infos(source=source, quarantined=quarantined, text=contains or None, limit=limit)
    if as_json:
        console.print_lines(rows)
    elif rows:
        console.out().print(console.memories_table(rows, console.out().width >= console.WIDE))
        console.say(f"{len(rows)} of {len(bank)} memories in {bank.path}")
    else:
        console.say(f"No memory fits, of {len(bank)} in {bank.path}.")
    return DONE


@command(memories, *BANK, name="show")
def show(overrides: dict[str, Any], as_json: bool, memory: MemoryId) -> int:
    """One memory: its problem, vote, curve, what it did since, and its nearest memories."""
    from ..method.trust import standing
    from . import console

    engine = engine_on_bank(overrides)
    info, whole = engine.bank.info(memory), engine.bank.get(memory)
    if as_json:
        console.print_lines([info, whole.vote, *whole.traces, *whole.steps])
        return DONE
    out = console.out()
    facts = memory_facts(info, whole)
    if sentence := standing(engine.bank, whole, engine.settings.key):
        facts.append(("trust", sentence))
    out.print(console.facts_table(facts))
    out.print(console.vote_table(whole.vote))
    if whole.steps:
        out.print(console.steps_table(whole.steps))
    for hit in engine.neighbours(info.id):
        console.say(f"near: {hit.memory_id} “{hit.name}”, similarity {hit.similarity:.3f}")
    return DONE


def memory_facts(info: MemoryInfo, memory: Memory) -> list[tuple[str, object]]:
    """What the bank holds about a memory, as names and values."""
    c = info.counters
    return [
        ("memory", info.id + (f" (quarantined) {info.shut}" if info.quarantined else "")),
        ("problem", info.problem.text),
        ("source", info.problem.source or "typed"),
        ("pseudo-label", info.label),
        ("numbers", f"{info.virtual_tokens} x {info.hidden}, kept after step {info.best_step}"),
        ("model", f"{info.model_name} ({info.model[:16]})"),
        ("keys", ", ".join(sorted(memory.keys))),
        ("made", info.created),
        ("digest", info.digest),
        (
            "use",
            f"retrieved {c.retrieved}, used {c.used}, agreed {c.agreed}, verifier won "
            f"{c.verifier_won}, helped {c.helped}, hurt {c.hurt}",
        ),
    ]


@command(memories, *BANK, name="delete")
def delete(
    overrides: dict[str, Any],
    as_json: bool,
    memory: MemoryId,
    yes: Annotated[
        bool, typer.Option("--yes", help="Really delete it; there is no way back.")
    ] = False,
) -> int:
    """Delete a memory and its events for good."""
    bank = engine_on_bank(overrides).bank
    info = bank.info(memory)
    if not yes:
        raise LatentmemError(
            f"Memory {info.id} “{info.name}” would be gone for good: add --yes, or quarantine it."
        )
    bank.delete(info.id)
    return tell(as_json, f"Memory {info.id} “{info.name}” is deleted.", info)


@command(memories, *BANK, name="quarantine")
def quarantine(
    overrides: dict[str, Any],
    as_json: bool,
    memory: MemoryId,
    reason: Annotated[str, typer.Option(help="Why; it is kept with the memory.")] = "by hand",
) -> int:
    """Keep a memory from being found, until it is released."""
    event = engine_on_bank(overrides).bank.quarantine(memory, reason)
    return tell(
        as_json, f"Memory {event.memory_id} is quarantined: no problem finds it any more.", event
    )


@command(memories, *BANK, name="release")
def release(overrides: dict[str, Any], as_json: bool, memory: MemoryId) -> int:
    """Let a quarantined memory be found again."""
    event = engine_on_bank(overrides).bank.release(memory)
    return tell(as_json, f"Memory {event.memory_id} is released: it can be found again.", event)


@command(receipts, *BANK)
def list_receipts(
    overrides: dict[str, Any],
    as_json: bool,
    memory: Annotated[
        str | None, option("Only of answers in which this memory took part.", "--memory")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, newest first.")] = 20,
) -> int:
    """List the receipts of the newest answers given with this bank; or show or delete some."""
    from . import console

    bank = bank_to_list(overrides, as_json)
    if bank is None:
        return DONE
    rows = bank.receipts(memory, limit=limit)
    if as_json:
        console.print_lines(rows)
    else:
        for r in rows:
            console.say(
                f"{r.id}  {r.created[:16].replace('T', ' ')}  {console.label_of(r.answer)}  "
                f"{r.problem.text}"
            )
        console.say(f"{len(rows)} receipts of {bank.path}")
    return DONE


@command(receipts, *BANK, name="show")
def show_receipt(
    overrides: dict[str, Any],
    as_json: bool,
    receipt: Annotated[str, typer.Argument(metavar="ID", help="A receipt's id.")],
) -> int:
    """One receipt: the problem, who answered and why. With --json it is what `replay` reads."""
    from . import console

    found = engine_on_bank(overrides).bank.receipt(receipt)
    if as_json:
        console.print_lines([found])
        return DONE
    console.say(found.problem.text)
    console.say(found.sentence())
    console.out().print(console.receipt_table(found))
    return DONE


@command(receipts, *BANK, name="delete")
def delete_receipts(
    overrides: dict[str, Any],
    as_json: bool,
    ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ID]...", help="Receipts' ids.", show_default=False),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Really delete them; there is no way back.")
    ] = False,
) -> int:
    """Delete receipts for good: what was asked, and what was answered. Memories and their counters
    stay."""
    if bool(ids) == every:
        raise LatentmemError("Which receipts? Give their ids, or --all, and not both.")
    bank = engine_on_bank(overrides).bank
    if not yes:
        many = len(set(ids)) if ids else bank.stats()["receipts"]
        raise LatentmemError(
            f"{many} receipt{'s' * (many != 1)} would be gone for good: add --yes."
        )
    gone = bank.forget(ids or None)
    return tell(
        as_json,
        f"{gone} receipt{'s' * (gone != 1)} deleted from {bank.path}.",
        {"record": "Forgotten", "receipts": gone},
    )


@command(commands, *BANK, name="export")
def export(
    overrides: dict[str, Any],
    as_json: bool,
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE.zip", help="The archive to write.")
    ] = None,
    ids: Annotated[list[str], option("Only this memory; may be repeated.", "--id")] = [],
    peft: Annotated[
        Path | None,
        option(
            "Write PEFT adapters: of one --id into this folder, of several into folders in it "
            "named after the ids."
        ),
    ] = None,
    base_model: Annotated[
        str | None,
        option(
            "What the adapters name as their base: a folder or a hub id (default: the model's "
            "repository on the hub, else its name here).",
            "--base-model",
        ),
    ] = None,
    sign: Annotated[Path | None, option("Sign the archive with this SSH private key.")] = None,
) -> int:
    """Write memories to an archive that `import` reads, or as PEFT adapters for
    `PeftModel.from_pretrained`.

    Receipts stay behind: they hold what was asked.
    """
    if file is None and peft is None:
        raise LatentmemError("There is nothing to write to: give FILE.zip, --peft FOLDER, or both.")
    if sign and file is None:
        raise LatentmemError(
            f"--sign {sign} is for an archive, and none is written: give FILE.zip."
        )
    if base_model and peft is None:
        raise LatentmemError(
            f"--base-model {base_model} is for adapters, and none is written: give --peft FOLDER, "
            "too."
        )
    bank = engine_on_bank(overrides).bank
    code = DONE
    if peft is not None:
        code = warn(export_adapters(bank, ids, peft, base_model, as_json))
    if file is not None:
        report = bank.export_zip(file, ids or None, key=sign)
        tell(
            as_json,
            f"{report.memories} memories and {report.events} events are written to {file}.",
            report,
        )
        code = max(code, warn(report.refused))
    return code


def export_adapters(
    bank: Bank, ids: list[str], home: Path, base_model: str | None, as_json: bool
) -> list[str]:
    """Write memories, these or all, as PEFT adapters; returns what went wrong, in sentences."""
    left_out = []
    chosen = [bank.info(i).id for i in ids] or [info.id for info in bank.infos()]
    if not ids and (missing := len(bank) - len(chosen)):
        left_out.append(
            f"{missing} memories with a damaged entry are left out: run `latentmem verify`."
        )
    for memory in chosen:
        folder = home if len(ids) == 1 else home / memory
        base = base_model or hub_id(bank.info(memory).model_name)
        if wrong := tried(partial(bank.export_peft, memory, folder, base_model=base)):
            left_out.append(str(wrong))
        else:
            tell(
                as_json,
                f"Memory {memory} is written as a PEFT adapter to {folder}.",
                {"record": "Adapter", "memory_id": memory, "folder": str(folder)},
            )
    return left_out


@command(commands, "model", "device", *BANK, name="import")
def import_(
    overrides: dict[str, Any],
    as_json: bool,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE.zip",
            help="An archive that `export` wrote; or a PEFT prompt-tuning adapter, its folder or "
            "a zip of it.",
        ),
    ],
    problem: Annotated[str, option("The problem that an adapter helps with.")] = "",
    own: Annotated[bool, option("The archive is your own: no probation.", "--own")] = False,
) -> int:
    """Add the memories of an archive to the bank, or an adapter as a memory without a vote. What
    is there already stays as it is. New ones are on probation: they answer once they have agreed
    with the model alone a few times."""
    from ..bank.peft import adapter_folder

    with adapter_folder(file) as adapter:
        if adapter is not None:
            memory = engine_for(overrides).import_adapter(adapter, problem)
            record = {"record": "Imported", "memory_id": memory}
            tell(as_json, f"The adapter is imported as memory {memory}, without a vote.", record)
            return DONE
    if problem:
        raise LatentmemError(f"--problem is for an adapter, and {file} is none: leave it out.")
    report = engine_for(overrides).bank.import_zip(file, trusted=own)
    tell(
        as_json,
        f"{report.added} memories are added, {report.skipped} were there already; "
        f"{report.events} events are new. The archive is "
        + (f"signed by {report.author}. " if report.author else "not signed. ")
        + report.standing,
        report,
    )
    return warn(report.refused)


@command(commands, *BANK, name="verify")
def verify(overrides: dict[str, Any], as_json: bool) -> int:
    """Check the bank: the file, every checksum, every id. Exits with 1 if anything is wrong."""
    bank = engine_on_bank(overrides).bank
    report = bank.verify()
    tell(
        as_json,
        f"{bank.path}: {report.memories} memories, {report.events} events and {report.receipts} "
        f"receipts checked{'' if report.problems else ', all is well'}.",
        report,
    )
    return warn(report.problems)


@command(commands, name="backup")
def backup(
    overrides: dict[str, Any],
    as_json: bool,
    bank: Annotated[Path, typer.Argument(metavar="BANK", help="The bank; it may be in use.")],
    copy: Annotated[Path, typer.Argument(metavar="COPY", help="The file to write.")],
) -> int:
    """Copy a bank to a new file, as it is at one moment."""
    from ..bank import repair as work
    from . import console

    (report,) = console.follow(work.backup(bank, copy))
    return tell(as_json, f"{bank} is copied to {report.copy}, {report.bytes} bytes.", report)


@command(commands, name="repair")
def repair(
    overrides: dict[str, Any],
    as_json: bool,
    bank: Annotated[Path, typer.Argument(metavar="BANK", help="The damaged bank.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="The bank to write.")],
) -> int:
    """Save what is whole in a damaged bank into a new one, and name what is lost. The damaged one
    stays as it is. Exits with 1 if anything is lost."""
    from ..bank import repair as work
    from . import console

    (report,) = console.follow(work.repair(bank, new))
    tell(
        as_json,
        f"{report.memories} memories, {report.events} events and {report.receipts} receipts are "
        f"saved to {new}{'' if report.lost else '; nothing was lost'}.",
        report,
    )
    return warn(report.lost)


def tell(as_json: bool, sentence: str, record: Any) -> int:
    """Print the sentence for a person, or the record for a machine."""
    from . import console

    if as_json:
        console.print_lines([record])
    else:
        console.say(sentence)
    return DONE


def warn(sentences: list[str] | tuple[str, ...]) -> int:
    """Print what went wrong, one line each, on standard error; returns the exit code."""
    from .console import plain

    for sentence in sentences:
        typer.echo(plain(sentence), err=True)
    return ERROR if sentences else DONE
