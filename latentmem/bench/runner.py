"""The table of rows, and a run of it: both sides in turns, the median of each."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from collections.abc import Generator, Iterator, MutableMapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

from ..records import LatentmemError, Status
from . import report
from .report import RowSpec
from .workloads import PeerMissing, Prepare, Workload

# ---------- One side of one row in its own process.


def serve(spec: str, work: Workload, pipe: Connection, log: str) -> None:
    """Prepare a side, then measure once for each message. What it prints goes into `log`."""
    with open(log, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if spec.startswith("peers:"):
        _as_at_home(os.environ, llama=spec.startswith("peers:llama"))
    try:
        side = prepare(spec)(work)
        pipe.send(side.note)
        while pipe.recv():
            pipe.send(side.run())
    except PeerMissing as e:
        pipe.send(e)
    except (EOFError, BrokenPipeError):
        return  # the comparing process is gone
    except Exception as e:  # whatever a peer raises: the comparing process decides
        said = str(e) if isinstance(e, LatentmemError) else f"{type(e).__name__}: {e}"
        said = " ".join(said.split())[:300]
        pipe.send(LatentmemError(f"Measuring {spec} failed: {said}"))


def _as_at_home(environ: MutableMapping[str, str], *, llama: bool) -> None:
    """Let a peer's threads wait as they do without us, or as a person has set it. llama.cpp meets
    its threads many times a layer and is made for threads that spin, whatever is set for torch."""
    ours = environ.pop("LATENTMEM_WAITS", None)
    for name, gone in (("OMP_WAIT_POLICY", ours or llama), ("GOMP_SPINCOUNT", llama)):
        if gone:
            environ.pop(name, None)


class Worker:
    """A side as the comparing process sees it. Raises PeerMissing, LatentmemError."""

    def __init__(self, spec: str, work: Workload) -> None:
        self.spec, self._folder = spec, tempfile.TemporaryDirectory(prefix="latentmem-bench-")
        self._log = Path(self._folder.name) / "log"
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=serve, args=(spec, work, theirs, str(self._log)), daemon=True
        )
        self._process.start()
        theirs.close()
        try:
            self.note: str = self._answer()
        except BaseException:
            self.close()
            raise

    def measure(self) -> float:
        """Do the work once; returns the figure."""
        with suppress(BrokenPipeError):  # it has ended: its last words are read below
            self._pipe.send(True)
        return float(self._answer())

    def _answer(self) -> Any:
        try:
            answer = self._pipe.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            lines = (
                self._log.read_text("utf-8", "replace").split("\n") if self._log.exists() else []
            )
            last = next((line for line in reversed(lines) if line.strip()), "no output")
            raise LatentmemError(
                f"Measuring {self.spec} ended with exit code {self._process.exitcode}: "
                f"{last.strip()[:300]}."
            ) from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join(2)
        self._process.kill()
        self._process.join()
        self._folder.cleanup()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


# ---------- The table of rows: what is measured, against whom, and what it must reach.


LLAMA, TRL = ("llama-cpp-python",), ("trl", "peft", "datasets")
TUNED = "TRL GRPOTrainer, PEFT prompt tuning"
ONE, FOUR = "workloads:one_problem", "workloads:four_problems"
RATE = "tokens/s"
ROWS: dict[str, RowSpec] = {
    row.name: row
    for row in (
        RowSpec(
            "rollouts-8",
            "rollouts of one problem",
            RATE,
            ONE,
            "peers:transformers_one",
            "transformers generate",
            ratio=3,
        ),
        RowSpec(
            "rollouts-32",
            "rollouts of 4 problems with 4 soft prompts",
            RATE,
            FOUR,
            "peers:transformers_four",
            "transformers generate, four calls",
            ratio=5,
        ),
        RowSpec(
            "llama-8",
            "rollouts of one problem, against llama.cpp",
            RATE,
            ONE,
            "peers:llama_one",
            "llama.cpp, shared prompt",
            LLAMA,
            ratio=1.2,
        ),
        RowSpec(
            "llama-32",
            "rollouts of 4 problems, against llama.cpp",
            RATE,
            FOUR,
            "peers:llama_four",
            "llama.cpp, shared prompts",
            LLAMA,
            ratio=1.5,
        ),
        RowSpec(
            "memory",
            "one memory",
            "s",
            "workloads:one_memory",
            "peers:trl_memory",
            TUNED,
            TRL,
            ratio=8,
        ),
        RowSpec(
            "together",
            "eight memories together",
            "s",
            "workloads:together",
            "workloads:one_after_another",
            "ours, one after another",
            ratio=2.5,
        ),
        RowSpec(
            "peak",
            "peak memory of distillation",
            "GB",
            "workloads:peak_memory",
            "peers:trl_peak",
            TUNED,
            TRL,
            ratio=2,
            fresh=True,
        ),
        RowSpec(
            "search",
            "search in a large bank, input keys, p95",
            "ms",
            "workloads:search",
            "peers:qdrant_search",
            "qdrant-client, local mode",
            ("qdrant-client",),
            ratio=3,
            limit=25,
        ),
    )
}


def chosen(names: list[str]) -> list[RowSpec]:
    """The rows of these names, or all. Raises LatentmemError for an unknown one."""
    for name in names:
        if name not in ROWS:
            raise LatentmemError(f"There is no row {name!r}: choose from {', '.join(ROWS)}.")
    return [row for row in ROWS.values() if not names or row.name in names]


def prepare(spec: str) -> Prepare:
    """The function that a row names."""
    module, _, function = spec.partition(":")
    return getattr(import_module(f"{__package__}.{module}"), function)


MEASURED_TWICE = ("float32", "bfloat16")
Figures = dict[str, list[float]]  # of a row's peer, by its dtype


def run(
    specs: Sequence[RowSpec], work: Workload, repeats: int, file: Path, *, resume: bool = False
) -> Iterator[Status | report.Row]:
    """Measure rows and merge each into `file`. Yields Status as it goes and each Row when it is
    done.

    `resume` passes over rows that the file has with the same settings and the same versions of what
    they depend on. Raises LatentmemError if our own side of a row fails, and at once if the file is
    of another machine or kind; a peer that is missing or fails leaves a row with ours alone and a
    note.
    """
    here, found = report.machine(), report.versions()
    settings = {**asdict(work), "repeats": repeats}
    load = report.load_average()  # before the first row: later it would be that of the row before
    report.check_machine(file, "bench", here)
    there = report.read(file, "bench") if resume else {}
    for spec in specs:
        needed = report.needed(found, spec.packages)
        if report.is_done(there, spec.name, settings, needed):
            yield Status(f"{spec.name}: already in {file}")
            continue
        began = time.perf_counter()
        try:
            ours, peers, notes = yield from _measure(spec, work, repeats)
        except PeerMissing as e:  # our own side may need something optional too
            yield Status(f"{spec.name} is left out: {e}")
            continue
        peer, better = _better(spec, peers)
        busy = load is not None and load > 1
        notes += [better, f"the machine was busy when the bench began (load {load})" * busy]
        made = report.row(
            spec,
            ours,
            peer,
            note="; ".join(filter(None, notes)),
            load=load,
            seconds=round(time.perf_counter() - began, 1),
            measured=datetime.now(UTC).isoformat(timespec="seconds"),
            settings=settings,
            versions=needed,
        )
        report.merge(file, "bench", [asdict(made)], list(ROWS), machine=here, versions=found)
        yield made


def _measure(
    spec: RowSpec, work: Workload, repeats: int
) -> Generator[Status, None, tuple[list[float], Figures, list[str]]]:
    """Run our side and the peer in each of its dtypes, in turns. Yields Status; returns (ours, the
    peer's, notes)."""
    both = spec.fresh and work.peer_dtype == "auto"
    dtypes = MEASURED_TWICE if both else (work.peer_dtype,)
    figures: Figures = {side: [] for side in ("", *(dtypes if spec.peer else ()))}
    notes: list[str] = []
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for turn in range(repeats):
            for side in list(figures):
                which = f" in {side}" if side and both else ""
                name = spec.peer_name if side else "ours"
                yield Status(f"{spec.name}: {name}{which}", turn, repeats)
                try:
                    if side not in workers:
                        asked = replace(work, peer_dtype=side) if side else work
                        worker = Worker(spec.peer if side else spec.ours, asked)
                        workers[side] = stack.enter_context(worker)
                        notes += [n for n in [worker.note] if n and n not in notes]
                    figures[side].append(workers[side].measure())
                    if spec.fresh:
                        workers.pop(side).close()
                except LatentmemError as e:
                    if not side:
                        raise
                    del figures[side]
                    missing = (
                        "" if isinstance(e, PeerMissing) else f"no figure of the peer{which}: "
                    )
                    fault = f"{missing}{e}".rstrip(".")
                    notes += [] if fault in notes else [fault]
    return figures.pop(""), figures, notes


def _better(spec: RowSpec, peers: Figures) -> tuple[list[float], str]:
    """The peer's better figures, and why where there was a choice."""
    if not peers:
        return [], ""
    middle = {dtype: median(figures) for dtype, figures in peers.items()}
    best = min(middle, key=lambda dtype: middle[dtype])
    if len(peers) > 1:
        both = ", ".join(f"{d} {report.number(v, spec.unit)}" for d, v in middle.items())
        return peers[best], f"peer in {best}, the smaller figure (measured in both: {both})"
    return peers[best], f"peer in {best}" * (best in MEASURED_TWICE and spec.fresh)
