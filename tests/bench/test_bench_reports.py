"""The file of a report: rows of one kind and one machine, each with the versions it was measured
with; its table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from latentmem.bench import profile, report, runner, workloads
from latentmem.bench.report import Target
from latentmem.bench.runner import ROWS
from latentmem.records import LatentmemError
from tests.bench.test_bench import TINY

RESULTS = Path(__file__).parents[2] / "assets" / "results"


def test_rows_are_merged_in_the_order_of_the_table(tmp_path: Path) -> None:
    file = tmp_path / "results" / "bench.json"
    for name, ours in (("help", 1), ("memory", 2), ("help", 3)):
        report.merge(
            file,
            "bench",
            [{"name": name, "ours": ours}],
            list(ROWS),
            machine={"cores": 2},
            versions={},
        )
    assert [(r["name"], r["ours"]) for r in report.read(file)["rows"]] == [
        ("memory", 2),
        ("help", 3),
    ]
    assert [p.name for p in file.parent.iterdir()] == ["bench.json"]


def test_files_that_are_no_report_and_other_machines_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    assert report.read(file) == {}
    report.check_machine(file, "bench", {"cores": 2})
    file.write_text("[1]")
    with pytest.raises(LatentmemError, match="not a report of a bench"):
        report.read(file)
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
    made = report.row(
        "memory",
        "one memory",
        "s",
        "lower",
        Target(ratio=8),
        "TRL",
        [61.26],
        [540.0],
        note="extrapolated",
    )
    text = report.markdown([report.plain(made)], report.machine(), report.versions())
    assert "| one memory | 61.3 s | TRL | 540 s | 8.81 | 8 x | yes |" in text
    assert "- one memory: extrapolated." in text and "latentmem 0" in text
    assert [report.number(v) for v in (None, 0.0312, 1.25, 118.4)] == ["–", "0.0312", "1.25", "118"]


# ------------------------------------------------------------------ kinds
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("bench", "bench"),
        ("bench-distil", "bench"),
        ("bench-xeon", "bench"),
        ("scale", "scale"),
        ("profile", "profile"),
        ("profile-float32", "profile"),
    ],
)
def test_committed_reports_are_of_the_kind_that_their_rows_are(name: str, kind: Any) -> None:
    file = RESULTS / f"{name}.json"
    assert report.read(file, kind) == report.read(file)
    for other in set(report.KINDS) - {kind}:
        with pytest.raises(
            LatentmemError,
            match=rf"{name}\.json is a report of `.*` and not of `.*`: give another file",
        ):
            report.read(file, other)


@pytest.mark.parametrize(
    "data",
    [
        {"rows": [{"name": "memory", "ours": 1}, {"name": "search-size", "x": [1], "y": [1]}]},
        {"rows": [{"ours": 1}]},
        {"rows": [1]},
        {"rows": [{"name": "memory"}]},
        {"kind": "scale", "rows": [{"name": "memory", "ours": 1}]},
        {"kind": "weather", "rows": []},
        {"kind": ["bench"], "rows": []},
    ],
)
def test_rows_of_no_kind_or_of_two_are_no_report(data: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "mixed.json").write_text(json.dumps(data))
    with pytest.raises(
        LatentmemError,
        match=r"mixed\.json is not a report of a bench, for its rows are not of one kind",
    ):
        report.read(tmp_path / "mixed.json")


def test_a_report_without_rows_says_its_kind_itself(tmp_path: Path) -> None:
    report.save(tmp_path / "a.json", "profile", [], machine={}, versions={})
    assert report.read(tmp_path / "a.json", "profile")["kind"] == "profile"
    with pytest.raises(
        LatentmemError,
        match=r"report of `latentmem bench --profile` and not of `latentmem bench --scale`",
    ):
        report.read(tmp_path / "a.json", "scale")


@pytest.mark.parametrize(
    ("options", "foreign"),
    [
        ([], "scale"),
        ([], "profile"),
        (["--scale"], "bench"),
        (["--scale"], "profile"),
        (["--profile"], "bench"),
        (["--profile"], "scale"),
    ],
)
@pytest.mark.parametrize("table", [True, False])
def test_a_report_of_another_kind_is_refused_before_anything_is_measured(
    options: list[str], foreign: str, table: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    from latentmem.cli.app import app

    monkeypatch.setattr(workloads, "language_model", lambda _: pytest.fail("measured"))
    monkeypatch.setattr(runner, "Worker", lambda *_: pytest.fail("measured"))
    file = tmp_path / "theirs.json"
    data = json.loads((RESULTS / f"{foreign}.json").read_text(encoding="utf-8"))
    file.write_text(before := json.dumps(data | {"machine": report.machine()}))
    done = CliRunner().invoke(
        app, ["bench", *options, "--out", str(file), *(["--table"] if table else [])]
    )
    own = " ".join(["latentmem bench", *options])
    assert (
        done.exit_code == 1
        and f"theirs.json is a report of `{report.KINDS[foreign][1]}` and not of `{own}`"
        in done.stderr
    )
    assert file.read_text() == before and not isinstance(done.exception, KeyError)


def test_a_profile_of_another_machine_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workloads, "language_model", lambda _: pytest.fail("measured"))
    report.save(
        tmp_path / "p.json",
        "profile",
        [{"name": "step", "operations": {}}],
        machine={"cores": -1},
        versions={},
    )
    with pytest.raises(LatentmemError, match="figures of another machine"):
        list(profile.run(TINY, tmp_path / "p.json"))


# ------------------------------------------------------------------ versions
def test_rows_keep_the_versions_that_they_were_measured_with(tmp_path: Path) -> None:
    """Also those of a report from before rows had their own: of them the file's versions hold,
    until it gets new ones."""
    file = tmp_path / "bench.json"
    old = report.row("help", "help", "s", "lower", Target(limit=1), "", [0.2], [])
    file.write_text(
        json.dumps({"versions": {"torch": "2.0"}, "rows": [{**report.plain(old), "versions": {}}]})
    )
    new = report.row(
        "import", "import", "s", "lower", Target(limit=1), "", [0.1], [], versions={"torch": "3.0"}
    )
    report.merge(file, "bench", [report.plain(new)], list(ROWS), versions={"torch": "3.0"})
    report.merge(file, "bench", [], list(ROWS), versions={"torch": "4.0"})
    data = report.read(file, "bench")
    assert {r["name"]: r["versions"] for r in data["rows"]} == {
        "help": {"torch": "2.0"},
        "import": {"torch": "3.0"},
    }
    assert data["versions"] == {"torch": "4.0"} and data["kind"] == "bench"


def test_the_table_says_which_row_has_other_versions_than_those_above_it() -> None:
    facts: dict[str, Any] = {"ours": [0.2], "peer": []}
    rows = [
        report.plain(
            report.row(
                name, name, "s", "lower", Target(limit=1), "", **facts, note=note, versions=versions
            )
        )
        for name, note, versions in (
            ("same", "", {"torch": "3.0"}),
            ("older", "", {"torch": "2.0", "trl": "1.0"}),
            ("noted", "short", {"torch": "2.0"}),
            ("alone", "", {"trl": report.MISSING}),
        )
    ]
    text = report.markdown(rows, None, {"torch": "3.0", "trl": "1.1"})
    assert text.split("\n\n")[-1] == (
        "- older: measured with torch 2.0, trl 1.0.\n- noted: short; measured with torch 2.0.\n"
    )
