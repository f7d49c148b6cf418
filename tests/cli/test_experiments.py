"""The command `evaluate` over a tiny random model: options arrive, folders go on, errors are one
sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from latentmem.bank import Bank
from latentmem.cli import options
from latentmem.engine import Engine
from latentmem.evaluation import suites
from tests.baseline_samples import QUICK, tiny_engine
from tests.cli_samples import Terminal

DATA = (
    "--data",
    "examples?source=change",
    "--distil",
    "2",
    "--test",
    "3",
    "--systems",
    "zero_shot,elm",
    "--forms",
    "one",
)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Terminal:
    base, made = tiny_engine(monkeypatch), []

    def make(settings: Any) -> Engine:
        """The tiny model's settings, and over them what was given on the command line."""
        given = {
            k: getattr(settings, k)
            for k in settings.model_fields_set
            if k not in ("model", "embedder", "device", "bank")
        }
        small = base.settings.changed(**{**QUICK, **given, "max_new_tokens": 12})
        made.append(Engine(small, bank=Bank(":memory:"), _shared=base._shared))
        return made[-1]

    monkeypatch.setattr(options, "make_engine", make)
    monkeypatch.chdir(tmp_path)
    terminal = Terminal()
    terminal.made = made  # type: ignore[attr-defined]
    return terminal


def test_a_run_leaves_results_report_and_evidence_and_goes_on(
    terminal: Terminal, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    lines = terminal.lines("evaluate", *DATA, "--out", str(out), "--seed", "4", "--steps", "1")
    assert {(x["record"], x["system"]) for x in lines} == {
        ("Result", "zero_shot"),
        ("Result", "elm"),
        ("Learned", "elm"),
    }
    for name in (
        "report.html",
        "report.md",
        "evidence.json",
        "heldout-examples-change/results.jsonl",
    ):
        assert (out / name).stat().st_size > 0
    rows = {r["system"]: r for r in json.loads((out / "evidence.json").read_bytes())}
    assert rows["elm"]["n"] == 3
    assert rows["elm"]["seed"] == 4
    assert rows["elm"]["settings"]["steps"] == 1
    again = terminal("evaluate", *DATA, "--out", str(out), "--seed", "4", "--steps", "1", "--json")
    assert again.exit_code == 0 and "{" not in again.stdout, "nothing is done twice"
    assert "6 of 6 replies" in again.stderr


def test_other_settings_are_refused_for_the_same_folder(terminal: Terminal, tmp_path: Path) -> None:
    terminal.ok("evaluate", *DATA, "--out", "x", "--steps", "1")
    result = terminal("evaluate", *DATA, "--out", "x", "--steps", "2")
    assert result.exit_code == 1
    assert "holds a run with settings.steps = 1, and here it is 2" in result.stderr.splitlines()[-1]


def test_the_traces_of_vote_n_can_be_given_and_belong_to_the_run(terminal: Terminal) -> None:
    data = (*DATA[:6], "--systems", "vote_n", "--forms", "one", "--out", "x")
    lines = terminal.lines("evaluate", *data, "--votes", "3")
    assert {len(x["sides"]["zero_shot"]["traces_right"]) for x in lines} == {3}
    (row,) = json.loads(Path("x/evidence.json").read_bytes())
    assert row["settings"]["votes"] == 3
    assert "vote_n has 3 traces." in Path("x/report.md").read_text().replace("\\", "")
    assert "holds a run with votes = 3, and here it is" in terminal.fails("evaluate", *data)


def test_the_report_can_be_made_again(terminal: Terminal, tmp_path: Path) -> None:
    terminal.ok("evaluate", *DATA, "--out", "x")
    for name in ("report.html", "evidence.json"):
        (tmp_path / "x" / name).unlink()
    made = len(terminal.made)  # type: ignore[attr-defined]
    terminal.ok("evaluate", "--out", "x", "--report-only")
    assert len(terminal.made) == made, "no engine is needed"  # type: ignore[attr-defined]
    assert "There are no results in" in terminal.fails(
        "evaluate", "--out", "elsewhere", "--report-only"
    )


def test_the_keys_protocol_runs(terminal: Terminal) -> None:
    data = ("--data", "examples?source=change,area", "--protocol", "keys", "--out", "s")
    assert [x["kind"] for x in terminal.lines("evaluate", *data)] == ["input", "kv"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--suite", "huge"), "There is no suite 'huge': use quick, standard, paper."),
        (("--data", "nowhere.jsonl"), "There is no data set 'nowhere.jsonl'"),
        (("--out", "file/x"), "file/x cannot be a folder of results (Not a directory)"),
        (
            ("--report-only", "--out", "file"),
            "There are no results in file: run `latentmem evaluate` first.",
        ),
        (("--report-only", "--out", "x" * 300), "cannot be read (File name too long)"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    terminal: Terminal, arguments: tuple[str, ...], words: str
) -> None:
    Path("file").write_text("no folder")
    assert words in terminal.fails("evaluate", *arguments)


def test_each_model_of_a_suite_has_a_folder_of_its_own(
    terminal: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = suites.Suite(
        "paper", ("examples?source=change",), 1, 2, ("zero_shot",), models=("org/One", "org/Two")
    )
    monkeypatch.setattr(suites, "SUITES", {"paper": small})
    terminal.ok("evaluate", "--suite", "paper", "--out", "p")
    assert sorted(p.parent.parent.name for p in (tmp_path / "p").rglob("results.jsonl")) == [
        "One",
        "Two",
    ]
    assert (tmp_path / "p" / "evidence.json").exists()
    terminal.ok("evaluate", "--suite", "paper", "--out", "q", "--model", "org/Three")
    assert (tmp_path / "q" / "heldout-examples-change" / "results.jsonl").exists(), (
        "a model given by hand stands alone"
    )


def test_a_run_that_leaves_nothing_to_report_does_not_say_that_it_has_to_be_run(
    terminal: Terminal,
) -> None:
    result = terminal(
        "evaluate", "--data", "examples?source=change", "--protocol", "keys", "--out", "x"
    )
    assert result.exit_code == 1 and "has one family only" in result.stderr
    assert result.stderr.splitlines()[-1].startswith(
        "There are no results in x: nothing of what was asked for could be measured"
    )


def test_the_environment_comes_before_the_suite_and_the_command_line_before_both(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = suites.Suite(
        "quick",
        ("examples?source=change",),
        0,
        1,
        ("zero_shot",),
        {"zero_shot": ("one",)},
        settings={"steps": 3, "rollouts": 5, "temperature": 0.5},
        models=("org/One", "org/Two"),
    )
    monkeypatch.setattr(suites, "SUITES", {"quick": small})
    for name, value in (("STEPS", "4"), ("ROLLOUTS", "7"), ("MODEL", "org/Mine")):
        monkeypatch.setenv(f"LATENTMEM_{name}", value)
    terminal.ok("evaluate", "--rollouts", "9", "--out", "x")
    (engine,) = terminal.made  # type: ignore[attr-defined]
    assert (engine.settings.steps, engine.settings.rollouts, engine.settings.temperature) == (
        4,
        9,
        0.5,
    )


def test_a_key_given_by_hand_is_what_retrieval_compares(terminal: Terminal) -> None:
    """elm is then elm_kv."""
    data = (
        "--data",
        "examples?source=change",
        "--distil",
        "3",
        "--test",
        "3",
        "--systems",
        "elm,elm_kv",
        "--forms",
        "one",
    )
    lines = terminal.lines("evaluate", *data, "--key", "kv", "--out", "x")
    found = {
        s: [
            (x["memory"], x["similarity"])
            for x in lines
            if x["record"] == "Result" and x["system"] == s
        ]
        for s in ("elm", "elm_kv")
    }
    assert found["elm"] == found["elm_kv"] and any(memory for memory, _ in found["elm"])
