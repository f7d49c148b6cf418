"""Long runs that no quick test has the time for; prints JSON. `python -m tests.tools.stress soak`:
a shared app with a full queue; every minute a line on standard error says how much memory the
server takes. `python -m tests.tools.stress bank`: a bank that four processes write and eight read.
Both take `--minutes`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil

from latentmem.bank import Bank
from latentmem.records import Event, LatentmemError
from tests.bank_samples import archive_of, assert_same, make_memory
from tests.browser_page import free_port

WRITERS, READERS = 4, 8
EVERY = 60.0  # seconds between two looks at the server's memory


# ---------- soak
class Visitors:
    """Programs that call a shared app from several addresses, and what they were told."""

    def __init__(self, url: str, until: float) -> None:
        self.url, self.until = f"{url}gradio_api/", until
        self.told: Counter[str] = Counter()
        self.seconds: list[float] = []  # of the quick calls
        self.threads = [
            threading.Thread(target=self._repeat, args=(f"127.0.0.{2 + i}", act), daemon=True)
            for i, act in enumerate([self._flood] * 4 + [self._quick, self._file, self._tab])
        ]

    def _repeat(self, address: str, act: Callable[[httpx.Client], None]) -> None:
        way = httpx.HTTPTransport(local_address=address)
        with httpx.Client(base_url=self.url, transport=way, timeout=120) as http:
            while time.monotonic() < self.until:
                try:
                    act(http)
                except httpx.HTTPError as e:
                    self.told[f"{act.__name__} {type(e).__name__}"] += 1
                    time.sleep(1)

    def _call(self, http: httpx.Client, name: str, *data: Any, page: str) -> str:
        sent = {"data": list(data), "session_hash": page}
        joined = http.post(f"call/{name}", json=sent)
        self.told[f"{name} {joined.status_code}"] += 1
        if joined.status_code != 200:
            return ""
        return http.get(f"call/{name}/{joined.json()['event_id']}").text

    def _flood(self, http: httpx.Client) -> None:
        """Ever new pages ask at once, and wait for one answer."""
        page = f"flood{random.getrandbits(64):x}"
        body = {"data": [f"Ann has {random.randrange(10**9)} cats.", "auto", *[None] * 8]}
        for _ in range(5):
            joined = http.post("call/solve", json=body | {"session_hash": page})
            self.told[f"solve {joined.status_code}"] += 1
        if joined.status_code == 200:
            http.get(f"call/solve/{joined.json()['event_id']}")
        time.sleep(0.5)

    def _quick(self, http: httpx.Client) -> None:
        begun = time.monotonic()
        said = self._call(http, "memories", "", None, page="quick")
        self.seconds.append(time.monotonic() - begun)
        self.told["quick answers"] += "event: complete" in said
        time.sleep(0.5)

    def _file(self, http: httpx.Client) -> None:
        """An archive is sent, imported, exported, and its visitor is gone."""
        page = f"file{random.getrandbits(64):x}"
        data = archive_of(make_memory(random.randrange(10**6))).getvalue()
        sent = http.post("upload", files={"files": ("bank.zip", data)})
        self.told[f"upload {sent.status_code}"] += 1
        if sent.status_code == 200:
            file = {"path": sent.json()[0], "meta": {"_type": "gradio.FileData"}}
            self._call(http, "import_bank", file, page=page)
            self._call(http, "export_bank", page=page)
        self._gone(http, page)

    def _tab(self, http: httpx.Client) -> None:
        """A page asks something odd and is closed."""
        page = f"tab{random.getrandbits(64):x}"
        self._call(http, "memories", "x" * random.randrange(1000), None, page=page)
        self._call(http, "memory", "m404", page=page)
        http.post("call/solve", json={"data": ["too few"], "session_hash": page})
        self._gone(http, page)

    def _gone(self, http: httpx.Client, page: str) -> None:
        with http.stream("GET", f"heartbeat/{page}") as beat:
            next(beat.iter_bytes())
        time.sleep(0.5)


def soak(minutes: float) -> dict[str, Any]:
    """The server's memory at the beginning, on the way and at the end, and what callers were
    told."""
    with tempfile.TemporaryDirectory() as folder:
        port, log = free_port(), Path(folder, "log")
        env = {
            "LATENTMEM_HOSTED": "1",
            "LATENTMEM_BANK": f"{folder}/bank",
            "GRADIO_TEMP_DIR": folder,
        }
        command = [
            sys.executable,
            "-m",
            "tests.fake_engine",
            "--port",
            str(port),
            "--memories",
            "12",
        ]
        with open(log, "wb") as out:
            server = subprocess.Popen(command, env=os.environ | env, stdout=out, stderr=out)
        url = f"http://127.0.0.1:{port}/"
        try:
            ready = time.monotonic() + 600
            while time.monotonic() < ready and "public link" not in log.read_text():
                time.sleep(0.5)  # gradio ends itself if its own page does not answer at once
            visitors = Visitors(url, time.monotonic() + 60 * minutes)
            for thread in visitors.threads:
                thread.start()
            looks, process = [], psutil.Process(server.pid)
            while (left := visitors.until - time.monotonic()) > 0:
                looks.append(
                    (process.memory_info().rss >> 20, process.num_fds(), process.num_threads())
                )
                told = "{} MiB, {} files, {} threads".format(*looks[-1])
                print(f"minute {minutes - left / 60:.0f}: {told}", file=sys.stderr, flush=True)
                time.sleep(min(EVERY, left))
            for thread in visitors.threads:
                thread.join(130)
            kept = sum(f.stat().st_size for f in Path(folder).rglob("*") if f.is_file())
            said = log.read_text(errors="replace")
        finally:
            server.terminate()
            server.wait(20)
    waits = sorted(visitors.seconds) or [0.0]
    return {
        "minutes": minutes,
        "rss_mib": [look[0] for look in looks],  # one a minute
        "files_open": [looks[len(looks) // 5][1], looks[-1][1]],
        "threads": [looks[len(looks) // 5][2], looks[-1][2]],
        "told": dict(sorted(visitors.told.items())),
        "quick_seconds": {"median": waits[len(waits) // 2], "p99": waits[len(waits) * 99 // 100]},
        "disk_bytes": kept,
        "log": {"bytes": len(said), "tracebacks": said.count("Traceback"), "tail": said[-2000:]},
    }


# ---------- bank
def _write(path: str, number: int, until: float, told: Any) -> None:
    """Puts, records, deletes; tells what the bank acknowledged."""
    rng, mine = random.Random(number), list[int]()
    put, deleted, events, errors = [], [], Counter[str](), []
    with Bank(path) as bank:
        while time.time() < until:
            try:
                seed = number * 1_000_000 + len(put)
                name = bank.put(make_memory(seed))
                put.append(seed)
                mine.append(seed)
                for _ in range(rng.randrange(4)):
                    bank.record(Event(name, "used", "p"))
                    events[name] += 1
                if len(mine) > 50:
                    gone = mine.pop(rng.randrange(len(mine)))
                    bank.delete(make_memory(gone).id)
                    deleted.append(gone)
            except LatentmemError as e:
                errors.append(str(e))
            time.sleep(0.02)
    told.put({"put": put, "deleted": deleted, "events": dict(events), "errors": errors})


def _read(path: str, number: int, until: float, told: Any) -> None:
    """Lists, fetches, searches; whatever is listed is whole, unless it was deleted since."""
    rng, looks, gone, errors = random.Random(number), 0, 0, []
    with Bank(path, read_only=True) as bank:
        while time.time() < until:
            try:
                rows = bank.infos(limit=20)
                for row in rng.sample(rows, min(3, len(rows))):
                    try:
                        whole = bank.get(row.id)
                        bank.search(whole.keys["input"], k=3, model=whole.model)
                    except LatentmemError as e:
                        if "There is no memory" not in str(e):
                            raise
                        gone += 1
                    looks += 1
            except LatentmemError as e:
                errors.append(str(e))
            time.sleep(0.02)
    told.put({"looks": looks, "gone": gone, "errors": errors})


def bank(minutes: float) -> dict[str, Any]:
    """What writers and readers in processes of their own were told, and whether it is all there."""
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        path, until, told = f"{folder}/bank.sqlite", time.time() + 60 * minutes, spawn.Queue()
        with Bank(path) as fresh:
            fresh.put(make_memory(0))
        jobs = [(_write, i + 1) for i in range(WRITERS)] + [(_read, i) for i in range(READERS)]
        crowd = [spawn.Process(target=f, args=(path, i, until, told)) for f, i in jobs]
        for process in crowd:
            process.start()
        reports = [told.get(timeout=60 * minutes + 120) for _ in crowd]
        for process in crowd:
            process.join(60)
        wrote = [r for r in reports if "put" in r]
        with Bank(path) as whole:
            lost = events = 0
            for report in wrote:
                for seed in set(report["put"]) - set(report["deleted"]):
                    memory = make_memory(seed)
                    try:
                        assert_same(whole.get(memory.id), memory)
                    except (LatentmemError, AssertionError):
                        lost += 1
                    counted = report["events"].get(memory.id, 0)
                    lost += whole.info(memory.id).counters.used != counted
                    events += counted
            there, problems = len(whole), whole.verify().problems
    return {
        "minutes": minutes,
        "put": sum(len(r["put"]) for r in wrote),
        "deleted": sum(len(r["deleted"]) for r in wrote),
        "events": events,
        "there": there,
        "lost": lost,
        "reads": sum(r.get("looks", 0) for r in reports),
        "refused": dict(Counter(e.partition(" ")[2] for r in reports for e in r["errors"])),
        "verify": problems,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["soak", "bank"])
    parser.add_argument("--minutes", type=float, default=1.0)
    args = parser.parse_args()
    print(json.dumps({"soak": soak, "bank": bank}[args.what](args.minutes), indent=1))


if __name__ == "__main__":
    main()
