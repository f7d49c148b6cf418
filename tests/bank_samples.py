"""Memories for tests of the bank, each made from a number alone, so that two processes can make the
same one."""

from __future__ import annotations

import io
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from latentmem.bank import Bank, schema
from latentmem.bank.serialization import sha256
from latentmem.records import Cluster, Hit, Memory, Problem, Receipt, Route, Step, Trace, Vote


def unit(rng: np.random.Generator, dim: int) -> np.ndarray:
    vector = rng.standard_normal(dim)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def make_memory(
    seed: int = 0, *, tokens: int = 4, hidden: int = 8, dim: int = 6, kv: int = 12, **changes: Any
) -> Memory:
    rng = np.random.default_rng(seed)
    traces = tuple(
        Trace(
            row,
            f"trace {row} of {seed}: \\boxed{{{seed}}} ä→\x00",
            str(seed),
            True,
            5,
            token_ids=tuple(map(int, rng.integers(0, 150_000, 5))),
            self_certainty=float(rng.standard_normal()),
            seconds=0.1 + row,
        )
        for row in range(3)
    )
    loss = float(rng.standard_normal())
    step = Step(
        1, 1, str(seed), 2 / 3, (1.0, 0.0, 1.0), loss, 0.1, 1e-17, 1.0, 5.0, 0.3, 15, 0.1, 0.2
    )
    values: dict[str, Any] = {
        "problem": Problem(
            f"What is {seed} plus {seed}? ½ “quoted”", answer=str(2 * seed), source=f"set{seed % 3}"
        ),
        "soft_prompt": rng.standard_normal((tokens, hidden)).astype(np.float32),
        "keys": {
            "input": unit(rng, dim),
            "kv": unit(rng, kv).astype(np.float16).astype(np.float32),
        },
        "model": f"model{seed % 2}",
        "model_name": f"name{seed % 2}",
        "vote": Vote((Cluster(str(seed), (0, 1)), Cluster("7", (2,))), 4, 3),
        "traces": traces,
        "steps": (step,),
        "best_step": 1,
        "settings": {"learning_rate": 1e-3, "init_text": "Think."},
        "created": f"2026-01-{1 + seed % 28:02d}T12:00:00.{seed % 1000:03d}+00:00",
    }
    return Memory(**{**values, **changes})


def make_receipt(seed: int = 0, memory: Memory | None = None, **changes: Any) -> Receipt:
    """Of an answer in which `memory` was tried and won."""
    hit = Hit(memory.id, memory.name, 0.9, 1) if memory is not None else None
    zero, helped = (
        Vote((Cluster("3", (0, 1)), Cluster("ä", (2,))), 4, 3),
        Vote((Cluster("4", (0, 1, 2)),), 4, 3, side="memory"),
    )
    traces = tuple(
        Trace(row, "so " * 300, "3", True, 9, side, (1, 2, 3), 7.5)
        for side in ("zero_shot", "memory")
        for row in range(4)
    )
    route = Route(
        "memory",
        "4",
        False,
        "The verifier chose it.",
        {"zero_shot": 0.5, "memory": 0.75},
        "vote_share",
    )
    values: dict[str, Any] = {
        "id": f"r{seed:016x}",
        "problem": Problem(f"What is {seed} and ½?"),
        "answer": "4" if hit else "3",
        "memory_id": hit.memory_id if hit else None,
        "memory_name": hit.name if hit else "",
        "hits": (hit,) if hit else (),
        "used": hit,
        "key_kind": "input",
        "zero_shot": zero,
        "memory": helped if hit else None,
        "route": route,
        "seed": seed,
        "model": "model0",
        "model_name": "name0",
        "tokens": 72,
        "seconds": 1.5,
        "settings": {"rollouts": 4, "key": "input"},
        "token_digest": "d" * 64,
        "traces": traces,
        "created": "2026-01-02T03:04:05+00:00",
    }
    return Receipt(**{**values, **changes})


def assert_same(a: Memory, b: Memory) -> None:
    """Equal to the last bit."""
    assert (
        a.id,
        a.problem,
        a.model,
        a.model_name,
        a.vote,
        a.traces,
        a.steps,
        a.best_step,
        a.created,
    ) == (b.id, b.problem, b.model, b.model_name, b.vote, b.traces, b.steps, b.best_step, b.created)
    assert dict(a.settings) == dict(b.settings)
    assert a.soft_prompt.dtype == b.soft_prompt.dtype == np.float32
    assert a.soft_prompt.tobytes() == b.soft_prompt.tobytes()
    assert a.soft_prompt.shape == b.soft_prompt.shape
    assert {k: v.tobytes() for k, v in a.keys.items()} == {
        k: v.tobytes() for k, v in b.keys.items()
    }


def bank_of(*memories: Memory) -> Bank:
    bank = Bank(":memory:")
    for memory in memories:
        bank.put(memory)
    return bank


def archive_of(*memories: Memory) -> io.BytesIO:
    file = io.BytesIO()
    bank_of(*memories).export_zip(file)
    file.seek(0)
    return file


def older(path: Path, version: int) -> None:
    """Make a bank one of an older version, as that version would have written it."""
    new = path.rename(path.with_suffix(".new"))
    with closing(sqlite3.connect(path)) as db, closing(sqlite3.connect(new)) as source:
        db.executescript("".join(schema.STEPS[:version]))
        source.row_factory = sqlite3.Row
        tables = [r[0] for r in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            db.execute(f"DELETE FROM {table}")
            names = [r[1] for r in db.execute(f"PRAGMA table_info({table})")]
            for row in source.execute(f"SELECT * FROM {table}").fetchall():
                values = {name: row[name] for name in names}
                if table in ("parts", "keys"):
                    values["sha256"] = sha256(row["bytes"])
                db.execute(schema.insert_sql(table, names), list(values.values()))
        db.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {version}")
        db.commit()
    new.unlink()
