"""The table of rows, and a run of it: both sides in turns, the median of each, and every row
written as soon as it is done."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, MutableMapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import IO, Any, Literal

from ..records import LatentmemError, Status
from . import report
from .report import Better, Target
from .workloads import PeerMissing, Prepare, Workload

# ---------- One side of one row in its own process: `python -m latentmem.bench.runner SIDE WORK`.


def main() -> None:
    """The worker's side of the conversation."""
    spec, work = sys.argv[1], Workload(**json.loads(sys.argv[2]))
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    if spec.startswith("peers:"):
        _as_at_home(os.environ, llama=spec.startswith("peers:llama"))
    serve(spec, work, sys.stdin, answers)


def _as_at_home(environ: MutableMapping[str, str], *, llama: bool) -> None:
    """Let a peer's threads wait as they do without us, or as a person has set it. llama.cpp meets
    its threads many times a layer and is made for threads that spin, whatever is set for torch."""
    ours = environ.pop("LATENTMEM_WAITS", None)
    for name, gone in (("OMP_WAIT_POLICY", ours or llama), ("GOMP_SPINCOUNT", llama)):
        if gone:
            environ.pop(name, None)


def serve(spec: str, work: Workload, questions: IO[str], answers: IO[str]) -> None:
    """Prepare the side, then measure once for each line."""

    def reply(**message: Any) -> None:
        print(json.dumps(message), file=answers, flush=True)

    try:
        side = prepare(spec)(work)
        reply(note=side.note)
        for _ in questions:
            reply(value=side.run())
    except PeerMissing as e:
        reply(missing=str(e))
    except LatentmemError as e:
        reply(error=str(e))
    except Exception as e:  # whatever a peer raises goes to the comparing process, which decides
        import traceback

        traceback.print_exc()
        reply(error=f"{type(e).__name__}: {' '.join(str(e).split())[:300]}")


class Worker:
    """A side as the comparing process sees it. Raises PeerMissing, and LatentmemError for anything
    that goes wrong."""

    def __init__(self, spec: str, work: Workload) -> None:
        self.spec = spec
        self._errors = tempfile.TemporaryFile(  # noqa: SIM115 - closed with the worker
            "w+", encoding="utf-8", errors="replace"
        )
        self._process = subprocess.Popen(
            [sys.executable, "-m", "latentmem.bench.runner", spec, work.to_json()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=_environment(),
        )
        try:
            self.note: str = self._answer()["note"]
        except BaseException:
            self.close()
            raise

    def measure(self) -> float:
        """Do the work once; returns the figure."""
        assert self._process.stdin
        try:
            self._process.stdin.write("run\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended: its last words are read below
        return float(self._answer()["value"])

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._errors.seek(0)
            last = (self._errors.read().strip().splitlines() or ["no output"])[-1]
            raise LatentmemError(
                f"Measuring {self.spec} ended with exit code {self._process.returncode}: "
                f"{last[:300]}."
            )
        message = json.loads(line)
        if "missing" in message:
            raise PeerMissing(message["missing"])
        if "error" in message:
            raise LatentmemError(f"Measuring {self.spec} failed: {message['error']}")
        return message

    def close(self) -> None:
        """End the process."""
        process = self._process
        for stream in (process.stdin, process.stdout):
            if stream:
                _quietly(stream.close)
        try:
            process.wait(2)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._errors.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _quietly(close: Callable[[], None]) -> None:
    try:
        close()
    except BrokenPipeError:
        return  # the other end is gone, which is what closing is for


def _environment() -> dict[str, str]:
    from .workloads import environment

    return environment()


# ---------- The table of rows: what is measured, against whom, and what it must reach.


@dataclass(frozen=True)
class RowSpec:
    """One row. `ours` and `peer` name the functions that prepare a side: a module of this package
    and a function."""

    name: str
    what: str
    unit: str
    better: Better
    target: Target
    ours: str
    peer: str = ""
    peer_name: str = ""
    fresh: bool = (
        False  # every run in its own process, because the figure is one of the whole process
    )
    # What decides the dtype of the peer: the time of a short probe, or ("both") the row itself,
    # measured in both dtypes.
    probe: Literal["", "decode", "train", "both"] = ""
    packages: tuple[str, ...] = ()  # of the peer, beside those that every row depends on


LLAMA, TRL = ("llama-cpp-python",), ("trl", "peft", "datasets")
ROWS: dict[str, RowSpec] = {
    row.name: row
    for row in (
        RowSpec(
            "rollouts-8",
            "rollouts of one problem",
            "tokens/s",
            "higher",
            Target(ratio=3),
            "workloads:one_problem",
            "peers:transformers_one",
            "transformers generate",
            probe="decode",
        ),
        RowSpec(
            "rollouts-32",
            "rollouts of 4 problems with 4 soft prompts",
            "tokens/s",
            "higher",
            Target(ratio=5),
            "workloads:four_problems",
            "peers:transformers_four",
            "transformers generate, four calls",
            probe="decode",
        ),
        RowSpec(
            "llama-8",
            "rollouts of one problem, against llama.cpp",
            "tokens/s",
            "higher",
            Target(ratio=1.2),
            "workloads:one_problem",
            "peers:llama_one",
            "llama.cpp, shared prompt",
            packages=LLAMA,
        ),
        RowSpec(
            "llama-32",
            "rollouts of 4 problems, against llama.cpp",
            "tokens/s",
            "higher",
            Target(ratio=1.5),
            "workloads:four_problems",
            "peers:llama_four",
            "llama.cpp, shared prompts",
            packages=LLAMA,
        ),
        RowSpec(
            "memory",
            "one memory",
            "s",
            "lower",
            Target(ratio=8),
            "workloads:one_memory",
            "peers:trl_memory",
            "TRL GRPOTrainer, PEFT prompt tuning",
            probe="train",
            packages=TRL,
        ),
        RowSpec(
            "together",
            "eight memories together",
            "s",
            "lower",
            Target(ratio=2.5),
            "workloads:together",
            "workloads:one_after_another",
            "ours, one after another",
        ),
        RowSpec(
            "peak",
            "peak memory of distillation",
            "GB",
            "lower",
            Target(ratio=2),
            "workloads:peak_memory",
            "peers:trl_peak",
            "TRL GRPOTrainer, PEFT prompt tuning",
            fresh=True,
            probe="both",
            packages=TRL,
        ),
        RowSpec(
            "search",
            "search in a large bank, input keys, p95",
            "ms",
            "lower",
            Target(ratio=3, limit=25),
            "workloads:search",
            "peers:qdrant_search",
            "qdrant-client, local mode",
            packages=("qdrant-client",),
        ),
        RowSpec(
            "map",
            "opening a bank and drawing its map",
            "s",
            "lower",
            Target(limit=2),
            "workloads:bank_map",
        ),
        RowSpec(
            "map-browser",
            "the same in a browser: from opening the page to the first picture",
            "s",
            "lower",
            Target(limit=2),
            "workloads:first_picture",
        ),
        RowSpec(
            "import", "import latentmem", "s", "lower", Target(limit=0.3), "workloads:importing"
        ),
        RowSpec("help", "latentmem --help", "s", "lower", Target(limit=0.3), "workloads:help_text"),
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
Known = dict[str, tuple[str, str]]  # probe -> the dtype of the peer, and why
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
    here, found, settings = (
        report.machine(),
        report.versions(),
        {**asdict(work), "repeats": repeats},
    )
    load = report.load_average()  # before the first row: later it would be that of the row before
    report.check_machine(file, "bench", here)
    there = report.read(file, "bench") if resume else {}
    known: Known = {}
    for spec in specs:
        needed = report.needed(found, spec.packages)
        if report.is_done(there, spec.name, settings, needed):
            yield Status(f"{spec.name}: already in {file}")
            continue
        began = time.perf_counter()
        dtypes, why = yield from _dtypes(spec, work, known)
        measured = _measure(spec, work, dtypes, repeats)
        try:
            ours, peers, notes = yield from measured
        except PeerMissing as e:  # our own side may need something optional too: a browser
            yield Status(f"{spec.name} is left out: {e}")
            continue
        peer, chosen = (
            _better(spec, peers) if len(dtypes) > 1 else (next(iter(peers.values()), []), why)
        )
        busy = (
            f"the machine was busy when the bench began (load {load})"
            if load is not None and load > 1
            else ""
        )
        made = report.row(
            spec.name,
            spec.what,
            spec.unit,
            spec.better,
            spec.target,
            spec.peer_name,
            ours,
            peer,
            note="; ".join(filter(None, [*notes, chosen if peer else "", busy])),
            load=load,
            seconds=round(time.perf_counter() - began, 1),
            measured=datetime.now(UTC).isoformat(timespec="seconds"),
            settings=settings,
            versions=needed,
        )
        report.merge(file, "bench", [report.plain(made)], list(ROWS), machine=here, versions=found)
        yield made


def _measure(
    spec: RowSpec, work: Workload, dtypes: Sequence[str], repeats: int
) -> Generator[Status, None, tuple[list[float], Figures, list[str]]]:
    """Run our side and the peer in each of the dtypes, in turns. Yields Status; returns (ours, the
    peer's, notes)."""
    sides = {"": spec.ours} | (dict.fromkeys(dtypes, spec.peer) if spec.peer else {})
    figures: Figures = {side: [] for side in sides}
    notes: list[str] = []
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for turn in range(repeats):
            for side in list(figures):
                which = f" in {side}" if side and len(dtypes) > 1 else ""
                yield Status(
                    f"{spec.name}: {spec.peer_name if side else 'ours'}{which}", turn, repeats
                )
                try:
                    if side not in workers:
                        asked = replace(work, peer_dtype=side) if side else work
                        workers[side] = stack.enter_context(Worker(sides[side], asked))
                        notes += [n for n in [workers[side].note] if n and n not in notes]
                    figures[side].append(workers[side].measure())
                    if spec.fresh:
                        workers.pop(side).close()
                except LatentmemError as e:
                    if not side:
                        raise
                    del figures[side]
                    fault = (
                        str(e)
                        if isinstance(e, PeerMissing)
                        else f"no figure of the peer{which}: {e}"
                    )
                    notes += [n for n in [fault.rstrip(".")] if n not in notes]
    return figures.pop(""), figures, notes


def _better(spec: RowSpec, peers: Figures) -> tuple[list[float], str]:
    """The peer's better figures, and why; each dtype was measured as the row itself is."""
    if not peers:
        return [], ""
    middle = {dtype: median(figures) for dtype, figures in peers.items()}
    best = (min if spec.better == "lower" else max)(middle, key=lambda dtype: middle[dtype])
    figures = ", ".join(
        f"{dtype} {report.number(value, spec.unit)}" for dtype, value in middle.items()
    )
    word = "the smaller" if spec.better == "lower" else "the larger"
    return peers[best], f"peer in {best}, " + (
        f"{word} figure (measured in both: {figures})"
        if len(peers) > 1
        else "the only one of its dtypes that gave a figure"
    )


def _dtypes(
    spec: RowSpec, work: Workload, known: Known
) -> Generator[Status, None, tuple[tuple[str, ...], str]]:
    """The dtypes in which to measure the peer, and why: one, unless the row itself is measured in
    both."""
    if not spec.probe:
        return (work.peer_dtype,), ""
    if work.peer_dtype != "auto":
        return (work.peer_dtype,), f"peer in {work.peer_dtype}, as asked"
    if spec.probe == "both":
        return MEASURED_TWICE, ""
    if spec.probe not in known:
        known[spec.probe] = yield from _probe(spec, work)
    dtype, why = known[spec.probe]
    return (dtype,), why


def _probe(spec: RowSpec, work: Workload) -> Generator[Status, None, tuple[str, str]]:
    """Find the dtype in which the peer is faster here. Returns it, and why."""
    took: dict[str, float] = {}
    for dtype in MEASURED_TWICE:
        yield Status(f"{spec.name}: which dtype suits the peer", len(took), len(MEASURED_TWICE))
        try:
            with Worker(f"peers:probe_{spec.probe}", replace(work, peer_dtype=dtype)) as worker:
                took[dtype] = worker.measure()
        except LatentmemError as e:
            yield Status(f"{spec.name}: {e}")
    if not took:
        return "float32", "peer in float32"
    best = min(took, key=lambda dtype: took[dtype])
    return best, f"peer in {best}, the faster (short probe: " + ", ".join(
        f"{dtype} {report.number(seconds)} s" for dtype, seconds in took.items()
    ) + ")"


if __name__ == "__main__":
    main()
