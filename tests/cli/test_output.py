"""Where the output goes, and what is said of hosts, files and settings that are none."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from latentmem.bank import Bank
from latentmem.settings import Settings
from tests.cli_samples import Terminal, memory

ROOT = Path(__file__).parents[2]


def run_main(command: str, **env: str) -> subprocess.CompletedProcess[str]:
    """The command line in a shell of its own; {} stands for it."""
    me = f"{shlex.quote(sys.executable)} -m latentmem"
    return subprocess.run(
        ["bash", "-c", command.replace("{}", me)],
        cwd=ROOT,
        env=os.environ | env,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full and bash")
@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("{} --help > /dev/full", "The output cannot be written (No space left on device): send"),
        ("{} memories --help | true; echo ${PIPESTATUS[0]} >&2", ""),
        ("{} --version >&-", ""),
        ("{} --version 2>&-", ""),
    ],
)
def test_output_that_goes_nowhere_ends_quietly_or_in_a_sentence(command: str, said: str) -> None:
    done = run_main(command)
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    assert said in done.stderr


def test_output_that_is_not_utf_8_is_written_with_replacements(tmp_path: Path) -> None:
    with Bank(tmp_path / "b.sqlite") as bank:
        bank.put(memory("How much is ½ of 10 €?"))
    command = f"{{}} memories --bank {shlex.quote(str(tmp_path / 'b.sqlite'))}"
    done = run_main(command, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert done.returncode == 0 and "How much is ? of 10 ??" in done.stdout, done.stderr


def test_a_problem_that_begins_with_a_minus_is_hinted_at(cli: Terminal) -> None:
    said = cli("solve", "-5 + 3")
    assert said.exit_code == 2 and "stands behind --" in said.output.replace("\n", " ")
    assert "stands behind" not in cli("solve", "-x").output
    assert "stands behind" not in cli("solve", "--nothing").output
    assert cli("solve", "--", "-5 + 3").exit_code == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": 1}', "is no receipt: give a file that `answer --receipt` wrote"),
        ("hello", "is no receipt: give a file"),
        ('{"record": "Receipt", "id": 3}', "is damaged (Receipt: id:"),
        ("", "holds no receipt"),
    ],
)
def test_a_file_that_is_no_receipt_is_said_in_plain_words(
    cli: Terminal, tmp_path: Path, text: str, words: str
) -> None:
    (tmp_path / "r.json").write_text(text)
    assert words in cli.fails("replay", str(tmp_path / "r.json"))


@pytest.mark.parametrize("host", ["no.such.host", "192.0.2.1", "a b"])
def test_a_host_that_is_not_here_is_one_sentence(cli: Terminal, host: str) -> None:
    said = cli.fails("serve", "--host", host)
    assert said.startswith(f"--host {host} is no address of this machine (")


def test_a_setting_that_is_empty_in_the_environment_is_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("LATENTMEM_BANK", raising=False)
    plain = Settings()
    for name in Settings.model_fields:
        monkeypatch.setenv(f"LATENTMEM_{name.upper()}", "")
    assert Settings().model_dump() == plain.model_dump()
