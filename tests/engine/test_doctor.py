"""The doctor finds facts, says what is wrong, and needs nothing that is broken."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from latentmem.bank import Bank
from latentmem.records import LatentmemError
from tests.cli_samples import Terminal, memory

ROOT = Path(__file__).parents[2]


def test_the_doctor_reports_a_damaged_bank_and_loads_no_torch(tmp_path: Path) -> None:
    bank = tmp_path / "damaged.sqlite"
    bank.write_bytes(b"no bank at all " * 400)
    code = (
        "import sys\nfrom latentmem.cli import app\ntry:\n  app.main()\nfinally:\n"
        "  print([m for m in ('torch', 'transformers', 'gradio') if m in sys.modules], "
        "file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "doctor", "--json", "--bank", str(bank)],
        cwd=ROOT,
        text=True,
        capture_output=True,
    )
    report = json.loads(done.stdout)
    assert done.returncode == 1 and str(bank) in done.stderr and done.stderr.endswith("[]\n")
    assert report["sections"]["bank"]["state"] == "damaged" and len(report["problems"]) == 1
    assert {"versions", "machine", "settings", "why these defaults", "weights", "bank"} == set(
        report["sections"]
    )
    assert report["sections"]["versions"]["torch"] != "not installed"


@pytest.mark.parametrize(
    ("bank", "words"),
    [
        ("x" * 300 + "/bank.sqlite", "name too long"),
        ("~nosuchuser/bank.sqlite", "there is no such user; write the whole path"),
    ],
)
def test_a_bank_in_an_impossible_place_is_one_sentence(
    cli: Terminal, bank: str, words: str
) -> None:
    assert words in cli.fails("doctor", "--bank", bank).lower().replace("\n", " ")
    with pytest.raises(LatentmemError):
        Bank(bank)


def test_the_doctor_of_a_sound_installation(
    cli: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Bank(tmp_path / "bank.sqlite") as bank:
        bank.put(memory())
    said = cli.ok("doctor")
    assert "whole" in said and "learning_rate" in said and "All is well." in said
    monkeypatch.setenv("LATENTMEM_STEPS", "many")
    assert "steps = 'many'" in cli.fails("doctor")
