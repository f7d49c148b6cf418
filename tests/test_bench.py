"""The bench: every measurer of our side runs on a tiny model, the sums of the report, peers that are missing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentmem.bench import distillation, figure, report, rollouts, rows, run, scale, search, startup, work, worker
from latentmem.bench.peers import package
from latentmem.bench.report import Row, Target
from latentmem.bench.rows import ROWS, RowSpec
from latentmem.bench.work import PeerMissing, Side, Work
from latentmem.records import LatentmemError, Status, Step, Trace
from tests.tiny import tiny_model

TINY = Work(model="tiny", tokens=20, rollouts=4, steps=2, together=2, together_steps=1, memories=300, mapped=30, queries=5,
            virtual_tokens=4, init_text="Think.")


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model(num_hidden_layers=2, max_position_embeddings=1024)


@pytest.fixture
def tiny(model: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(work, "language_model", lambda _: model)
    return model


# ------------------------------------------------------------------ our side
@pytest.mark.parametrize("prepare", [rollouts.one_problem, rollouts.four_problems, distillation.one_memory,
                                     distillation.together, distillation.one_after_another, distillation.peak_memory,
                                     search.ours, startup.bank_map, startup.importing, startup.help_text])
def test_every_measurer_of_ours_gives_a_positive_figure(tiny: Any, prepare: Any) -> None:
    side = prepare(TINY)
    assert isinstance(side, Side) and side.run() > 0 and side.run() > 0


def test_scripted_rollouts_have_one_length_and_a_vote_worth_learning(tiny: Any) -> None:
    from latentmem.sampling import Job, sample
    from latentmem.voting import vote

    jobs = [Job(p, 8) for p in work.PROBLEMS[:2]]
    made = list(sample(work.scripted(tiny, 20, 8), jobs, seed=0, temperature=0.8, max_new_tokens=20))
    for job in (0, 1):
        traces = [r for j, r in made if j == job and isinstance(r, Trace)]
        assert len(traces) == 8 and all(t.finished and t.tokens == 20 for t in traces)
        ballot = vote(traces, 8)
        assert (ballot.label, ballot.clusters[0].size, ballot.margin) == ("1", 5, 2)
    assert tiny.ends, "the model itself is as it was"


def test_the_first_vote_is_that_of_scripted_rollouts() -> None:
    traces, ballot = work.first_vote(replace(TINY, rollouts=8))
    assert len(traces) == 8 and (ballot.label, ballot.margin) == ("1", 2)


def test_every_step_has_a_gradient_or_the_figure_is_refused(tiny: Any) -> None:
    from latentmem.distil import distil

    fixed = work.scripted(tiny, 20, 4)
    steps = [r for _, r in distil(fixed, work.PROBLEMS[:1], [work.first_vote(TINY)], distillation.recipe(TINY, 2))
             if isinstance(r, Step)]
    assert [s.grad_norm > 0 for s in steps] == [True, True, False]  # the last is the final check
    with pytest.raises(LatentmemError, match="at least 3 rollouts"):
        distillation.seconds(tiny, replace(TINY, rollouts=2), 1, 1)
    with pytest.raises(LatentmemError, match="too short to end with an answer"):
        distillation.seconds(tiny, replace(TINY, tokens=5), 1, 1)


def test_work_travels_as_json_and_is_checked() -> None:
    assert Work(**json.loads(TINY.to_json())) == TINY
    with pytest.raises(LatentmemError, match="steps = 0"):
        Work(steps=0)
    with pytest.raises(LatentmemError, match="8 problems, not 9"):
        Work(together=9)


def test_banks_for_search_hold_what_was_asked() -> None:
    bank, keys = search.filled(50, 0), search.unit_keys(50, 0)
    assert len(bank) == 50 and bank.search(keys[7], k=1)[0].similarity == pytest.approx(1)
    search.extend(bank, search.unit_keys(10, 1), 50)
    assert len(bank) == 60


# ------------------------------------------------------------------ the report
def test_ratios_by_hand() -> None:
    assert report.ratio_of(300, 100, "higher") == 3 and report.ratio_of(20, 100, "lower") == 5
    assert report.ratio_of(300, None, "higher") is None and report.ratio_of(0, 5, "lower") is None


@given(st.floats(0.001, 1e6), st.floats(0.001, 1e6))
def test_better_either_way_is_a_ratio_above_one(a: float, b: float) -> None:
    assert (report.ratio_of(a, b, "higher") > 1) == (a > b)
    assert (report.ratio_of(a, b, "lower") > 1) == (a < b)


@pytest.mark.parametrize(("target", "ours", "ratio", "met", "words"), [
    (Target(ratio=3), 10, 3.0, True, "3 x"), (Target(ratio=3), 10, 2.9, False, "3 x"), (Target(ratio=3), 10, None, None, "3 x"),
    (Target(limit=0.3), 0.29, None, True, "under 0.3 s"), (Target(limit=0.3), 0.3, None, False, "under 0.3 s"),
    (Target(ratio=3, limit=25), 26, 9.0, False, "3 x, under 25 s"), (Target(ratio=3, limit=25), 24, 3.0, True, "3 x, under 25 s"),
])
def test_targets(target: Target, ours: float, ratio: float | None, met: bool | None, words: str) -> None:
    assert target.met(ours, ratio) is met and target.words("s") == words


def test_a_row_is_the_medians_and_their_ratio() -> None:
    made = report.row("memory", "one memory", "s", "lower", Target(ratio=8), "TRL", [50.0, 90.0, 60.0], [540.0, 480.0, 600.0])
    assert (made.ours, made.peer, made.ratio, made.met) == (60, 540, 9, True)
    assert made.ours_runs == (50, 90, 60) and made.target == "8 x"
    alone = report.row("memory", "one memory", "s", "lower", Target(ratio=8), "TRL", [50.0, 70.0], [])
    assert (alone.ours, alone.peer, alone.ratio, alone.met) == (60, None, None, None)


def test_rows_are_merged_in_the_order_of_the_table(tmp_path: Path) -> None:
    file = tmp_path / "results" / "bench.json"
    for name, ours in (("help", 1), ("memory", 2), ("help", 3)):
        report.merge(file, [{"name": name, "ours": ours}], list(ROWS), machine={"cores": 2}, versions={})
    assert [(r["name"], r["ours"]) for r in report.read(file)["rows"]] == [("memory", 2), ("help", 3)]
    assert [p.name for p in file.parent.iterdir()] == ["bench.json"]


def test_files_that_are_no_report_and_other_machines_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    assert report.read(file) == {}
    report.check_machine(file, {"cores": 2})
    file.write_text("[1]")
    with pytest.raises(LatentmemError, match="not a report of a bench"):
        report.read(file)
    file.write_text(json.dumps({"rows": [], "machine": {"cores": 8}}))
    with pytest.raises(LatentmemError, match=r"another machine \(cores 8, here 2\)"):
        report.check_machine(file, {"cores": 2})
    file.write_text(json.dumps({"rows": [], "machine": {"cores": 2, "instructions": "avx2 avx512_vnni"}}))
    with pytest.raises(LatentmemError, match=r"another machine \(instructions avx2 avx512_vnni, here avx2\)"):
        report.check_machine(file, {"cores": 2, "instructions": "avx2"})


def test_the_table() -> None:
    made = report.row("memory", "one memory", "s", "lower", Target(ratio=8), "TRL", [61.26], [540.0], note="extrapolated")
    text = report.markdown([report.plain(made)], report.machine(), report.versions())
    assert "| one memory | 61.3 s | TRL | 540 s | 8.81 | 8 x | yes |" in text
    assert "- one memory: extrapolated." in text and "latentmem 0" in text
    assert [report.number(v) for v in (None, 0.0312, 1.25, 118.4)] == ["–", "0.0312", "1.25", "118"]


# ------------------------------------------------------------------ rows, workers, runs
def test_every_row_names_functions_that_are_there() -> None:
    for spec in ROWS.values():
        assert callable(rows.prepare(spec.ours)) and (not spec.peer or callable(rows.prepare(spec.peer)))
        assert spec.name == "browser" or spec.target.words(spec.unit)
    assert rows.chosen([]) == list(ROWS.values())
    assert [s.name for s in rows.chosen(["map", "memory"])] == ["memory", "map"]
    with pytest.raises(LatentmemError, match="no row 'speed': choose from rollouts-8"):
        rows.chosen(["speed"])


def test_a_missing_package_is_one_sentence() -> None:
    with pytest.raises(PeerMissing, match=r'nothing-here is not installed .*pip install -e "\.\[bench\]"'):
        package("nothing_here_at_all", "nothing-here")


def test_a_worker_measures_in_its_own_process() -> None:
    with worker.Worker("startup:importing", TINY) as one:
        assert 0 < one.measure() < 30 and 0 < one.measure() < 30
    with pytest.raises(LatentmemError, match="search:none failed: AttributeError"):
        worker.Worker("search:none", TINY)


class Scripted:
    """Stands for a worker: figures that were written down before."""

    figures: dict[str, Any]
    made: list[str]

    def __init__(self, spec: str, asked: Work) -> None:
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
    monkeypatch.setattr(run, "Worker", Scripted)
    monkeypatch.setattr(report, "load_average", lambda: 0.1)
    yield Scripted


SPEC = RowSpec("search", "a search", "ms", "lower", Target(ratio=2), "ours:side", "peers.other:side", "other")


def test_a_run_takes_turns_writes_rows_and_can_be_resumed(fakes: type[Scripted], tmp_path: Path) -> None:
    fakes.figures = {"ours:side": [1.0, 3.0, 2.0, 9.0], "peers.other:side": [6.0, 4.0, 5.0]}
    file = tmp_path / "bench.json"
    records = list(run.run([SPEC], TINY, 3, file))
    assert [r.text for r in records if isinstance(r, Status)] == ["search: ours", "search: other"] * 3
    made = records[-1]
    assert isinstance(made, Row) and (made.ours, made.peer, made.ratio, made.met) == (2, 5, 2.5, True)
    assert made.note == "note of ours:side; note of peers.other:side"
    data = report.read(file)
    assert data["rows"][0]["ours_runs"] == [1, 3, 2] and {"machine", "versions"} <= set(data)
    assert {"name", "unit", "ours", "peer", "peer_name", "ratio", "target", "met"} <= set(data["rows"][0])
    again = list(run.run([SPEC], TINY, 3, file, resume=True))
    assert len(again) == 1 and isinstance(again[0], Status) and "already in" in again[0].text
    other = list(run.run([replace(SPEC, peer="")], TINY, 1, file, resume=True))  # other settings: measured again
    assert other[-1].ours == 9


@pytest.mark.parametrize(("fault", "note"), [
    (PeerMissing("other is not installed: pip install other."), "other is not installed: pip install other"),
    (LatentmemError("Measuring it failed: KeyError"), "no figure of the peer: Measuring it failed: KeyError"),
])
def test_a_missing_or_failing_peer_leaves_ours_and_a_note(fakes: type[Scripted], tmp_path: Path, fault: Exception,
                                                          note: str) -> None:
    fakes.figures = {"ours:side": [1.0, 2.0], "peers.other:side": fault}
    *_, made = run.run([SPEC], TINY, 2, tmp_path / "bench.json")
    assert isinstance(made, Row) and (made.ours, made.peer, made.ratio, made.met) == (1.5, None, None, None)
    assert made.note == f"note of ours:side; {note}"


def test_when_our_side_cannot_be_measured(fakes: type[Scripted], tmp_path: Path) -> None:
    fakes.figures = {"ours:side": LatentmemError("It broke: mend it."), "peers.other:side": [1.0]}
    with pytest.raises(LatentmemError, match="It broke"):
        list(run.run([SPEC], TINY, 1, tmp_path / "bench.json"))
    fakes.figures["ours:side"] = PeerMissing("there is no browser")
    *_, last = run.run([SPEC], TINY, 1, tmp_path / "bench.json")
    assert isinstance(last, Status) and last.text == "search is left out: there is no browser"


def test_the_peer_gets_the_faster_dtype(fakes: type[Scripted], tmp_path: Path) -> None:
    spec = replace(SPEC, probe="decode", fresh=True)
    fakes.figures = {"ours:side": [1.0, 1.0], "peers.other:side": [6.0, 6.0], "peers.hf:probe_decode": [2.0, 0.5]}
    *_, made = run.run([spec], TINY, 2, tmp_path / "bench.json")
    assert fakes.made == ["peers.hf:probe_decode float32", "peers.hf:probe_decode bfloat16",
                          *["ours:side bfloat16", "peers.other:side bfloat16"] * 2]  # fresh: a process for each run
    assert isinstance(made, Row)
    assert made.note.endswith("peer in bfloat16, the faster (short probe: float32 2 s, bfloat16 0.5 s)")


# ------------------------------------------------------------------ scaling, the command
def test_every_series_runs_and_is_drawn(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"rollouts-batch": (4, 8), "rollouts-length": (16, 20), "distil-steps": (1,), "distil-tokens": (20,),
             "distil-memories": (1, 2), "search-size": (50, 100), "routing-k": (1, 4)}
    monkeypatch.setattr(scale, "SIZES", sizes)
    monkeypatch.setattr(scale, "bandwidth", lambda _: 1e9)
    file = tmp_path / "scale.json"
    series = [r for r in scale.run(scale.chosen([]), TINY, 1, file, largest=100) if not isinstance(r, Status)]
    assert [s.name for s in series] == list(sizes)
    for s in series:
        assert s.x == sizes[s.name] and len(s.y) == len(s.x) and min(s.y) > 0
        assert bool(s.limit) == s.name.startswith("rollouts")
    kept = report.read(file)["rows"]
    page, data = figure.save(kept, file)
    assert page.name == "scale.html" and "plotly" in page.read_text(encoding="utf-8")
    drawn = json.loads(data.read_text(encoding="utf-8"))["data"]
    assert len(drawn) == len(sizes) + 2
    assert "| rows | tokens/s | limit |" in figure.markdown(kept)
    again = [r.text for r in scale.run(["search-size"], TINY, 1, file, resume=True, largest=100)]
    assert again == [f"search-size: already in {file}"]
    with pytest.raises(LatentmemError, match="no series 'x': choose from rollouts-batch"):
        scale.chosen(["x"])


def test_the_command(fakes: type[Scripted], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from latentmem.cli import app

    monkeypatch.chdir(tmp_path)
    fakes.figures = {"startup:help_text": [0.2, 0.1, 0.2]}
    done = CliRunner().invoke(app, ["bench", "--only", "help", "--json", "--repeats", "2"])
    row = json.loads(done.stdout)
    assert done.exit_code == 0 and row["name"] == "help" and row["met"] is True
    done = CliRunner().invoke(app, ["bench", "--table"])
    assert "| latentmem --help | 0.15 s | – | – | – | under 0.3 s | yes |" in done.stdout
    done = CliRunner().invoke(app, ["bench", "--only", "help", "--repeats", "1"])
    assert "The report is in bench.json." in done.stdout and "help: ours" in done.stderr
    done = CliRunner().invoke(app, ["bench", "--only", "nothing"])
    assert done.exit_code == 1 and "There is no row 'nothing'" in done.stderr
