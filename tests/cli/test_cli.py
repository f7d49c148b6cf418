"""The command line over an engine that needs no model: exit codes, what goes to which stream,
options, and the commands about the bank."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentmem.bank import Bank
from latentmem.cli import console
from latentmem.cli.app import read_receipt
from latentmem.cli.options import SAMPLING, assignments
from latentmem.method.voting import vote
from latentmem.records import (
    Distilled,
    Event,
    LatentmemError,
    Problem,
    Receipt,
    Retrieval,
    Status,
    Step,
    Trace,
    Vote,
    from_json,
)
from latentmem.settings import Settings
from tests.cli_samples import HIT, ONE, RECEIPT, STEP, TRACES, VOTE, FakeEngine, Terminal, memory
from tests.fake_engine import fake_step

# ---------- The command line over an engine that needs no model: exit codes, what goes to which
# stream, options.


ROOT = Path(__file__).parents[2]


# ------------------------------------------------------------------ runs
def test_solve_prints_the_vote(cli: Terminal) -> None:
    said = cli.ok("solve", ONE)
    assert "The answer is 16, by 2 of 3 traces." in said and "2 of 3 voted" in said
    assert cli.asked == ("think", Problem(ONE), None)
    assert cli.engine and cli.engine.closed


def test_progress_goes_to_standard_error(cli: Terminal) -> None:
    result = cli("solve", ONE)
    assert "Sampling" in result.stderr and "Sampling" not in result.stdout


def test_progress_in_a_pipe_is_a_line_every_ten_seconds_and_one_at_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter(range(100))
    monkeypatch.setattr(console.time, "monotonic", lambda: float(next(clock)))
    with console.progress() as show:
        show("News")
        for done in range(25):  # each a second later
            show(f"{done} of 25", often=True)
        show("More news")
        show("1 of 2", often=True)
        show("2 of 2", often=True)
    said = capsys.readouterr().err.splitlines()
    assert said[:2] == ["News", "0 of 25"] and said[-2:] == ["More news", "2 of 2"]
    assert 5 <= len(said) <= 7


def test_no_answer_is_exit_code_3(cli: Terminal) -> None:
    cli.script["think"] = [TRACES[2], Vote((), 1, 0)]
    result = cli("solve", ONE)
    assert result.exit_code == 3 and "No answer" in result.stdout


def test_json_lines_are_records_and_nothing_else(cli: Terminal) -> None:
    kinds: dict[str, Any] = {
        "Trace": Trace,
        "Vote": Vote,
        "Step": Step,
        "Receipt": Receipt,
        "Retrieval": Retrieval,
    }
    sent = (
        *TRACES,
        VOTE,
        replace(VOTE, side="memory"),
        STEP,
        replace(STEP, step=2),
        RECEIPT,
        Retrieval("p1", "input", (HIT,)),
    )
    for command in ("solve", "distil", "answer"):
        for line in cli.ok(command, ONE, "--json").splitlines():
            kind = json.loads(line)["record"]
            if kind in kinds:
                assert from_json(kinds[kind], line) in sent
    said = cli.lines("distil", ONE)[-1]
    assert said["record"] == "Distilled" and said["memory_id"] == memory().id
    assert "memory" not in said and len(said["steps"]) == 1


def test_distil_ends_with_the_memory_or_the_reason(cli: Terminal) -> None:
    said = cli.ok("distil", ONE)
    assert memory().id in said and "The vote rose from 2 to 3." in said
    cli.script["distil"] = [
        *TRACES,
        VOTE,
        Distilled("p1", None, "Nothing to learn: all traces agree."),
    ]
    result = cli("distil", ONE)
    assert result.exit_code == 3 and "Nothing to learn: all traces agree." in result.stdout


def test_answer_prints_the_sentence_and_the_facts(cli: Terminal) -> None:
    said = cli.ok("answer", ONE, "--memory", "m0123")
    assert RECEIPT.sentence() in said and "0.910 (input), rank 1, 0.20 ahead of the next" in said
    assert cli.asked == ("answer", Problem(ONE), "m0123")


def test_a_receipt_can_be_written_and_replayed(cli: Terminal, tmp_path: Path) -> None:
    file = tmp_path / "receipt.json"
    cli.ok("answer", ONE, "--receipt", str(file))
    assert "There is no bank" in cli.fails(
        "replay", str(file), "--bank", str(tmp_path / "none.sqlite")
    )
    assert not (tmp_path / "none.sqlite").exists()
    Bank(tmp_path / "bank.sqlite").close()
    assert "Receipt r1 is confirmed: the same 36 tokens" in cli.ok("replay", str(file))
    assert cli.asked == ("replay", RECEIPT)
    # a whole stream: its last receipt counts
    file.write_text(cli.ok("answer", ONE, "--json"), encoding="utf-8")
    cli.ok("replay", str(file))
    assert cli.asked == ("replay", RECEIPT)
    assert "cannot be read" in cli.fails("replay", str(tmp_path / "none"))
    file.write_text(
        file.read_text(encoding="utf-8").replace(ONE, "line\u2028separator\u0085"), encoding="utf-8"
    )
    cli.ok("replay", str(file))
    assert cli.asked[1].problem.text == "line\u2028separator\u0085"
    file.write_text('{"id": 3}', encoding="utf-8")
    assert "is no receipt: give" in cli.fails("replay", str(file))
    file.write_text("", encoding="utf-8")
    assert "holds no receipt" in cli.fails("replay", str(file))


def test_a_receipt_of_no_memory_is_replayed_without_a_bank(cli: Terminal, tmp_path: Path) -> None:
    (tmp_path / "receipt.json").write_text(
        console.line(replace(RECEIPT, used=None)), encoding="utf-8"
    )
    cli.ok("replay", str(tmp_path / "receipt.json"), "--bank", str(tmp_path / "none.sqlite"))
    assert cli.engine and str(cli.engine.settings.bank) == ":memory:"


def test_a_receipt_with_what_is_no_number_is_refused(cli: Terminal, tmp_path: Path) -> None:
    file, whole = tmp_path / "receipt.json", json.loads(console.line(RECEIPT))
    Bank(tmp_path / "bank.sqlite").close()
    for bad in ("nan", "Infinity", "-inf", "1e999"):
        file.write_text(json.dumps(whole | {"seconds": bad}), encoding="utf-8")
        said = cli.fails("replay", str(file))
        assert (
            f"is damaged (Receipt: seconds: Input should be a finite number (got '{bad}')" in said
        )
    hit = whole["used"] | {"similarity": "nan"}
    file.write_text(json.dumps(whole | {"used": hit, "hits": [hit]}), encoding="utf-8")
    assert "similarity: Input should be a finite number" in cli.fails("replay", str(file))
    # an answer may be that
    file.write_text(json.dumps(whole | {"answer": "Infinity"}), encoding="utf-8")
    cli.ok("replay", str(file))


def test_a_receipt_that_cannot_be_written_costs_neither_the_answer_nor_the_old_one(
    cli: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "receipt.json"
    cli.ok("answer", ONE, "--receipt", str(file))
    before = file.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    for place, why in (
        (file, "No space left on device"),
        (tmp_path / "none" / "r", "No such file"),
        (tmp_path, "directory"),
    ):
        result = cli("answer", ONE, "--receipt", str(place))
        assert result.exit_code == 1
        assert RECEIPT.sentence() in result.stdout
        assert "rank 1" in result.stdout
        assert result.stderr.splitlines()[-1].startswith(f"{place} cannot be written (")
        assert why in result.stderr
        assert (
            json.loads(
                cli("answer", ONE, "--receipt", str(place), "--json").stdout.splitlines()[-1]
            )["id"]
            == RECEIPT.id
        )
    assert file.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["receipt.json"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_receipt_goes_through_a_link_and_into_a_pipe(cli: Terminal, tmp_path: Path) -> None:
    link, file, pipe = tmp_path / "link.json", tmp_path / "receipt.json", tmp_path / "pipe"
    file.write_text("older", encoding="utf-8")
    link.symlink_to(file)
    cli.ok("answer", ONE, "--receipt", str(link))
    assert link.is_symlink() and read_receipt(file) == RECEIPT
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as reader:
        read = reader.submit(pipe.read_text)
        cli.ok("answer", ONE, "--receipt", str(pipe))
        assert json.loads(read.result())["id"] == RECEIPT.id
    assert pipe.is_fifo()


def test_an_error_is_one_sentence_and_closes_the_stream(cli: Terminal) -> None:
    cli.script["think"] = [TRACES[0], LatentmemError("The model is unknown: choose another.")]
    assert cli.fails("solve", ONE) == "The model is unknown: choose another."
    assert cli.engine and cli.engine.closed
    cli.script["think"] = [LatentmemError("Made by \x1b]0;evil\x07 and another.")]
    assert cli.fails("solve", ONE) == "Made by  ]0;evil  and another."


def test_ctrl_c_is_one_line_and_130(cli: Terminal) -> None:
    cli.script["distil"] = [TRACES[0], KeyboardInterrupt()]
    assert cli.fails("distil", ONE, "--json", code=130).endswith("nothing half-done was stored.")
    assert cli.engine and cli.engine.closed


def test_a_real_ctrl_c(tmp_path: Path) -> None:
    code = (
        # whoever starts the tests in the background may have told their processes to ignore it
        "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "import time\nfrom latentmem.cli import app, options\nfrom latentmem.records import Trace\n"
        "class E:\n  def __init__(self, s): pass\n  def think(self, p, memory_id=None):\n    try:\n"
        "      while True:\n        yield Trace(0, '', None, False, 1)\n        time.sleep(0.02)\n"
        "    finally:\n      print('closed', flush=True)\noptions.make_engine = E\napp.main()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, "solve", "x", "--json"],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout and process.stderr
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 130 and out.endswith("closed\n")
    assert err == "Stopped; nothing half-done was stored.\n"


# ------------------------------------------------------------------ options and problems
def test_options_are_settings(cli: Terminal) -> None:
    """Name, values, help and bounds of an option are those of the field."""
    said = " ".join(cli.ok("answer", "--help").split())
    for name in (*SAMPLING, "key", "min_similarity", "verifier"):
        assert f"--{name.replace('_', '-')} " in said
        assert str(Settings.model_fields[name].description) in said, name
    for text in ("auto|cpu|cuda|mps", "input|kv", "(paper: 8). [1<=x<=256]", "--bank <path>"):
        assert text in said, text
    assert str(Settings.model_fields["bank"].description) in cli.ok("memories", "--help")


def test_only_given_options_override(cli: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTMEM_ROLLOUTS", "5")
    monkeypatch.setenv("LATENTMEM_SEED", "3")
    cli.ok("solve", ONE, "--seed", "9", "--set", "top_p=0.9", "--set", "max-problem-chars=100")
    assert cli.engine
    s = cli.engine.settings
    assert (s.seed, s.rollouts, s.top_p, s.max_problem_chars, s.steps) == (9, 5, 0.9, 100, 10)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--temperature", "nan"], "temperature"),
        (["--rollouts", "0"], "rollouts"),
        (["--seed", "x"], "Setting seed = 'x' does not fit: input should be a valid integer"),
        (["--set", "steps"], "--set steps=5"),
        (["--temperature", "1e-39"], "use 0, which is greedy, or at least 0.001"),
        (["--set", "colour=red"], "no setting 'colour'"),
        (["--device", "tpu"], "device"),
    ],
)
def test_a_wrong_setting_is_one_sentence(cli: Terminal, arguments: list[str], words: str) -> None:
    assert words in cli.fails("solve", ONE, *arguments)
    assert cli.engine is None


def test_a_wrong_option_is_usage(cli: Terminal) -> None:
    assert cli("solve", ONE, "--nonsense").exit_code == cli("nonsense").exit_code == 2


def test_a_problem_from_stdin_or_a_file(cli: Terminal, tmp_path: Path) -> None:
    cli.ok("solve", "-", stdin="  What is 2 + 2?\n")
    assert cli.asked[1] == Problem("What is 2 + 2?")
    file = ROOT / "examples" / "problems.jsonl"
    cli.ok("solve", "--file", str(file), "--id", "equation-2")
    assert cli.asked[1].id == "equation-2" and cli.asked[1].answer == "16"
    cli.ok("distil", "--file", str(file), "--id", "equation-2", "--id", "saving-1")
    assert [p.id for p in cli.asked[1:]] == ["equation-2", "saving-1"]
    assert "takes one" in cli.fails(
        "solve", "--file", str(file), "--id", "equation-2", "--id", "saving-1"
    )
    assert "no problem 'nothing'" in cli.fails("solve", "--file", str(file), "--id", "nothing")
    assert "cannot be read" in cli.fails("solve", "--file", str(tmp_path / "none"))
    assert "Give one problem" in cli.fails("solve")
    assert "Give one problem" in cli.fails("solve", ONE, "--file", str(file))
    assert "is empty" in cli.fails("solve", " ")
    assert "UTF-8" in cli.fails("solve", "a\udc80")


@given(
    st.dictionaries(
        st.from_regex(r"[a-z_]{1,9}", fullmatch=True), st.text().map(str.strip), max_size=4
    )
)
def test_assignments_read_what_was_written(pairs: dict[str, str]) -> None:
    assert assignments([f"{k}={v}" for k, v in pairs.items()]) == pairs


@given(st.text(), st.integers(0, 20))
def test_foreign_text_is_shown_without_controls_or_markup(text: str, limit: int) -> None:
    shown = console.plain(text, limit)
    assert shown.plain.isprintable()
    assert not shown.spans
    assert not limit or len(shown.plain) <= limit


def test_the_live_picture_takes_any_text(cli: Terminal) -> None:
    from rich.console import Console

    scene = console.Scene()
    for record in (Status("x"), *TRACES, VOTE, STEP, replace(STEP, problem_id="p2", label="[red]")):
        scene.add(record)
    terminal = Console(width=120, record=True, file=StringIO(), force_terminal=True)
    terminal.print(console.Picture(scene))
    said = terminal.export_text()
    assert "[bold]16[/bold]" in said and "\x1b[31m" not in said and "At most 4 s left." in said


# ------------------------------------------------------------------ the app, help
def test_serve_builds_and_launches_the_app(cli: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    from latentmem import ui

    launched: dict[str, Any] = {}
    built = type("B", (), {"launch": lambda self, **options: launched.update(options)})()
    monkeypatch.setattr(ui, "build", lambda engine: built)
    monkeypatch.setattr(ui, "launch_options", lambda engine: {"show_error": False})
    cli.ok("serve", "--port", "7999", "--public")
    assert launched == {"server_name": "0.0.0.0", "server_port": 7999, "show_error": False}


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    heavy = ("torch", "numpy", "gradio", "pydantic", "latentmem.engine")
    code = (
        "import sys, time\nfrom latentmem.cli import app\ntry:\n  app.main()\nfinally:\n  "
        f"print(time.process_time(), [m for m in {heavy} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "--help"], cwd=ROOT, text=True, capture_output=True
    )
    seconds, _, loaded = done.stderr.strip().partition(" ")
    assert done.returncode == 0 and loaded == "[]"
    assert float(seconds) < 0.6, "typer and rich alone take about 0.25"
    assert "solve" in done.stdout and "memories" in done.stdout


def test_version_and_bare_call(cli: Terminal) -> None:
    assert cli.ok("--version").startswith("latentmem 0.")
    assert "Usage" in cli().output


def test_the_check_after_the_last_step_is_not_called_a_step() -> None:
    last = vote([], 8)
    steps = [fake_step(n, 2, last, "a") for n in (1, 2, 3)]
    assert [console.step_line(steps[:n]).split(":")[0] for n in (1, 2, 3)] == [
        "Step 1 of 2",
        "Step 2 of 2",
        "Final check",
    ]
    assert [console.step_line(steps[:n]).split(". ")[-1] for n in (1, 2, 3)] == [
        "At most 2 s left.",
        "The final check is left.",
        "All is done.",
    ]
    assert list(console.steps_table(steps).columns[0].cells) == ["1/2", "2/2", "check"]


# ---------- The commands about the bank, over a real bank and no model.


@pytest.fixture
def stored(tmp_path: Path) -> tuple[str, str]:
    with Bank(tmp_path / "bank.sqlite") as bank:
        return bank.put(memory()), bank.put(memory("How old is Leila now?", "examples/ages", 1))


def test_memories_are_listed_and_filtered(cli: Terminal, stored: tuple[str, str]) -> None:
    assert {m["id"] for m in cli.lines("memories")} == set(stored)
    assert all(i in cli.ok("memories") for i in stored)
    assert [m["id"] for m in cli.lines("memories", "--contains", "leila")] == [stored[1]]
    assert [m["id"] for m in cli.lines("memories", "--source", "examples/equation")] == [stored[0]]
    assert "No memory fits, of 2" in cli.ok("memories", "--quarantined")


def test_a_memory_is_shown_quarantined_released_deleted(
    cli: Terminal, stored: tuple[str, str]
) -> None:
    said = cli.ok("memories", "show", stored[0][:8])
    assert ONE[:30] in said and "2 x 4, kept after step 1" in said and f"near: {stored[1]}" in said
    shown = [r["record"] for r in cli.lines("memories", "show", stored[0])]
    assert shown == ["MemoryInfo", "Vote", "Trace", "Trace", "Trace", "Step"]
    assert "quarantined" in cli.ok("memories", "quarantine", stored[0], "--reason", "wrong")
    assert [m["id"] for m in cli.lines("memories", "--quarantined")] == [stored[0]]
    cli.ok("memories", "release", stored[0])
    assert not cli.ok("memories", "--quarantined", "--json")
    assert "add --yes" in cli.fails("memories", "delete", stored[0])
    assert "is deleted" in cli.ok("memories", "delete", stored[0], "--yes")
    assert [m["id"] for m in cli.lines("memories")] == [stored[1]]
    assert "no memory" in cli.fails("memories", "show", stored[0])


def test_options_of_the_group_hold_for_its_commands(
    cli: Terminal, stored: tuple[str, str], tmp_path: Path
) -> None:
    other = str(tmp_path / "other.sqlite")
    Bank(other).close()
    assert "no memory" in cli.fails("memories", "--bank", other, "show", stored[0])
    assert "no memory" in cli.fails("memories", "show", stored[0], "--bank", other)
    assert (
        json.loads(cli.ok("memories", "--json", "show", stored[0]).splitlines()[0])["record"]
        == "MemoryInfo"
    )


def test_receipts_are_listed_shown_and_read_by_replay(
    cli: Terminal, stored: tuple[str, str], tmp_path: Path
) -> None:
    with Bank(tmp_path / "bank.sqlite") as bank:
        bank.keep_receipt(RECEIPT, [Event(stored[0], "used", receipt_id=RECEIPT.id)])
    assert RECEIPT.id in cli.ok("receipts") and "1 receipts of" in cli.ok(
        "receipts", "--memory", stored[0][:8]
    )
    assert "0 receipts of" in cli.ok("receipts", "--memory", stored[1])
    shown = cli.ok("receipts", "show", RECEIPT.id)
    assert RECEIPT.problem.text[:30] in shown
    assert "The verifier chose it." in shown
    assert "memory tried" in shown
    (tmp_path / "r.json").write_text(cli.ok("receipts", "show", RECEIPT.id, "--json"))
    assert read_receipt(tmp_path / "r.json").token_digest == RECEIPT.token_digest
    assert [r["id"] for r in cli.lines("receipts")] == [RECEIPT.id]
    assert "no receipt 'r404'" in cli.fails("receipts", "show", "r404")


def test_receipts_are_deleted(cli: Terminal, stored: tuple[str, str], tmp_path: Path) -> None:
    with Bank(tmp_path / "bank.sqlite") as bank:
        for receipt in (RECEIPT, replace(RECEIPT, id="r2"), replace(RECEIPT, id="r3")):
            bank.keep_receipt(receipt)
    for wrong in ([], ["r2", "--all", "--yes"]):
        assert "Which receipts" in cli.fails("receipts", "delete", *wrong)
    assert "1 receipt would be gone" in cli.fails("receipts", "delete", "r2")
    assert "3 receipts would be gone" in cli.fails("receipts", "delete", "--all")
    assert "none was deleted" in cli.fails("receipts", "delete", "r2", "r404", "--yes")
    assert cli.lines("receipts", "delete", "r2", "--yes") == [
        {"record": "Forgotten", "receipts": 1}
    ]
    assert {r["id"] for r in cli.lines("receipts")} == {RECEIPT.id, "r3"}
    assert "2 receipts deleted from" in cli.ok(
        "receipts", "delete", "--all", "--yes"
    ) and not cli.lines("receipts")


def test_export_and_import(cli: Terminal, stored: tuple[str, str], tmp_path: Path) -> None:
    archive, other = str(tmp_path / "a.zip"), str(tmp_path / "other.sqlite")
    assert "2 memories and 0 events" in cli.ok("export", archive)
    said = " ".join(cli.ok("import", archive, "--bank", other).split())
    assert "2 memories are added, 0 were there" in said and "What was added is on probation" in said
    assert "probation" not in cli.ok("import", archive, "--own", "--bank", f"{other}.own")
    assert "probation" not in cli.ok("import", archive, "--bank", other), "nothing was added"
    assert cli.lines("import", archive, "--bank", other)[0]["skipped"] == 2
    assert cli.lines("export", archive, "--id", stored[0])[0]["memories"] == 1
    assert "nothing to write to" in cli.fails("export")
    assert "\n" not in cli.fails("import", str(tmp_path / "none.zip"))


def base_of(folder: Path) -> str:
    return json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]


def test_export_as_peft(cli: Terminal, stored: tuple[str, str], tmp_path: Path) -> None:
    one, all_ = tmp_path / "one", tmp_path / "all"
    cli.ok("export", "--peft", str(one), "--id", stored[0][:8])
    assert {p.name for p in one.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    assert base_of(one) == "toy"
    named = replace(memory("What is 2 + 2?", seed=2), model_name="qwen2.5-coder-0.5b")
    with Bank(tmp_path / "bank.sqlite") as bank:
        ident = bank.put(named)
    cli.ok("export", "--peft", str(tmp_path / "hub"), "--id", ident)
    assert base_of(tmp_path / "hub") == "Qwen/Qwen2.5-Coder-0.5B-Instruct"
    cli.ok("memories", "delete", ident, "--yes")
    cli.ok("export", "--peft", str(all_), "--base-model", "owner/name")
    assert {base_of(f) for f in all_.iterdir()} == {"owner/name"}
    assert "give --peft FOLDER" in cli.fails(
        "export", str(tmp_path / "a.zip"), "--base-model", "owner/name"
    )
    assert {p.name for p in all_.iterdir()} == set(stored)


def test_an_adapter_is_imported(
    cli: Terminal, stored: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine here is a stand-in: what it does with an adapter is in tests/engine."""
    folder = tmp_path / "adapter"
    assert cli("export", "--peft", str(folder), "--id", stored[0]).exit_code == 0
    asked: list[tuple[bool, str]] = []

    def import_adapter(engine: FakeEngine, path: Path, problem: str) -> str:
        asked.append(((path / "adapter_config.json").exists(), problem))
        return "m0123"

    monkeypatch.setattr(FakeEngine, "import_adapter", import_adapter, raising=False)
    packed = shutil.make_archive(str(tmp_path / "packed"), "zip", folder)
    assert "imported as memory m0123, without a vote" in cli("import", str(folder)).output
    assert cli("import", packed, "--problem", "1 + 1?").exit_code == 0
    assert asked == [(True, ""), (True, "1 + 1?")]
    archive = tmp_path / "a.zip"
    assert cli("export", str(archive)).exit_code == 0
    assert "--problem is for an adapter" in cli.fails("import", str(archive), "--problem", "x")


LISTS = (["memories"], ["receipts"], ["memories", "--contains", "x"])
ON_A_BANK = (
    ["memories", "show", "m0123"],
    ["memories", "delete", "m0123", "--yes"],
    ["memories", "quarantine", "m0123"],
    ["memories", "release", "m0123"],
    ["receipts", "show", "r1"],
    ["receipts", "delete", "--all", "--yes"],
    ["export", "out/a.zip"],
    ["export", "--peft", "out"],
    ["verify"],
    ["solve", ONE, "--memory", "m0123"],
)


@pytest.mark.parametrize("arguments", [*LISTS, *ON_A_BANK], ids=" ".join)
def test_a_bank_that_is_not_there_is_not_made_by_looking(
    cli: Terminal, tmp_path: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    typo, place = tmp_path / "folder" / "bnak.sqlite", tmp_path / "bank.sqlite"
    for named in (["--bank", str(typo)], ["--set", f"bank={typo}"]):
        assert f"There is no bank at {typo}: check the path" in cli.fails(*arguments, *named)
    if arguments in LISTS:
        assert cli.ok(*arguments).startswith(
            f"There is no bank yet at {place}: `latentmem distil` or `import` makes one."
        )
        assert cli.ok(*arguments, "--json") == ""
    else:
        assert cli.fails(*arguments).startswith(
            f"There is no bank yet at {place}: `latentmem distil` or `import` makes one."
        )
    assert list(tmp_path.iterdir()) == []


def test_a_bank_is_made_by_importing(
    cli: Terminal, stored: tuple[str, str], tmp_path: Path
) -> None:
    cli.ok("export", str(tmp_path / "a.zip"))
    new = tmp_path / "new" / "bank.sqlite"
    cli.ok("import", str(tmp_path / "a.zip"), "--bank", str(new))
    assert "2 memories, 2 events" in cli.ok("verify", "--bank", str(new))
    assert "is on probation" in cli.ok("memories", "show", stored[0], "--bank", str(new))
    own = tmp_path / "own.sqlite"
    cli.ok("import", str(tmp_path / "a.zip"), "--own", "--bank", str(own))
    assert "is on probation" not in cli.ok("memories", "show", stored[0], "--bank", str(own))
    assert "0 receipts of" in cli.ok("receipts", "--bank", str(new))


def test_a_bank_in_an_impossible_place_is_one_sentence(cli: Terminal, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "cannot be opened" in cli.fails(
        "verify", "--bank", str(tmp_path / "file" / "bank.sqlite")
    )
    assert "is a folder" in cli.fails("verify", "--bank", str(tmp_path))


def test_adapters_are_written_past_a_damaged_memory(
    cli: Terminal, stored: tuple[str, str], tmp_path: Path
) -> None:
    third = memory("Where is Bo?", seed=2)
    with Bank(tmp_path / "bank.sqlite") as bank:
        bank.put(third)
        bank._store._db.execute(
            "UPDATE parts SET bytes = zeroblob(9) WHERE seq = 3 AND part = 'soft_prompt'"
        )  # type: ignore
    result = cli("export", str(tmp_path / "a.zip"), "--peft", str(tmp_path / "peft"))
    assert result.exit_code == 1 and {p.name for p in (tmp_path / "peft").iterdir()} == set(stored)
    told = result.stderr.strip().splitlines()
    assert len(told) == 2 and all(f"Memory {third.id} is damaged" in line for line in told), (
        "for the adapter and the archive"
    )
    assert "2 memories and 0 events are written" in result.stdout and (tmp_path / "a.zip").exists()
    assert f"Memory {third.id} is damaged" in cli.fails(
        "export", "--peft", str(tmp_path / "one"), "--id", third.id
    )
    with Bank(tmp_path / "bank.sqlite") as bank:
        bank._store._db.execute("UPDATE memories SET problem_text = '' WHERE seq = 3")  # type: ignore[union-attr]
    assert "1 memories with a damaged entry are left out" in cli.fails(
        "export", "--peft", str(tmp_path / "two")
    )


def test_an_adapter_of_another_kind_stays(
    cli: Terminal, stored: tuple[str, str], tmp_path: Path
) -> None:
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    assert "did not write" in cli.fails("export", "--peft", str(tmp_path), "--id", stored[0])
    assert (tmp_path / "adapter_config.json").read_text() == '{"peft_type": "LORA"}'


def test_verify_says_what_is_damaged(
    cli: Terminal, stored: tuple[str, str], tmp_path: Path
) -> None:
    assert "2 memories, 0 events and 0 receipts checked, all is well." in cli.ok("verify")
    bank = tmp_path / "bank.sqlite"
    data = bytearray(bank.read_bytes())
    at = data.rindex(b"Leila")
    data[at : at + 5] = b"Lella"
    bank.write_bytes(data)
    result = cli("verify")
    assert result.exit_code == 1 and stored[1] in result.stderr
    bank.write_bytes(b"no bank at all " * 400)
    assert str(bank) in cli.fails("verify")
