"""The rows one after another: both sides in turns, the median of each, and every row written as soon as it is done."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from ..records import LatentmemError, Status
from . import report
from .rows import ROWS, RowSpec
from .work import PeerMissing, Work
from .worker import Worker

MEASURED_TWICE = ("float32", "bfloat16")
Known = dict[str, tuple[str, str]]  # probe -> the dtype of the peer, and why
Figures = dict[str, list[float]]  # of a row's peer, by its dtype


def run(specs: Sequence[RowSpec], work: Work, repeats: int, file: Path, *, resume: bool = False) -> Iterator[Status | report.Row]:
    """Measure rows and merge each into `file`. Yields Status as it goes and each Row when it is done.

    `resume`: rows that the file has with the same settings and the same versions of what they depend on are passed over.
    Raises LatentmemError when our own side of a row fails, and at once where the file is of another machine or kind; a peer
    that is missing or fails leaves a row with ours alone and a note.
    """
    here, found, settings = report.machine(), report.versions(), {**asdict(work), "repeats": repeats}
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
        except PeerMissing as e:  # our own side needs something optional, too: a browser
            yield Status(f"{spec.name} is left out: {e}")
            continue
        peer, chosen = _better(spec, peers) if len(dtypes) > 1 else (next(iter(peers.values()), []), why)
        busy = f"the machine was busy when the bench began (load {load})" if load is not None and load > 1 else ""
        made = report.row(spec.name, spec.what, spec.unit, spec.better, spec.target, spec.peer_name, ours, peer,
                          note="; ".join(filter(None, [*notes, chosen if peer else "", busy])), load=load,
                          seconds=round(time.perf_counter() - began, 1),
                          measured=datetime.now(UTC).isoformat(timespec="seconds"), settings=settings, versions=needed)
        report.merge(file, "bench", [report.plain(made)], list(ROWS), machine=here, versions=found)
        yield made


def _measure(spec: RowSpec, work: Work, dtypes: Sequence[str],
             repeats: int) -> Generator[Status, None, tuple[list[float], Figures, list[str]]]:
    """Runs of our side and of the peer in each of the dtypes, in turns. Yields Status; returns (ours, the peer's, notes)."""
    sides = {"": spec.ours} | (dict.fromkeys(dtypes, spec.peer) if spec.peer else {})
    figures: Figures = {side: [] for side in sides}
    notes: list[str] = []
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for turn in range(repeats):
            for side in list(figures):
                which = f" in {side}" if side and len(dtypes) > 1 else ""
                yield Status(f"{spec.name}: {spec.peer_name if side else 'ours'}{which}", turn, repeats)
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
                    fault = str(e) if isinstance(e, PeerMissing) else f"no figure of the peer{which}: {e}"
                    notes += [n for n in [fault.rstrip(".")] if n not in notes]
    return figures.pop(""), figures, notes


def _better(spec: RowSpec, peers: Figures) -> tuple[list[float], str]:
    """The peer's better figures, and why: each dtype was measured as the row itself is."""
    if not peers:
        return [], ""
    middle = {dtype: median(figures) for dtype, figures in peers.items()}
    best = (min if spec.better == "lower" else max)(middle, key=lambda dtype: middle[dtype])
    figures = ", ".join(f"{dtype} {report.number(value, spec.unit)}" for dtype, value in middle.items())
    word = "the smaller" if spec.better == "lower" else "the larger"
    return peers[best], f"peer in {best}, " + (f"{word} figure (measured in both: {figures})" if len(peers) > 1
                                               else "the only one of its dtypes that gave a figure")


def _dtypes(spec: RowSpec, work: Work, known: Known) -> Generator[Status, None, tuple[tuple[str, ...], str]]:
    """The dtypes to measure the peer in, and why: one, but for a row that is itself measured in both."""
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


def _probe(spec: RowSpec, work: Work) -> Generator[Status, None, tuple[str, str]]:
    """Find out in which dtype the peer is faster here. Returns it, and why."""
    took: dict[str, float] = {}
    for dtype in MEASURED_TWICE:
        yield Status(f"{spec.name}: which dtype suits the peer", len(took), len(MEASURED_TWICE))
        try:
            with Worker(f"peers.hf:probe_{spec.probe}", replace(work, peer_dtype=dtype)) as worker:
                took[dtype] = worker.measure()
        except LatentmemError as e:
            yield Status(f"{spec.name}: {e}")
    if not took:
        return "float32", "peer in float32"
    best = min(took, key=lambda dtype: took[dtype])
    return best, f"peer in {best}, the faster (short probe: " + ", ".join(
        f"{dtype} {report.number(seconds)} s" for dtype, seconds in took.items()) + ")"
