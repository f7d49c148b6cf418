"""What `put` acknowledged survives `kill -9`, whenever it strikes.

LATENTMEM_KILLS sets how often (12 in the quick suite). A child puts memories, events and receipts
and tells each id only after the call returned; the parent kills it at a random moment, opens the
bank again and compares every acknowledged memory. A receipt is there with the events of its answer,
or neither is.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from latentmem.bank import Bank
from tests.bank_samples import assert_same, make_memory

KILLS = int(os.environ.get("LATENTMEM_KILLS", "12"))
RENEW = 6  # kills that one file lives through, so that the moment of its making is struck too

# One process imports everything, once, and forks a child for every kill; only the child opens the
# bank.
NURSERY = """
import json, os, sys
from tests.bank_samples import make_memory, make_receipt
from latentmem.bank import Bank
from latentmem.engine.receipts import events
from latentmem.records import Event
def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())
def work(path, number):
    say("child", os.getpid())
    with Bank(path) as bank:
        while True:
            memory = make_memory(number, tokens=20, hidden=128)
            say("memory", number, bank.put(memory))
            say("event", number, bank.record(Event(memory.id, "used")).id)
            receipt = make_receipt(number, memory)
            bank.keep_receipt(receipt, events(receipt))
            say("receipt", number, receipt.id)
            number += 1
with Bank() as warm:
    warm.record(Event(warm.put(make_memory(0)), "used"))
for line in sys.stdin:
    pid = os.fork()
    if not pid:
        try:
            work(*json.loads(line))
        finally:
            os._exit(1)
    say("ended", os.waitpid(pid, 0)[1])
"""


def killed(
    nursery: subprocess.Popen[bytes], path: Path, start: int, seconds: float, making: bool
) -> list[tuple[str, int, str]]:
    """What a child acknowledged before it was killed, so many seconds after its first memory, or,
    with `making`, after it began to make the file."""
    assert nursery.stdin is not None and nursery.stdout is not None
    nursery.stdin.write(json.dumps([str(path), start]).encode() + b"\n")
    nursery.stdin.flush()
    pid = int(nursery.stdout.readline().split()[1])
    told = [] if making else [nursery.stdout.readline().split()]
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    while (words := nursery.stdout.readline().split())[0] != b"ended":
        told.append(words)
    assert int(words[1]) == signal.SIGKILL, "the child ended by itself"
    return [(kind.decode(), int(number), ident.decode()) for kind, number, ident in told]


@pytest.fixture
def nursery() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [sys.executable, "-c", NURSERY],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    ) as process:
        yield process
        process.kill()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no kill -9")
@pytest.mark.timeout(60 + 10 * KILLS)
def test_acknowledged_memories_survive_kill_9(
    nursery: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    seed = random.SystemRandom().randrange(2**32)
    rng = random.Random(seed)
    acknowledged = torn = 0
    memories: dict[str, int] = {}
    events: set[str] = set()
    receipts: set[str] = set()
    for kill in range(KILLS):
        path = tmp_path / f"bank{kill // RENEW}.sqlite"
        if kill % RENEW == 0:
            memories, events, receipts = {}, set(), set()
        told = killed(nursery, path, kill * 1000, rng.uniform(0, 0.2), making=kill % RENEW == 0)
        memories |= {ident: number for kind, number, ident in told if kind == "memory"}
        events |= {ident for kind, _, ident in told if kind == "event"}
        receipts |= {ident for kind, _, ident in told if kind == "receipt"}
        torn += Path(f"{path}-journal").exists()
        acknowledged += len(told)
        with Bank(path) as bank:
            report = bank.verify()
            assert report.problems == [], f"kill {kill} of seed {seed}"
            assert events <= {event.id for event in bank.events()}, f"kill {kill} of seed {seed}"
            kept = {receipt.id for receipt in bank.receipts()}
            assert receipts <= kept, f"kill {kill} of seed {seed}"
            assert [len(bank.events(receipt_id=ident)) for ident in kept] == [3] * len(kept), (
                f"kill {kill} of seed {seed}"
            )
            assert {e.receipt_id for e in bank.events()} - {""} <= kept, (
                f"kill {kill} of seed {seed}"
            )
            for ident, number in memories.items():
                assert_same(bank.get(ident), make_memory(number, tokens=20, hidden=128))
    print(
        f"\n{KILLS} kills (seed {seed}), {torn} of them inside a transaction: {acknowledged} "
        "writes were acknowledged, 0 were lost, verify was clean each time"
    )
    assert acknowledged > 0
