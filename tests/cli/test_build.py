"""The command `build` over a tiny random model: what is learnt and what not, what is passed over
the second time, and that neither ctrl-C nor a kill costs or repeats anything."""

from __future__ import annotations

import json
import multiprocessing
import random
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch

from latentmem.bank import Bank
from latentmem.cli import app, options
from latentmem.engine import Engine
from latentmem.files import read_lines
from tests.baseline_samples import QUICK, tiny_engine
from tests.cli_samples import Terminal

MANY = 8
RECIPE = ("seed", "steps", "learning_rate", "max_problem_chars")


def tiny(patch: pytest.MonkeyPatch) -> None:
    """Commands run on the tiny model, on the bank and with the recipe of the command line."""
    base = tiny_engine(patch)

    def make(settings: Any) -> Engine:
        given = {k: getattr(settings, k) for k in RECIPE if k in settings.model_fields_set}
        small = base.settings.changed(**{**QUICK, **given, "bank": settings.bank})
        return Engine(small, _shared=base._shared)

    patch.setattr(options, "make_engine", make)


def program(out: Path, *arguments: str) -> None:
    """The command line of a process of its own, on the tiny model, with its output in a file."""
    torch.set_num_threads(1)
    sys.argv = ["latentmem", *arguments]
    with out.open("w") as file, redirect_stdout(file), pytest.MonkeyPatch.context() as patch:
        tiny(patch)
        app.main()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    tiny(monkeypatch)
    return Terminal()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    file = tmp_path / "data.jsonl"
    rows = [{"id": f"n-{n}", "problem": f"Tom has {n} apples. How many?"} for n in range(MANY)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def args(data: Path, bank: Path) -> tuple[str, ...]:
    return "build", str(data), "--bank", str(bank)


def journal(bank: Path) -> list[str]:
    return [line["problem"] for line in read_lines(bank.with_name(f"{bank.name}.build.jsonl"))]


def held(bank: Path) -> dict[str, str]:
    """The memory of each problem in a bank that is whole; no problem has two."""
    with_bank = Bank(bank)
    infos = with_bank.infos()
    with_bank.close()
    assert len({one.problem.id for one in infos}) == len(infos)
    return {one.problem.id: one.id for one in infos}


def ended(lines: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {x["problem"]["id"]: x for x in lines if x["record"] == "Outcome"}


def test_every_problem_has_an_outcome_and_the_second_run_learns_nothing_again(
    terminal: Terminal, data: Path, tmp_path: Path
) -> None:
    bank = tmp_path / "bank.sqlite"
    first = ended(terminal.lines(*args(data, bank)))
    learnt = {name: one["memory"] for name, one in first.items() if one["memory"]}
    rest = sorted(name for name in first if name not in learnt)
    assert len(first) == MANY and 0 < len(learnt) < MANY, "both kinds are needed"
    assert held(bank) == learnt and sorted(journal(bank)) == rest
    assert all(first[name]["unfit"] or first[name]["nothing"] for name in rest)
    again = terminal.lines(*args(data, bank))
    assert {x["record"] for x in again} == {"Outcome"} and held(bank) == learnt
    assert {name: one["memory"] for name, one in ended(again).items() if one["known"]} == learnt
    assert [ended(again)[n]["unfit"] for n in rest] == [first[n]["unfit"] for n in rest]
    said = terminal.ok(*args(data, bank))
    assert f"0 of {MANY} problems learnt and kept; {len(learnt)} were in the bank already" in said


def test_a_batch_is_learnt_together_and_each_vote_stands_with_its_problem(
    terminal: Terminal, data: Path, tmp_path: Path
) -> None:
    alone = ended(terminal.lines(*args(data, tmp_path / "bank.sqlite")))
    together = tmp_path / "together.sqlite"
    lines = terminal.lines(*args(data, together), "--batch", "3")
    turns = [x["problem"]["id"] for x in lines if x["record"] == "Turn"]
    assert turns == [f"n-{n}" for n in range(MANY)]
    of, current = {}, ""
    for line in lines:
        current = line["problem"]["id"] if line["record"] == "Turn" else current
        if line["record"] == "Vote" and line["side"] == "zero_shot":
            of[current] = line
    for name, one in ended(lines).items():
        assert of[name]["clusters"] == one["vote"]["clusters"] == alone[name]["vote"]["clusters"]
        assert (one["unfit"], bool(one["memory"])) == (
            alone[name]["unfit"],
            bool(alone[name]["memory"]),
        )
    assert {n for n, one in ended(lines).items() if one["memory"]} == held(together).keys()


def test_another_recipe_is_another_memory_and_a_deleted_one_is_learnt_again(
    terminal: Terminal, data: Path, tmp_path: Path
) -> None:
    bank = tmp_path / "bank.sqlite"
    terminal.ok(*args(data, bank))
    before = held(bank)
    gone = next(iter(before))
    terminal.ok("memories", "delete", before[gone], "--yes", "--bank", str(bank))
    lines = terminal.lines(*args(data, bank))
    assert [x["problem"]["id"] for x in lines if x["record"] == "Turn"] == [gone]
    assert held(bank) == before
    other = ended(terminal.lines(*args(data, bank), "--seed", "1"))
    assert any(one["memory"] for one in other.values())
    assert not any(one["known"] for one in other.values())


def test_what_is_too_long_is_left_out_and_nothing_learnt_is_code_3(
    terminal: Terminal, tmp_path: Path
) -> None:
    data, bank = tmp_path / "data.jsonl", tmp_path / "bank.sqlite"
    data.write_text(json.dumps({"problem": "x" * 101}) + "\n")
    result = terminal(*args(data, bank), "--set", "max_problem_chars=100")
    assert (
        result.exit_code == 3 and "101 characters and the limit is 100: shorten it" in result.stdout
    )
    assert "0 of 1 problem learnt and kept; 1 had no vote to learn from." in result.stdout
    data.write_text("")
    assert "has no problems" in terminal.fails(*args(data, bank))


def test_ctrl_c_says_how_to_go_on(
    terminal: Terminal, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank, old, calls = tmp_path / "bank.sqlite", Engine.distil_many, []

    def distil_many(self: Engine, problems: Any, **how: Any) -> Any:
        calls.extend(problem.id for problem in problems)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return old(self, problems, **how)

    monkeypatch.setattr(Engine, "distil_many", distil_many)
    result = terminal(*args(data, bank))
    assert result.exit_code == 130
    assert f"Stopped: 3 of {MANY} problems are done" in result.stderr
    terminal.ok(*args(data, bank))
    assert sorted(calls) == sorted([*(f"n-{n}" for n in range(MANY)), "n-3"])


def test_a_kill_at_any_moment_loses_nothing_and_repeats_nothing(
    terminal: Terminal, data: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    whole, bank, chance = tmp_path / "whole.sqlite", tmp_path / "bank.sqlite", random.Random(0)
    turns = (1, 2) if request.config.getoption("--night") else (3, 5)  # before a kill
    terminal.ok(*args(data, whole))
    processes = multiprocessing.get_context("forkserver")  # it imports what a program needs once
    processes.set_forkserver_preload([__name__, "transformers.models.qwen2.modeling_qwen2"])
    done: set[str] = set()
    for run in range(2 * MANY):
        out = tmp_path / f"{run}.jsonl"
        out.touch()
        process = processes.Process(target=program, args=(out, *args(data, bank), "--json"))
        process.start()
        wanted = chance.randint(*turns)
        while process.is_alive() and out.read_text().count('"record": "Turn"') < wanted:
            time.sleep(0.01)
        time.sleep(chance.random() * 0.2)
        process.kill()
        process.join()
        ended_well = process.exitcode == 0
        lines = read_lines(out)
        begun = {x["problem"]["id"] for x in lines if x["record"] == "Turn"}
        assert not begun & done, "a problem that was done was begun again"
        kept, nothing = held(bank), journal(bank)
        for name, one in ended(lines).items():  # what was acknowledged is there
            assert kept[name] == one["memory"] if one["memory"] else name in nothing
        done = {*kept, *nothing}
        if ended_well:
            break
    assert ended_well and run >= 1, f"{run} kills"
    print(f"{run} kills")
    assert held(bank) == held(whole) and sorted(journal(bank)) == sorted(journal(whole))


def test_without_ray_the_engine_ray_says_what_to_install(
    terminal: Terminal, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    bank = tmp_path / "bank.sqlite"
    said = terminal.fails(*args(data, bank), "--engine", "ray")
    assert said == (
        'The engine ray needs the package ray: pip install -e ".[ray]", or leave out --engine to '
        "learn in this process."
    )
    assert not bank.exists()
