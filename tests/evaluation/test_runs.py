"""Several runs in one report: what one lends another, what they are called, and what each says of
itself."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

from latentmem.evaluation import evidence, report
from latentmem.evaluation.journal import Journal, collect
from latentmem.evaluation.protocols import run_heldout as heldout
from latentmem.evaluation.protocols import run_stream as stream
from latentmem.evaluation.suites import part
from tests.evaluation.test_report import config, section, sweep_rows
from tests.evaluation_samples import Cast, data


def asked(folder: Path, spec, test, **more) -> None:
    """A held-out run of one system."""
    with Journal(folder, config("heldout", test=[part(test)]) | more) as journal:
        list(heldout([spec], data(5), (test,), journal))


ELM, ALONE = Cast().spec("elm", memories=True), Cast().spec("zero_shot")


def test_another_runs_zero_shot_is_lent_to_a_run_without(tmp_path: Path) -> None:
    for name, spec in (("a", ALONE), ("b", ELM)):
        asked(tmp_path / name, spec, data(11, first=100))
    found = collect([tmp_path])
    rows = {
        (run.name, r.system): r for run in found.runs for r in evidence.rows_of(run, found.runs)
    }
    assert rows["b", "elm"].delta is not None and ("b", "zero_shot") not in rows
    for name, value in (
        ("seed", 4),
        ("model", "1" * 64),
    ):  # another seed or other weights: other traces
        other = replace(found.runs[0], config=found.runs[0].config | {name: value})
        assert all(r.delta is None for r in evidence.rows_of(found.runs[1], (other, found.runs[1])))


def test_nothing_is_lent_from_other_problems_of_the_same_name(tmp_path: Path) -> None:
    """Another part of the set, and the same problems with other answers: no difference, so nobody
    helped or hurt either."""
    test = data(11, first=100)
    asked(tmp_path / "b", ELM, test)
    asked(tmp_path / "a", ALONE, data(11, first=105))
    asked(
        tmp_path / "c",
        ALONE,
        replace(test, problems=tuple(replace(p, answer="0") for p in test.problems)),
    )
    found = collect([tmp_path])
    run = next(r for r in found.runs if r.name == "b")
    rows = evidence.rows_of(run, found.runs)
    assert rows and {(r.delta, r.helped, r.hurt) for r in rows} == {(None, None, None)}
    asked(tmp_path / "d", ALONE, test)
    rows = evidence.rows_of(run, collect([tmp_path]).runs)
    assert all(r.delta.n == 11 for r in rows)


def test_the_lender_that_asked_most_lends(tmp_path: Path) -> None:
    """Of a run that is under way, what is missing is not put together with another's."""
    test = data(40, first=100)
    for name, spec in (("a", ALONE), ("b", ELM), ("c", ALONE)):
        asked(tmp_path / name, spec, test)
    begun, run, whole = collect([tmp_path]).runs
    begun = replace(
        begun, results=tuple(replace(r, correct=False) for r in begun.results if r.index < 20)
    )
    want = [(r.delta, r.helped) for r in evidence.rows_of(run, (run, whole))]
    assert [(r.delta, r.helped) for r in evidence.rows_of(run, (begun, run, whole))] == want
    assert [(r.delta, r.helped) for r in evidence.rows_of(run, (whole, run, begun))] == want


def test_what_is_lent_stays_out_of_the_borrowers_rows(tmp_path: Path) -> None:
    """Two streams: each has its own zero_shot, and no row of the other's data."""
    for name in ("a", "b"):
        with Journal(tmp_path / name, config("stream", data={"problems": 6})) as journal:
            list(
                stream(
                    [Cast().spec("zero_shot"), Cast().spec("elm", memories=True)],
                    data(6, name),
                    journal,
                )
            )
    found = collect([tmp_path])
    for run in found.runs:
        assert {r.dataset for r in evidence.rows_of(run, found.runs)} == {run.name}
    rows = evidence.evidence(found)
    assert len({(r["dataset"], r["system"]) for r in rows}) == len(rows)


def test_another_arithmetic_lends_nothing(tmp_path: Path) -> None:
    asked(tmp_path / "a", ALONE, data(11, first=100), made={"dtype": "int8"})
    asked(tmp_path / "b", ELM, data(11, first=100), made={"dtype": "float32"})
    found = collect([tmp_path])
    assert all(r.delta is None for r in evidence.rows_of(found.runs[1], found.runs))


def test_each_run_has_a_name_of_its_own_and_is_read_once(tmp_path: Path) -> None:
    """Two folders of one name with runs of one name; one of them is given twice, and a part of the
    other, too."""
    for name in ("a", "b"):
        asked(tmp_path / name / "out" / "heldout-toy", ALONE, data(3, first=100))
        (tmp_path / name / "out" / "sweep.jsonl").write_text(
            "".join(json.dumps(r) + "\n" for r in sweep_rows())
        )
    asked(tmp_path / "b" / "out" / "heldout-more", ALONE, data(3, first=100))
    a, b = (tmp_path / name / "out" for name in "ab")
    assert [r.name for r in collect([a]).runs] == ["heldout-toy"]
    found = collect([a, b, tmp_path / "a" / ".." / "a" / "out", b / "heldout-toy"])
    assert [r.name for r in found.runs] == [
        "a/out/heldout-toy",
        "heldout-more",
        "b/out/heldout-toy",
    ]
    assert len(found.rows["sweep"]) == 2 * len(sweep_rows())
    assert [r.name for r in collect([a / "heldout-toy"]).runs] == ["heldout-toy"], (
        "no run is called a full stop"
    )


def test_the_settings_keep_the_models_name_and_the_dtype_that_was_set(tmp_path: Path) -> None:
    settings = {"model": "tiny", "dtype": "auto"}
    asked(tmp_path / "a", ALONE, data(3, first=100), settings=settings, made={"dtype": "int8"})
    told = section(report.make(tmp_path)["report.md"].read_text(), "Settings")
    for line in (
        "| model | tiny |",
        "| dtype | auto |",
        f"| fingerprint | {'0' * 64} |",
        "| made.dtype | int8 |",
    ):
        assert line in told


def test_a_stream_says_how_many_problems_arrived_together(tmp_path: Path) -> None:
    for name, more in (("a", {}), ("b", {"block": 4})):
        with Journal(tmp_path / name, config("stream", data={"problems": 6}, **more)) as journal:
            list(stream([ALONE], data(6), journal, **more))
    page = report.make(tmp_path)["report.md"].read_text()
    assert (
        "Problems came one at a time; each was answered with the memories of earlier ones only."
        in page
    )
    assert (
        "Problems came 4 at a time; each was answered with the memories of earlier arrivals only."
        in page
    )


def test_a_transfer_without_the_model_alone_shows_its_accuracies(tmp_path: Path) -> None:
    asked(tmp_path / "transfer-toy", ELM, data(11, "far", 100), protocol="transfer")
    files = report.make(tmp_path)
    told = section(files["report.md"].read_text(), "Transfer")
    assert re.search(r"\| toy \| far \| 11 \| \d+\.\d % .* \| – \| – \| – \|", told)
    assert "memories of one set on another" not in files["report.html"].read_text(), (
        "there is no difference to draw"
    )


def test_a_difference_that_rounds_to_nothing_has_no_minus() -> None:
    assert [evidence.points(x) for x in (-0.0002, 0.0, 0.09, -0.07, None)] == [
        "+0.0",
        "+0.0",
        "+9.0",
        "-7.0",
        "–",
    ]
