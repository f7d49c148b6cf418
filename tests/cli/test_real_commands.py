"""The commands, the endpoints and the quickstart with real weights: `pytest -m real`.

Those of smollm2-135m. Where a problem shows it a boxed answer it often writes one, and often enough
does not: so a vote has something to teach, and a memory is really learnt, on a few short traces.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from latentmem import Bank, Engine, Settings
from latentmem.cli.app import app

pytestmark = pytest.mark.real
ROOT = Path(__file__).parents[2]
TEACHES = "Summarize in three words: 2 + 3 = \\boxed{5}. 3 + 2 = \\boxed{5}. So it is \\boxed{5}."
NEAR = "Summarize in three words: 1 + 3 = \\boxed{4}. 3 + 1 = \\boxed{4}. So it is \\boxed{4}."
SMALL: dict[str, Any] = {
    "model": "smollm2-135m",
    "dtype": "float32",
    "rollouts": 8,
    "max_new_tokens": 40,
    "temperature": 0.5,
}
EASY: dict[str, Any] = {
    "steps": 1,
    "gate_votes": 1,
    "gate_lead": 0,
    "keep": "last",
}  # a gradient step is a memory
SEEDS = range(4)  # a unanimous vote teaches nothing: another seed


def latentmem(
    command: str, *arguments: str, ends: tuple[int, ...] = (0,), **settings: Any
) -> list[dict[str, Any]]:
    """The records that a command prints with --json."""
    given = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    result = CliRunner().invoke(app, [command, *arguments, *given, "--json"])
    assert result.exit_code in ends, (command, result.exit_code, result.output, result.exception)
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A bank with one memory, which the command `distil` put there, and the memory's id."""
    bank = tmp_path_factory.mktemp("learnt") / "bank.sqlite"
    for seed in SEEDS:
        *records, end = latentmem(
            "distil", TEACHES, ends=(0, 3), bank=bank, seed=seed, **SMALL, **EASY
        )
        if end["memory_id"]:
            break
        print(f"Seed {seed}: {end['reason']}")
    assert end["record"] == "Distilled" and end["memory_id"] and end["kept"], end["reason"]
    steps = [r for r in records if r["record"] == "Step"]
    assert len(steps) == 2 and steps[0]["grad_norm"] > 0 and steps[0]["shift"] > 0
    return bank, end["memory_id"]


def test_a_file_becomes_a_bank_once(tmp_path: Path) -> None:
    """`build` learns from a file, and what it did it does not do again."""
    data, bank = tmp_path / "data.jsonl", tmp_path / "bank.sqlite"
    data.write_text("".join(json.dumps({"problem": text}) + "\n" for text in (TEACHES, NEAR)))
    for seed in SEEDS:
        how = {"ends": (0, 3), "bank": bank, "seed": seed, **SMALL, **EASY}
        first = [r for r in latentmem("build", str(data), **how) if r["record"] == "Outcome"]
        if any(one["memory"] for one in first):
            break
    made = {one["memory"] for one in first} - {""}
    assert len(first) == 2 and made == {info.id for info in Bank(bank).infos()}
    again = latentmem("build", str(data), **how)
    assert [(r["record"], r["memory"], r["known"]) for r in again] == [
        ("Outcome", one["memory"], bool(one["memory"])) for one in first
    ]


def test_the_commands(learnt: tuple[Path, str], tmp_path: Path) -> None:
    """The whole way of one memory: solve, answer with a receipt, replay, list, export, import,
    verify."""
    bank, name = learnt
    solved = latentmem("solve", NEAR, ends=(0, 3), bank=bank, **SMALL)
    assert [r["record"] for r in solved].count("Trace") == 8
    assert solved[-1]["record"] == "Vote"
    assert solved[-1]["total"] == 8
    file = tmp_path / "receipt.json"
    receipt = latentmem("answer", NEAR, "--receipt", str(file), ends=(0, 3), bank=bank, **SMALL)[-1]
    assert receipt["record"] == "Receipt" and json.loads(file.read_text()) == receipt
    assert receipt["used"]["memory_id"] == name and receipt["used"]["similarity"] > 0.6
    assert receipt["zero_shot"]["total"] == receipt["memory"]["total"] == 8
    alone = [t["text"] for t in receipt["traces"] if t["side"] == "zero_shot"]
    assert alone == [
        r["text"]
        for r in sorted((r for r in solved if r["record"] == "Trace"), key=lambda r: r["row"])
    ]
    assert alone != [t["text"] for t in receipt["traces"] if t["side"] == "memory"]
    again = latentmem("replay", str(file), bank=bank, **SMALL)[-1]
    assert again["token_digest"] == receipt["token_digest"]

    (row,) = latentmem("memories", bank=bank)
    assert (row["id"], row["problem"]["text"], row["model_name"]) == (name, TEACHES, SMALL["model"])
    assert row["counters"]["retrieved"] >= 1 and row["counters"]["used"] >= 1
    assert receipt["id"] in {r["id"] for r in latentmem("receipts", bank=bank)}
    archive, other = tmp_path / "bank.zip", tmp_path / "other.sqlite"
    assert latentmem("export", str(archive), bank=bank)[-1]["memories"] == 1
    assert latentmem("import", str(archive), bank=other)[-1]["added"] == 1
    for one in (bank, other):
        (checked,) = latentmem("verify", bank=one)
        assert checked["memories"] == 1 and not checked["problems"]
    with Bank(bank) as mine, Bank(other) as theirs:
        assert (mine.get(name).soft_prompt == theirs.get(name).soft_prompt).all()


def test_an_exported_memory_gives_the_same_logits_in_peft(
    learnt: tuple[Path, str], tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from latentmem.method.prompts import solve_messages
    from latentmem.model.language_model import LanguageModel, Prompt
    from latentmem.model.weights import ensure

    (bank, name), weights = learnt, ensure(SMALL["model"])
    latentmem(
        "export",
        "--id",
        name,
        "--peft",
        str(tmp_path / "adapter"),
        "--base-model",
        str(weights.path),
        bank=bank,
    )
    model = LanguageModel.load(weights, device="cpu", dtype="float32")
    base = AutoModelForCausalLM.from_pretrained(weights.path, dtype=torch.float32)
    theirs = PeftModel.from_pretrained(base, str(tmp_path / "adapter")).eval()
    with Bank(bank) as opened:
        soft = torch.from_numpy(opened.get(name).soft_prompt)
    ids = model.render(solve_messages(NEAR))
    with torch.no_grad():
        want = theirs(input_ids=torch.tensor([ids])).logits[0, -len(ids) :]
        ours = model.body.head(model.prefill([Prompt(ids, soft)]).hidden)[0, -len(ids) :]
    difference = (ours - want).abs().max().item()
    print(f"PEFT against engine: maximum logit difference {difference:.2e}")
    assert difference < 1e-3


def test_an_evaluation(tmp_path: Path) -> None:
    """One problem to learn from and one to be asked, with two systems: results, a lesson and a
    report."""
    data, out = tmp_path / "two.jsonl", tmp_path / "out"
    data.write_text(
        "".join(
            json.dumps({"problem": p, "answer": a}) + "\n" for p, a in ((TEACHES, "5"), (NEAR, "4"))
        )
    )
    records = latentmem(
        "evaluate",
        "--protocol",
        "heldout",
        "--data",
        str(data),
        "--distil",
        "1",
        "--test",
        "1",
        "--systems",
        "zero_shot,elm",
        "--forms",
        "one",
        "--out",
        str(out),
        **SMALL,
        **EASY,
    )
    results = [r for r in records if r["record"] == "Result"]
    assert {r["system"] for r in results} == {"zero_shot", "elm"} and all(
        r["truth"] in "45" for r in results
    )
    assert any(r["record"] == "Learned" for r in records)
    assert {"report.html", "report.md", "evidence.json"} <= {f.name for f in out.iterdir()}


# ------------------------------------------------------------------ through a server
@pytest.fixture
def client(learnt: tuple[Path, str], tmp_path: Path) -> Iterator[Any]:
    """gradio's own client of the app over the real engine, whose bank has the memory."""
    from gradio_client import Client

    from latentmem.ui import build, launch_options, prepare

    archive = tmp_path / "bank.zip"
    with Bank(learnt[0]) as bank, Bank(tmp_path / "app.sqlite") as own:
        bank.export_zip(archive)
        own.import_zip(archive)
    engine = prepare(
        Engine(Settings(bank=tmp_path / "app.sqlite", **{**SMALL, **EASY, "rollouts": 4}))
    )
    server = build(engine)
    _, url, _ = server.launch(prevent_thread_lock=True, quiet=True, **launch_options(engine))
    try:
        yield Client(url, verbose=False)
    finally:
        server.close(verbose=False)


def test_the_endpoints(client: Any, learnt: tuple[Path, str], tmp_path: Path) -> None:
    from gradio_client import handle_file

    name = learnt[1]
    receipt = client.predict(NEAR, api_name="/solve")
    assert len(receipt["traces"]) == 8
    assert receipt["used"]["memory_id"] == name
    assert name in receipt["sentence"]
    assert client.predict(api_name="/replay") == {
        "same": True,
        "receipt": receipt["id"],
        "reason": "",
    }
    thought = client.predict(NEAR, name, api_name="/think")
    with_it = [t["text"] for t in receipt["traces"] if t["side"] == "memory"]
    assert [t["text"] for t in sorted(thought["traces"], key=lambda t: t["row"])] == with_it
    assert client.predict(NEAR, 1, api_name="/search")["hits"][0]["memory_id"] == name
    near = client.predict(name, api_name="/words")
    assert len(near) == Settings().virtual_tokens and all(
        -1 <= w["cosine"] <= 1 and w["text"] for row in near for w in row
    )
    made = client.predict(TEACHES, keep=False, seed=7, api_name="/distil")
    assert made["reason"] and client.predict(api_name="/discard") is bool(made["memory_id"])
    assert [m["id"] for m in client.predict(api_name="/memories")] == [name]
    assert zipfile.is_zipfile(client.predict(name, api_name="/export_peft"))
    file = tmp_path / "one.jsonl"
    file.write_text(json.dumps({"problem": TEACHES, "answer": "5"}) + "\n")
    last = client.predict(systems=["elm"], file=handle_file(str(file)), api_name="/stream")
    assert last["whole"]
    assert last["done"] == 1
    assert [r["truth"] for r in last["results"]] == ["5"]
    assert len(last["learned"]) == 1


def test_the_quickstart(tmp_path: Path) -> None:
    """As a person runs it, in its own process and with settings from the environment."""
    small = {**SMALL, **EASY, "rollouts": 2, "max_new_tokens": 16, "bank": tmp_path / "bank.sqlite"}
    env = {
        **os.environ,
        **{f"LATENTMEM_{n.upper()}": str(v) for n, v in small.items()},
        "PYTHONPATH": str(ROOT),
    }
    ran = subprocess.run(
        [sys.executable, "examples/quickstart.py"],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert ran.returncode == 0, ran.stderr
    vote, learnt, said = ran.stdout.splitlines()
    assert vote.startswith("The model's vote:") and "of 2 traces" in vote
    assert "is learnt" in learnt or learnt.startswith("Nothing")
    assert "answer" in said
