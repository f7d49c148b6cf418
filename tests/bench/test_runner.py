"""Runs of the bench over workers that are scripted, and the reports that they leave."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from latentmem.bench import report, runner, workloads
from latentmem.bench.report import Row, RowSpec
from latentmem.bench.runner import ROWS
from latentmem.bench.workloads import PeerMissing, Workload
from latentmem.records import LatentmemError, Status
from tests.bench.test_workloads import TINY

# ---------- Runs of the bench over workers that are scripted: turns, peers that are missing,
# dtypes, what is done already.


class Scripted:
    """Stands for a worker: figures that were written down before."""

    figures: dict[str, Any]
    made: list[str]

    def __init__(self, spec: str, asked: Workload) -> None:
        self.made.append(f"{spec} {asked.peer_dtype}")
        self.todo, self.note = self.figures[spec], f"note of {spec}"
        if isinstance(self.todo, Exception):
            raise self.todo

    def measure(self) -> float:
        return self.todo.pop(0)

    def __enter__(self) -> Scripted:
        return self

    def __exit__(self, *exc: object) -> None: ...

    close = __exit__


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Scripted]]:
    Scripted.figures, Scripted.made = {}, []
    monkeypatch.setattr(runner, "Worker", Scripted)
    monkeypatch.setattr(report, "load_average", lambda: 0.1)
    yield Scripted


SPEC = RowSpec("search", "a search", "ms", "ours:side", "peers:other", "other", ratio=2)


def test_a_run_takes_turns_writes_rows_and_can_be_resumed(
    fakes: type[Scripted], tmp_path: Path
) -> None:
    fakes.figures = {"ours:side": [1.0, 3.0, 2.0, 9.0], "peers:other": [6.0, 4.0, 5.0]}
    file = tmp_path / "bench.json"
    records = list(runner.run([SPEC], TINY, 3, file))
    assert [r.text for r in records if isinstance(r, Status)] == [
        "search: ours",
        "search: other",
    ] * 3
    made = records[-1]
    assert isinstance(made, Row) and (made.ours, made.peer, made.ratio, made.met) == (
        2,
        5,
        2.5,
        True,
    )
    assert made.note == "note of ours:side; note of peers:other"
    data = report.read(file, "bench")
    assert data["rows"][0]["ours_runs"] == [1, 3, 2] and {"machine", "versions"} <= set(data)
    assert {"name", "unit", "ours", "peer", "peer_name", "ratio", "target", "met"} <= set(
        data["rows"][0]
    )
    again = list(runner.run([SPEC], TINY, 3, file, resume=True))
    assert len(again) == 1 and isinstance(again[0], Status) and "already in" in again[0].text
    # other settings: measured again
    other = list(runner.run([replace(SPEC, peer="")], TINY, 1, file, resume=True))
    assert other[-1].ours == 9


def test_what_was_measured_with_other_versions_is_measured_again(
    fakes: type[Scripted], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, file = replace(SPEC, peer="", packages=("trl",)), tmp_path / "bench.json"
    found = {"torch": "2.0", "trl": report.MISSING, "qdrant-client": "1.0"}
    monkeypatch.setattr(report, "versions", lambda: dict(found))

    def measured() -> bool:
        fakes.figures = {"ours:side": [1.0]}
        return isinstance(list(runner.run([spec], TINY, 1, file, resume=True))[-1], Row)

    assert measured() and not measured()
    assert report.read(file, "bench")["rows"][0]["versions"] == {
        "torch": "2.0",
        "trl": "not installed",
    }
    found["torch"] = "2.1"
    assert measured() and not measured()
    found["trl"] = "1.16"  # the peer is there now
    assert measured() and not measured()
    found["qdrant-client"] = "2.0"  # the peer of another row
    assert not measured()


@pytest.mark.parametrize(
    ("fault", "note"),
    [
        (
            PeerMissing("other is not installed: pip install other."),
            "other is not installed: pip install other",
        ),
        (
            LatentmemError("Measuring it failed: KeyError"),
            "no figure of the peer: Measuring it failed: KeyError",
        ),
    ],
)
def test_a_missing_or_failing_peer_leaves_ours_and_a_note(
    fakes: type[Scripted], tmp_path: Path, fault: Exception, note: str
) -> None:
    fakes.figures = {"ours:side": [1.0, 2.0], "peers:other": fault}
    *_, made = runner.run([SPEC], TINY, 2, tmp_path / "bench.json")
    assert isinstance(made, Row) and (made.ours, made.peer, made.ratio, made.met) == (
        1.5,
        None,
        None,
        None,
    )
    assert made.note == f"note of ours:side; {note}"


def test_when_our_side_cannot_be_measured(fakes: type[Scripted], tmp_path: Path) -> None:
    fakes.figures = {"ours:side": LatentmemError("It broke: mend it."), "peers:other": [1.0]}
    with pytest.raises(LatentmemError, match="It broke"):
        list(runner.run([SPEC], TINY, 1, tmp_path / "bench.json"))
    fakes.figures["ours:side"] = PeerMissing("there is no browser")
    *_, last = runner.run([SPEC], TINY, 1, tmp_path / "bench.json")
    assert isinstance(last, Status) and last.text == "search is left out: there is no browser"


PEAK = replace(SPEC, name="peak", unit="GB", fresh=True)


class Sized(Scripted):
    """A peer whose figure depends on its dtype."""

    sizes: dict[str, Any]

    def __init__(self, spec: str, asked: Workload) -> None:
        self.figures = self.figures | {"peers:other": self.sizes.get(asked.peer_dtype)}
        super().__init__(spec, asked)


@pytest.mark.parametrize(
    ("sizes", "peer", "why"),
    [
        (
            {"float32": [6.0, 6.0], "bfloat16": [3.0, 3.0]},
            3.0,
            "peer in bfloat16, the smaller figure (measured in both: float32 6 GB, bfloat16 3 GB)",
        ),
        (
            {"float32": [4.0, 4.0], "bfloat16": [5.0, 5.0]},
            4.0,
            "peer in float32, the smaller figure (measured in both: float32 4 GB, bfloat16 5 GB)",
        ),
        (
            {"float32": [4.0, 4.0], "bfloat16": LatentmemError("It failed.")},
            4.0,
            "no figure of the peer in bfloat16: It failed; peer in float32",
        ),
        (
            dict.fromkeys(
                ("float32", "bfloat16"), PeerMissing("other is not installed: pip install other.")
            ),
            None,
            "other is not installed: pip install other",
        ),
    ],
)
def test_the_memory_of_the_peer_is_measured_in_both_dtypes_and_the_smaller_counts(
    fakes: type[Scripted],
    sizes: dict[str, Any],
    peer: float | None,
    why: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Which dtype is faster says nothing about which holds less."""
    monkeypatch.setattr(runner, "Worker", Sized)
    fakes.figures = {"ours:side": [2.0, 2.0]}
    Sized.sizes = sizes
    *_, made = runner.run([PEAK], TINY, 2, tmp_path / "bench.json")
    assert isinstance(made, Row) and (made.ours, made.peer) == (2, peer)
    assert (
        made.note.removeprefix("note of ours:side; ").removeprefix("note of peers:other; ") == why
    )
    assert fakes.made.count("ours:side auto") == 2, "a process for each run"
    assert ROWS["peak"].fresh


def test_a_dtype_that_is_asked_for_is_the_only_one(fakes: type[Scripted], tmp_path: Path) -> None:
    fakes.figures = {"ours:side": [2.0], "peers:other": [6.0]}
    *_, made = runner.run([PEAK], replace(TINY, peer_dtype="float32"), 1, tmp_path / "bench.json")
    assert isinstance(made, Row) and made.peer == 6 and made.note.endswith("peer in float32")


def test_the_command(
    fakes: type[Scripted], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    from latentmem.cli.app import app

    monkeypatch.chdir(tmp_path)
    fakes.figures = {"workloads:search": [2.0, 1.0, 2.0], "peers:qdrant_search": [9.0] * 3}
    done = CliRunner().invoke(app, ["bench", "--only", "search", "--json", "--repeats", "2"])
    row = json.loads(done.stdout)
    assert done.exit_code == 0 and row["name"] == "search" and row["met"] is True
    done = CliRunner().invoke(app, ["bench", "--table"])
    told = "| 1.5 ms | qdrant-client, local mode | 9 ms | 6 | 3 x, under 25 ms | yes | note of"
    assert told in done.stdout
    done = CliRunner().invoke(app, ["bench", "--only", "search", "--repeats", "1"])
    assert "The report is in bench.json." in done.stdout and "search: ours" in done.stderr
    done = CliRunner().invoke(app, ["bench", "--only", "nothing"])
    assert done.exit_code == 1 and "There is no row 'nothing'" in done.stderr


# ---------- The file of a report: rows of one kind and one machine, each with the versions it was
# measured with; its table.


RESULTS = Path(__file__).parents[2] / "assets" / "results"


def test_rows_are_merged_in_the_order_of_the_table(tmp_path: Path) -> None:
    file = tmp_path / "results" / "bench.json"
    for name, ours in (("peak", 1), ("memory", 2), ("peak", 3)):
        report.merge(
            file,
            "bench",
            [{"name": name, "ours": ours}],
            list(ROWS),
            machine={"cores": 2},
            versions={},
        )
    assert [(r["name"], r["ours"]) for r in report.read(file, "bench")["rows"]] == [
        ("memory", 2),
        ("peak", 3),
    ]
    assert [p.name for p in file.parent.iterdir()] == ["bench.json"]


def test_files_that_are_no_report_and_other_machines_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    assert report.read(file, "bench") == {}
    report.check_machine(file, "bench", {"cores": 2})
    for wrong in ("[1]", "{", '{"rows": [1]}', '{"rows": [{"name": "memory"}]}'):
        file.write_text(wrong)
        with pytest.raises(LatentmemError, match=r"is no report of kind bench.*: give another"):
            report.read(file, "bench")
    file.write_text(json.dumps({"rows": [], "machine": {"cores": 8}}))
    with pytest.raises(LatentmemError, match=r"another machine \(cores 8, here 2\)"):
        report.check_machine(file, "bench", {"cores": 2})
    file.write_text(
        json.dumps({"rows": [], "machine": {"cores": 2, "instructions": "avx2 avx512_vnni"}})
    )
    with pytest.raises(
        LatentmemError, match=r"another machine \(instructions avx2 avx512_vnni, here avx2\)"
    ):
        report.check_machine(file, "bench", {"cores": 2, "instructions": "avx2"})


def test_the_table() -> None:
    spec = RowSpec("memory", "one memory", "s", "ours:side", peer_name="TRL", ratio=8)
    made = asdict(report.row(spec, [61.26], [540.0], note="extrapolated"))
    facts = {"machine": report.machine(), "versions": report.versions()}
    text = report.overview({**facts, "rows": [made]}).markdown()
    assert "| one memory | 61.3 s | TRL | 540 s | 8.81 | 8 x | yes | extrapolated |" in text
    assert "latentmem 0" in text
    assert [report.number(v) for v in (None, 0.0312, 1.25, 118.4)] == ["–", "0.0312", "1.25", "118"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [("bench", "bench"), ("bench-distil", "bench"), ("bench-xeon", "bench"), ("scale", "scale")],
)
@pytest.mark.parametrize("table", [True, False])
def test_committed_reports_are_shown_and_one_of_another_kind_is_refused_before_anything_is_measured(
    name: str, kind: str, table: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    from latentmem.cli.app import app

    monkeypatch.setattr(workloads, "language_model", lambda _: pytest.fail("measured"))
    monkeypatch.setattr(runner, "Worker", lambda *_: pytest.fail("measured"))
    file = tmp_path / "theirs.json"
    data = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    file.write_text(before := json.dumps(data | {"machine": report.machine()}))
    how = ["--out", str(file), *["--table"] * table]
    scale = ["--scale"] * (kind == "scale")
    if table:
        shown = CliRunner().invoke(app, ["bench", *scale, *how])
        assert shown.exit_code == 0 and shown.stdout.count("\n| ") >= len(data["rows"])
    other = "bench" if scale else "scale"
    done = CliRunner().invoke(app, ["bench", *([] if scale else ["--scale"]), *how])
    assert done.exit_code == 1 and f"theirs.json is no report of kind {other}" in done.stderr
    assert file.read_text() == before


# ------------------------------------------------------------------ versions
def test_rows_keep_the_versions_that_they_were_measured_with(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    for name, version in (("peak", "2.0"), ("search", "3.0")):
        made = asdict(report.row(ROWS[name], [0.2], [], versions={"torch": version}))
        report.merge(file, "bench", [made], list(ROWS), versions={"torch": version})
    data = report.read(file, "bench")
    found = {r["name"]: r["versions"] for r in data["rows"]}
    assert found == {"peak": {"torch": "2.0"}, "search": {"torch": "3.0"}}
    assert data["versions"] == {"torch": "3.0"}


def test_the_table_says_which_row_has_other_versions_than_those_above_it() -> None:
    for note, versions, told in (
        ("", {"torch": "3.0"}, ""),
        ("", {"torch": "2.0", "trl": "1.0"}, "measured with torch 2.0, trl 1.0"),
        ("short", {"torch": "2.0"}, "short; measured with torch 2.0"),
        ("", {"trl": report.MISSING}, ""),
    ):
        row = report.row(RowSpec("a", "a", "s", ""), [0.2], [], note=note, versions=versions)
        made = report.overview({"versions": {"torch": "3.0", "trl": "1.1"}, "rows": [asdict(row)]})
        assert made.parts[0]["rows"][0][-1] == told
