"""The rows one after another: both sides in turns, the median of each, and every row written as soon as it is done."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

from ..records import LatentmemError, Status
from . import report
from .rows import ROWS, RowSpec
from .work import PeerMissing, Work
from .worker import Worker

MEASURED_TWICE = ("float32", "bfloat16")


def run(specs: Sequence[RowSpec], work: Work, repeats: int, file: Path, *, resume: bool = False) -> Iterator[Status | report.Row]:
    """Measure rows and merge each into `file`. Yields Status as it goes and each Row when it is done.

    `resume`: rows that the file has with the same settings are passed over. Raises LatentmemError when our own side of
    a row fails; a peer that is missing or fails leaves a row with ours alone and a note.
    """
    here, settings = report.machine(), {**asdict(work), "repeats": repeats}
    load = report.load_average()  # before the first row: later it would be that of the row before
    report.check_machine(file, here)
    done = {r["name"] for r in report.read(file).get("rows", []) if r.get("settings") == settings} if resume else set()
    dtypes: dict[str, tuple[str, str]] = {}
    for spec in specs:
        if spec.name in done:
            yield Status(f"{spec.name}: already in {file}")
            continue
        began = time.perf_counter()
        dtype, why = "", ""
        if spec.probe:
            yield from _probe(spec, work, dtypes)
            dtype, why = dtypes[spec.probe]
        measured = _measure(spec, replace(work, peer_dtype=dtype) if dtype else work, repeats)
        try:
            ours, peer, notes = yield from measured
        except PeerMissing as e:  # our own side needs something optional, too: a browser
            yield Status(f"{spec.name} is left out: {e}")
            continue
        busy = f"the machine was busy when the bench began (load {load})" if load is not None and load > 1 else ""
        made = report.row(spec.name, spec.what, spec.unit, spec.better, spec.target, spec.peer_name, ours, peer,
                          note="; ".join(filter(None, [*notes, why if peer else "", busy])), load=load,
                          seconds=round(time.perf_counter() - began, 1),
                          measured=datetime.now(UTC).isoformat(timespec="seconds"), settings=settings)
        report.merge(file, [report.plain(made)], list(ROWS), machine=here, versions=report.versions())
        yield made


def _measure(spec: RowSpec, work: Work, repeats: int) -> Generator[Status, None, tuple[list[float], list[float], list[str]]]:
    """Alternating runs of both sides. Yields Status; returns (our figures, the peer's, notes)."""
    figures: dict[str, list[float]] = {spec.ours: [], spec.peer: []}
    notes: list[str] = []
    with ExitStack() as stack:
        sides: dict[str, Worker] = {}
        live = [s for s in (spec.ours, spec.peer) if s]
        for turn in range(repeats):
            for side in list(live):
                yield Status(f"{spec.name}: {'ours' if side == spec.ours else spec.peer_name}", turn, repeats)
                try:
                    if side not in sides:
                        sides[side] = stack.enter_context(Worker(side, work))
                        notes += [n for n in [sides[side].note] if n and n not in notes]
                    figures[side].append(sides[side].measure())
                    if spec.fresh:
                        sides.pop(side).close()
                except LatentmemError as e:
                    if side == spec.ours:
                        raise
                    live.remove(side)
                    figures[side].clear()
                    notes.append(str(e).rstrip(".") if isinstance(e, PeerMissing) else f"no figure of the peer: {e}".rstrip("."))
    return figures[spec.ours], figures[spec.peer] if spec.peer else [], notes


def _probe(spec: RowSpec, work: Work, known: dict[str, tuple[str, str]]) -> Iterator[Status]:
    """Find out which dtype suits the peer here; once for rows of the same kind."""
    if spec.probe in known:
        return
    if work.peer_dtype != "auto":
        known[spec.probe] = work.peer_dtype, f"peer in {work.peer_dtype}, as asked"
        return
    took: dict[str, float] = {}
    for dtype in MEASURED_TWICE:
        yield Status(f"{spec.name}: which dtype suits the peer", len(took), len(MEASURED_TWICE))
        try:
            with Worker(f"peers.hf:probe_{spec.probe}", replace(work, peer_dtype=dtype)) as worker:
                took[dtype] = worker.measure()
        except LatentmemError as e:
            yield Status(f"{spec.name}: {e}")
    if not took:
        known[spec.probe] = "float32", "peer in float32"
        return
    best = min(took, key=lambda dtype: took[dtype])
    known[spec.probe] = best, f"peer in {best}, the faster (short probe: " + ", ".join(
        f"{dtype} {report.number(seconds)} s" for dtype, seconds in took.items()) + ")"
