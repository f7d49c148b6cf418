"""Whole suites on a tiny random model: real systems, real training, real files; only the sense is
missing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from latentmem.engine import Engine
from latentmem.evaluation import datasets, report, suites
from latentmem.evaluation.journal import read_results
from latentmem.evaluation.results import Learned, Result
from latentmem.evaluation.suites import RunOptions, Suite, run
from latentmem.records import LatentmemError
from tests.baseline_samples import tiny_engine

QUICK = Suite("toy", ("examples?source=change",), 2, 3, ("zero_shot", "elm"))


def write(file: Path, n: int, name: str) -> str:
    file.write_text(
        "".join(
            json.dumps(
                {
                    "id": f"{name}{i}",
                    "problem": f"{name} has {i} pens and gets {i + 2}. How many?",
                    "answer": str(2 * i + 2),
                }
            )
            + "\n"
            for i in range(n)
        ),
        encoding="utf-8",
    )
    return str(file)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch):
    return tiny_engine(monkeypatch)


@pytest.fixture
def unloaded(engine, monkeypatch: pytest.MonkeyPatch):
    """An engine that must not load its model."""

    def never(self: Engine) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(Engine, "load", never)
    return engine


def test_a_suite_runs_from_end_to_end_and_goes_on_from_what_is_there(
    engine, tmp_path: Path
) -> None:
    records = list(run(engine, RunOptions(QUICK, tmp_path)))
    results, learned, config = read_results(tmp_path / "heldout-examples-change")
    assert [r for r in records if isinstance(r, Result)] == results
    assert {(r.system, r.form) for r in results} == {
        (s, f) for s in ("zero_shot", "elm") for f in ("one", "vote")
    }
    assert len(results) == 12 and {r.dataset for r in results} == {"examples/change"}
    assert len([x for x in records if isinstance(x, Learned) and x.system == "elm"]) == len(learned)
    assert config["distil"]["problems"] == 2
    assert config["test"][0]["problems"] == 3
    assert config["settings"]["steps"] == 2
    asked, taught = {r.problem_id for r in results}, {p for x in learned for p in x.problems}
    assert taught and not asked & taught, "the parts share no problem"
    again = list(run(engine, RunOptions(QUICK, tmp_path)))
    assert not [r for r in again if isinstance(r, Result)]
    wider = replace(QUICK, systems=("zero_shot", "elm", "elm_kv"))
    more = [r for r in run(engine, RunOptions(wider, tmp_path)) if isinstance(r, Result)]
    assert {r.system for r in more} == {"elm_kv"} and len(more) == 6


def test_the_stream_answers_before_it_learns(engine, tmp_path: Path) -> None:
    suite = replace(
        QUICK, protocols=("stream",), stream=4, modes={"elm": ("vote",), "zero_shot": ("vote",)}
    )
    order = [
        (type(r).__name__, getattr(r, "problem_id", None) or r.problems[0])
        for r in run(engine, RunOptions(suite, tmp_path))
        if isinstance(r, (Result, Learned)) and r.system == "elm"
    ]
    assert [kind for kind, _ in order] == ["Result", "Learned"] * 4
    assert [p for kind, p in order if kind == "Result"] == [
        p for kind, p in order if kind == "Learned"
    ]
    results, _, _ = read_results(tmp_path / "stream-examples-change")
    first = next(r for r in results if r.system == "elm")
    assert first.memory is None and not first.used, "the first problem meets no memory"


def test_a_transfer_learns_on_each_set_and_answers_all(engine, tmp_path: Path) -> None:
    data = (write(tmp_path / "pens.jsonl", 8, "Ann"), write(tmp_path / "more.jsonl", 8, "Bob"))
    suite = replace(
        QUICK, data=data, protocols=("transfer",), modes={"elm": ("vote",), "zero_shot": ("vote",)}
    )
    list(run(engine, RunOptions(suite, tmp_path / "out")))
    found = [
        r
        for name in ("pens", "more")
        for r in read_results(tmp_path / "out" / f"transfer-{name}")[0]
    ]
    cells = {(r.learned_on, r.dataset) for r in found}
    assert cells == {(a, b) for a in ("pens", "more") for b in ("pens", "more")}
    page = report.make(tmp_path / "out")["report.md"].read_text()
    assert "## Transfer" in page and "pens" in page.partition("## Transfer")[2].partition("##")[0]
    with pytest.raises(LatentmemError, match="A transfer needs two data sets"):
        list(run(engine, RunOptions(replace(suite, data=data[:1]), tmp_path / "out2")))
    other = replace(suite, test_data=(data[0],))
    with pytest.raises(
        LatentmemError, match="transfer takes its problems from --data: leave --test-data out"
    ):
        list(run(engine, RunOptions(other, tmp_path / "out3")))


def test_two_data_sets_of_one_name_are_refused_before_anything_is_written(
    engine, tmp_path: Path
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    both = (
        write(tmp_path / "a" / "pens.jsonl", 8, "Ann"),
        write(tmp_path / "b" / "pens.jsonl", 8, "Bob"),
    )
    for suite in (replace(QUICK, data=both), replace(QUICK, test_data=both)):
        with pytest.raises(LatentmemError, match="Two data sets are called pens: rename a file"):
            list(run(engine, RunOptions(suite, tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_a_run_does_not_go_on_with_another_arithmetic(engine, tmp_path: Path) -> None:
    list(run(engine, RunOptions(replace(QUICK, systems=("zero_shot",)), tmp_path)))
    file = tmp_path / "heldout-examples-change" / "run.json"
    told = json.loads(file.read_text())
    for fact in ("device", "dtype"):
        file.write_text(json.dumps(told | {"made": told["made"] | {"torch": "0.1", fact: "other"}}))
        with pytest.raises(LatentmemError, match=f"holds a run with {fact} = other, and here it"):
            list(run(engine, RunOptions(QUICK, tmp_path)))
    file.write_text(json.dumps(told | {"made": told["made"] | {"torch": "0.1"}}))
    assert [r for r in run(engine, RunOptions(QUICK, tmp_path)) if isinstance(r, Result)], (
        "another torch may go on"
    )


def test_problems_of_another_set_can_be_asked(engine, tmp_path: Path) -> None:
    suite = replace(
        QUICK,
        data=(write(tmp_path / "pens.jsonl", 5, "Ann"),),
        test_data=(write(tmp_path / "t.jsonl", 4, "Bob"),),
    )
    list(run(engine, RunOptions(suite, tmp_path / "out")))
    results, _, _ = read_results(tmp_path / "out" / "heldout-pens")
    assert {(r.learned_on, r.dataset) for r in results} == {("pens", "t")} and len(
        {r.problem_id for r in results}
    ) == 3


def test_what_is_wrong_is_said_in_one_sentence_before_the_model_is_loaded(
    unloaded, tmp_path: Path
) -> None:
    for change, words in (
        ({"systems": ("zero_shot", "elmo")}, "There is no system 'elmo'"),
        ({"protocols": ("upside",)}, "There is no protocol 'upside'"),
        ({"modes": {"elm": ("two",)}}, "There is no form 'two'"),
        ({"data": ("nothing.jsonl",)}, "There is no data set 'nothing.jsonl'"),
        ({"test": 500}, "different problems and 2 \\+ 500 are asked for"),
        (
            {"protocols": ("heldout", "stream"), "stream": 500},
            "different problems and 500 \\+ 0 are asked for",
        ),
        ({"protocols": ("heldout", "transfer")}, "A transfer needs two data sets"),
    ):
        with pytest.raises(LatentmemError, match=words):
            list(run(unloaded, RunOptions(replace(QUICK, **change), tmp_path / "out")))
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(
        LatentmemError,
        match=r"file cannot be a folder of results \(Not a directory\): give another with --out",
    ):
        list(run(unloaded, RunOptions(QUICK, tmp_path / "file")))


def test_the_stream_takes_the_systems_named_for_it_once(engine, tmp_path: Path) -> None:
    suite = replace(
        QUICK,
        systems=("zero_shot", "elm", "elm"),
        modes={"elm": ("one",)},
        protocols=("stream", "stream"),
        stream=2,
        online=("elm", "elm"),
    )
    list(run(engine, RunOptions(suite, tmp_path)))
    results, _, _ = read_results(tmp_path / "stream-examples-change")
    assert [r.system for r in results] == ["elm"] * 2


def test_a_problem_over_the_limit_is_left_out_by_name_and_not_asked(engine, tmp_path: Path) -> None:
    longest = max(datasets.load(QUICK.data[0]).problems, key=lambda p: len(p.text))
    order = RunOptions(replace(QUICK, systems=("zero_shot",), distil=0, test=4), tmp_path)
    (said, *_) = run(engine.changed(max_problem_chars=len(longest.text) - 1), order)
    assert "Left out 1: " in said.text
    assert f"the limit is {len(longest.text) - 1}: shorten it" in said.text
    assert longest.id not in {
        r.problem_id for r in read_results(tmp_path / "heldout-examples-change")[0]
    }


def test_the_paper_suite_runs_small(
    engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own protocols, systems and modes, on a few problems in the place of MATH500 and AMC23."""
    small = {name: write(tmp_path / f"{name}.jsonl", 2, name) for name in ("math500", "amc23")}
    monkeypatch.setattr(suites, "load", lambda spec, **how: datasets.load(small[spec], **how))
    options = RunOptions(replace(suites.SUITES["paper"], data=tuple(small)), tmp_path / "out")
    list(run(engine.changed(rollouts=4, steps=1, max_new_tokens=3), replace(options, votes=3)))
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["cache"] + [
        f"{kind}-{name}" for kind in ("stream", "transfer") for name in ("amc23", "math500")
    ]
    moved, _, _ = read_results(tmp_path / "out" / "transfer-amc23")
    assert {(r.learned_on, r.dataset) for r in moved} == {("amc23", "math500")}
    assert {(r.system, r.form) for r in moved} == {
        (s, f) for s in suites.MAIN_SYSTEMS for f in ("one", "vote")
    }
    assert report.make(tmp_path / "out")["evidence.json"].stat().st_size > 0


def test_the_suites_name_systems_that_exist() -> None:
    from latentmem.evaluation.baselines.registry import SYSTEMS

    for suite in suites.SUITES.values():
        assert set(suite.online) <= set(suite.systems) <= set(SYSTEMS) and set(suite.modes) <= set(
            suite.systems
        )
        assert set(suite.protocols) <= set(suites.PROTOCOLS)
