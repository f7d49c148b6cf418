"""Runs of the bench over workers that are scripted, and the reports that they leave."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from latentmem.bench import profile, report, runner, workloads
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
    data = report.read(file)
    assert data["rows"][0]["ours_runs"] == [1, 3, 2] and {"machine", "versions"} <= set(data)
    assert {"name", "unit", "ours", "peer", "peer_name", "ratio", "target", "met"} <= set(
        data["rows"][0]
    )
    again = list(runner.run([SPEC], TINY, 3, file, resume=True))
    assert len(again) == 1 and isinstance(again[0], Status) and "already in" in again[0].text
    other = list(
        runner.run([replace(SPEC, peer="")], TINY, 1, file, resume=True)
    )  # other settings: measured again
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
    assert report.read(file)["rows"][0]["versions"] == {"torch": "2.0", "trl": "not installed"}
    found["torch"] = "2.1"
    assert measured() and not measured()
    found["trl"] = "1.16"  # the peer is there now
    assert measured() and not measured()
    found["qdrant-client"] = "2.0"  # the peer of another row
    assert not measured()
    data = report.read(file)  # as reports were before rows had versions: those of the file count
    for row in data["rows"]:
        del row["versions"]
    file.write_text(json.dumps(data))
    assert not measured()
    found["torch"] = "2.2"
    assert measured()


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
    fakes.figures = {"workloads:help_text": [0.2, 0.1, 0.2]}
    done = CliRunner().invoke(app, ["bench", "--only", "help", "--json", "--repeats", "2"])
    row = json.loads(done.stdout)
    assert done.exit_code == 0 and row["name"] == "help" and row["met"] is True
    done = CliRunner().invoke(app, ["bench", "--table"])
    assert "| latentmem --help | 0.15 s | – | – | – | under 0.3 s | yes |" in done.stdout
    done = CliRunner().invoke(app, ["bench", "--only", "help", "--repeats", "1"])
    assert "The report is in bench.json." in done.stdout and "help: ours" in done.stderr
    done = CliRunner().invoke(app, ["bench", "--only", "nothing"])
    assert done.exit_code == 1 and "There is no row 'nothing'" in done.stderr


# ---------- The file of a report: rows of one kind and one machine, each with the versions it was
# measured with; its table.


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
    spec = RowSpec("memory", "one memory", "s", "ours:side", peer_name="TRL", ratio=8)
    made = asdict(report.row(spec, [61.26], [540.0], note="extrapolated"))
    facts = {"machine": report.machine(), "versions": report.versions()}
    text = report.markdown({**facts, "rows": [made]})
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
    old = asdict(report.row(ROWS["help"], [0.2], []))
    file.write_text(json.dumps({"versions": {"torch": "2.0"}, "rows": [{**old, "versions": {}}]}))
    new = asdict(report.row(ROWS["import"], [0.1], [], versions={"torch": "3.0"}))
    report.merge(file, "bench", [new], list(ROWS), versions={"torch": "3.0"})
    report.merge(file, "bench", [], list(ROWS), versions={"torch": "4.0"})
    data = report.read(file, "bench")
    assert {r["name"]: r["versions"] for r in data["rows"]} == {
        "help": {"torch": "2.0"},
        "import": {"torch": "3.0"},
    }
    assert data["versions"] == {"torch": "4.0"} and data["kind"] == "bench"


def test_the_table_says_which_row_has_other_versions_than_those_above_it() -> None:
    rows = [
        asdict(report.row(RowSpec(name, name, "s", ""), [0.2], [], note=note, versions=versions))
        for name, note, versions in (
            ("same", "", {"torch": "3.0"}),
            ("older", "", {"torch": "2.0", "trl": "1.0"}),
            ("noted", "short", {"torch": "2.0"}),
            ("alone", "", {"trl": report.MISSING}),
        )
    ]
    text = report.markdown({"versions": {"torch": "3.0", "trl": "1.1"}, "rows": rows})
    assert text.split("\n\n")[-1] == (
        "- older: measured with torch 2.0, trl 1.0.\n- noted: short; measured with torch 2.0.\n"
    )
