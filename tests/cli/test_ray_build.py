"""The command `build --engine ray` over a tiny random model, on two workers of a real Ray: the ids
are those of one process, and no kill of a worker costs or repeats anything."""

from __future__ import annotations

import os
import random
import secrets
import socket
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest

from latentmem.cli import options
from latentmem.engine.build import Outcome, Turn, build
from latentmem.engine.ray_build import Crew, parallel
from latentmem.evaluation.reader import read_problems
from latentmem.records import Status
from latentmem.settings import Settings
from tests import ray_samples
from tests.baseline_samples import one_thread  # noqa: F401 - a fixture
from tests.cli.test_build import MANY, args, data, ended, held, journal  # noqa: F401
from tests.cli_samples import Terminal

pytestmark = [
    pytest.mark.real,  # for its seconds: no weights are needed
    pytest.mark.skipif(find_spec("ray") is None, reason="needs the extra ray"),
]

ROOT = Path(__file__).parents[2]
RAY = ("--engine", "ray", "--workers", "2", "--threads", "1")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[str]:
    """The address of a cluster of two cores, as `ray start` makes one. Ray gives a machine that is
    busy with other things 30 seconds: another try follows."""
    if not pytestconfig.getoption("--night"):
        pytest.skip("at night: a cluster takes half a minute to begin, and longer beside others")
    log = tmp_path_factory.mktemp("ray") / "log"
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    for _ in range(3):
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
        how = f"start --head --block --num-cpus 2 --port {port} --node-ip-address 127.0.0.1"
        program = [Path(sys.executable).with_name("ray"), *how.split(), "--include-dashboard=false"]
        program += ["--disable-usage-stats"]
        with log.open("w") as file:
            cluster = psutil.Popen(program, cwd=ROOT, stdout=file, stderr=file)
        parts: list[psutil.Process] = []
        while cluster.poll() is None and "Ray runtime started" not in log.read_text():
            parts = cluster.children(recursive=True) or parts
            time.sleep(0.1)
        if started := cluster.poll() is None:
            yield f"127.0.0.1:{port}"
            parts = cluster.children(recursive=True)
            cluster.terminate()
            cluster.wait(60)
        for part in psutil.wait_procs(parts, 10)[1]:
            part.kill()
        if started:
            return
    raise AssertionError(log.read_text())


@pytest.fixture
def terminal(address: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(options, "make_engine", ray_samples.make)
    yield Terminal()
    ray_samples.base.cache_clear()
    ray_samples.PATCH.undo()


def records(data: Path, bank: Path) -> Iterator[Any]:
    make = ray_samples.make
    engine, notes = make(Settings(bank=bank)), bank.with_name(f"{bank.name}.build.jsonl")
    return parallel(engine, list(read_problems(data)), Crew(2, 1), make=make, journal=notes)


def whole(data: Path, bank: Path, batch: int = 1) -> dict[str, str]:
    """The memories that one process makes."""
    engine = ray_samples.make(Settings(bank=bank))
    for _ in build(engine, list(read_problems(data)), batch=batch):
        pass
    return held(bank)


def workers() -> list[psutil.Process]:
    return [
        p
        for p in psutil.process_iter(["cmdline"])
        if (p.info["cmdline"] or [""])[0][:11] == "ray::Worker"
    ]


def test_two_workers_make_the_memories_of_one_process(
    terminal: Terminal, data: Path, tmp_path: Path
) -> None:
    bank = tmp_path / "bank.sqlite"
    lines = terminal.lines(*args(data, bank), *RAY, "--batch", "3")
    first = ended(lines)
    assert len(first) == MANY and {x["record"] for x in lines} == {"Turn", "Step", "Outcome"}
    assert held(bank) == whole(data, tmp_path / "whole.sqlite", batch=3) != {}
    assert {name: one["memory"] for name, one in first.items() if one["memory"]} == held(bank)
    assert sorted(journal(bank)) == sorted(n for n, one in first.items() if not one["memory"])
    again = terminal.lines(*args(data, bank), *RAY)
    assert {x["record"] for x in again} == {"Outcome"}
    assert f"0 of {MANY} problems learnt" in terminal.ok(*args(data, bank))  # nor in one process


def test_workers_killed_at_any_moment_lose_nothing_and_repeat_nothing(
    terminal: Terminal, data: Path, tmp_path: Path, night: bool
) -> None:
    bank, chance = tmp_path / "bank.sqlite", random.Random(0)
    kills = sorted(chance.sample(range(1, 36), 10 if night else 3))  # after so many records
    outcomes: list[Outcome] = []
    deaths = killed = heard = 0
    for record in records(data, bank):
        if isinstance(record, Status):
            deaths += "worker died" in record.text
            continue
        heard += 1
        done = {one.problem.id for one in outcomes}
        if isinstance(record, Turn):
            assert record.problem.id not in done, "a problem that was done was begun again"
        elif isinstance(record, Outcome):
            assert record.problem.id not in done, "a problem has two outcomes"
            name, kept = record.problem.id, held(bank)
            assert kept[name] == record.memory if record.memory else name in journal(bank)
            outcomes.append(record)
        if kills and heard >= kills[0] and (alive := workers()):
            time.sleep(chance.random() * 0.3)
            chance.choice(alive).kill()
            kills.pop(0)
            killed += 1
    assert not kills and 0 < deaths <= killed, (kills, deaths, killed)
    print(f"{killed} kills, {deaths} of a worker with work")
    assert len(outcomes) == MANY and held(bank) == whole(data, tmp_path / "whole.sqlite")
