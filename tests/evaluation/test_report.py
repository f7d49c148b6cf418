"""The report, the evidence and the README's table; the runs of a folder as a report reads them."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from latentmem.evaluation import figures, metrics, page, report
from latentmem.evaluation.evidence import COLUMNS
from latentmem.evaluation.journal import Journal, collect
from latentmem.evaluation.metrics import Estimate
from latentmem.evaluation.page import cell
from latentmem.evaluation.protocols import run_heldout as heldout
from latentmem.evaluation.protocols import run_stream as stream
from latentmem.evaluation.suites import part
from latentmem.records import LatentmemError
from tests.evaluation_samples import Cast, data

# ---------- The report of real result files: the figures in it are those of the results, and
# nothing foreign becomes markup.


EVIL = "</script><script>alert(1)</script> | `x` <b>&"


def config(protocol: str, **more):
    return {
        "protocol": protocol,
        "seed": 3,
        "model": "0" * 64,
        "distil": {"name": "toy", "problems": 5, "digest": "d"},
        "settings": {"model": EVIL, "steps": 2, "max_new_tokens": 9},
        "made": {"torch": "2"},
        **more,
    }


def sweep_rows() -> list[dict]:
    shared = {
        "setup": "s",
        "recipe": "fast",
        "settings": {"learning_rate": 0.003},
        "n": 4,
        "base": 0.5,
        "base_right": "1100",
        "train_seconds": 10.0,
        "finished": 1.0,
        "tokens": 50.0,
        "label_right": True,
        "train_tokens": 9,
        "learned": True,
        "model": EVIL,
        "data": "toy",
        "seed": 3,
    }
    return [
        shared | {"problem_id": "a", "right": "1110", "accuracy": 0.75, "helped": 1, "hurt": 0},
        shared | {"problem_id": "b", "right": "1010", "accuracy": 0.5, "helped": 1, "hurt": 1},
        shared | {"problem_id": "c", "learned": False, "reason": "too close"},
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs")
    evil = data(11, first=100)
    evil = replace(
        evil,
        name=EVIL,
        problems=tuple(replace(p, id=f"{EVIL}{i}") for i, p in enumerate(evil.problems)),
    )
    with Journal(out / "heldout-toy", config("heldout")) as journal:
        list(heldout(Cast().all(), data(5), (evil,), journal))
    with Journal(out / "stream-toy", config("stream", data={"problems": 12})) as journal:
        list(
            stream(
                [Cast().spec("zero_shot"), Cast().spec("elm", memories=True)],
                data(12),
                journal,
            )
        )
    for name in ("a", "b"):
        tests = (data(6, "a", 50), data(6, "b", 50))
        with Journal(out / f"transfer-{name}", config("transfer")) as journal:
            list(
                heldout(
                    [Cast().spec("zero_shot"), Cast().spec("elm", memories=True)],
                    data(3, name),
                    tests,
                    journal,
                )
            )
    (out / "sweep.jsonl").write_text("".join(json.dumps(r) + "\n" for r in sweep_rows()))
    steps = [
        {
            "learner": "soft prompt",
            "problem_id": EVIL,
            "step": s,
            "n": 4,
            "accuracy": s / 4,
            "delta": 0.0,
            "helped": 0,
            "hurt": 0,
            "model": EVIL,
            "dataset": "toy",
            "seed": 3,
        }
        for s in (2, 0, 1)
    ]
    (out / "single.jsonl").write_text("".join(json.dumps(r) + "\n" for r in steps))
    (out / "keys.jsonl").write_text(
        json.dumps(
            {
                "model": EVIL,
                "dataset": "toy",
                "kind": "kv",
                "n": 9,
                "families": 3,
                "same_family": 0.8,
                "chance": 0.25,
            }
        )
        + "\n"
        + '{"torn'
    )
    report.make(out)
    return out


def test_the_evidence_has_its_members_and_the_figures_of_the_results(folder: Path) -> None:
    rows = json.loads((folder / "evidence.json").read_bytes())
    assert all(list(r) == COLUMNS for r in rows)
    found = collect([folder])
    run = next(r for r in found.runs if r.name == "heldout-toy")
    mine = [r for r in run.results if (r.system, r.form) == ("elm", "one")]
    base = {
        r.problem_id: r.correct for r in run.results if (r.system, r.form) == ("zero_shot", "one")
    }
    row = next(r for r in rows if r["system"] == "elm" and r["settings"]["protocol"] == "heldout")
    assert row["dataset"] == f"toy > {EVIL}"
    assert row["n"] == 11
    assert row["seed"] == 3
    assert row["model"] == EVIL
    assert row["accuracy"] == pytest.approx(sum(r.correct for r in mine) / 11, abs=1e-4)
    assert row["helped"] - row["hurt"] == round(11 * row["delta_vs_zero_shot"])
    assert row["helped"] == sum(r.correct and not base[r.problem_id] for r in mine)
    assert row["tokens"] == sum(r.tokens for r in mine) + 500
    assert row["settings"]["learn_tokens"] == 500
    names = {r["system"] for r in rows}
    assert {
        "zero_shot",
        "zero_shot_vote",
        "elm",
        "elm_vote",
        "elm_oracle",
        "elm_oracle_vote",
        "offline_ttrl",
    } <= names
    assert {r["dataset"] for r in rows} >= {"toy (online)", "a", "a > b", "b > a", "b"}
    assert len({(r["dataset"], r["system"]) for r in rows}) == len(rows), (
        "one row a system and data set"
    )


def test_the_page_needs_nothing_else_and_carries_plotly_once(folder: Path) -> None:
    html = (folder / "report.html").read_text()
    assert html.count("plotly.js v") == 1 or len(re.findall(r"\* plotly\.js v\d", html)) == 1
    assert not re.search(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=", html)
    assert "prefers-color-scheme: dark" in html


def test_nothing_foreign_becomes_markup(folder: Path) -> None:
    html = (folder / "report.html").read_text()
    # our own scripts, plotly's among them
    body = re.sub(r"<script>.*?</script>", "", html, flags=re.S)
    assert "alert(1)</script>" not in body and "<b>&" not in body
    assert "&lt;/script&gt;&lt;script&gt;alert(1)" in body
    figures = re.findall(
        r'<script type="application/json" data-figure="figure-\d+">(.*?)</script>', html, flags=re.S
    )
    assert len(figures) >= 5
    for source in figures:
        figure = json.loads(source)
        assert figure["data"] and "<" not in source
        assert not re.search(r"<(?!extra|/extra|br)", json.dumps(figure)), (
            "plotly would read it as markup"
        )
    page = (folder / "report.md").read_text()
    assert "\\<b\\>" in page and "| `x`" not in page


def test_all_sections_are_there_in_both_forms(folder: Path) -> None:
    html, page = (folder / "report.html").read_text(), (folder / "report.md").read_text()
    for title in (
        "Transfer",
        "The vote",
        "The gate",
        "Routing",
        "Keys",
        "One problem",
        "Recipes",
        "Settings",
    ):
        assert f"<h2>{title}</h2>" in html and f"\n## {title}\n" in page
    assert "Accuracy so far over the stream" in html and "which memories helped whom" in html
    assert page.count("\n## ") == html.count("<h2>")


def test_a_report_is_the_same_each_time(folder: Path) -> None:
    before = {
        name: (folder / name).read_bytes()
        for name in ("report.html", "report.md", "evidence.json", "outcomes.jsonl")
    }
    report.make(folder)
    assert before == {name: (folder / name).read_bytes() for name in before}


def test_the_outcomes_alone_give_every_accuracy_and_difference(folder: Path) -> None:
    told = [json.loads(line) for line in (folder / "outcomes.jsonl").read_text().splitlines()]
    rows = [
        r
        for r in json.loads((folder / "evidence.json").read_bytes())
        if not r["system"].endswith(("_oracle", "_oracle_vote"))
    ]
    assert len(told) == len(rows)
    mine = {
        line["system"]: line
        for line in told
        if (line["run"], line["form"]) == ("heldout-toy", "one")
    }
    for row in rows:
        if row["settings"]["protocol"] == "heldout" and row["settings"]["form"] == "one":
            line = mine[row["system"]]
            assert row["accuracy"] == pytest.approx(len(line["right"]) / 11, abs=1e-4)
            assert row["n"] == len(line["right"]) + len(line["wrong"]) == 11


def test_each_other_system_is_held_against_the_memories(folder: Path) -> None:
    """elm against offline_ttrl by hand: the mean of the differences, and the two kinds of
    problems."""
    run = next(r for r in collect([folder]).runs if r.name == "heldout-toy")
    found = {(c.form, c.system): c for c in metrics.contrasts(run.results)}
    assert not {"elm", "zero_shot"} & {system for _, system in found}
    elm, other = (
        {r.problem_id: r.correct for r in run.results if (r.system, r.form) == (name, "one")}
        for name in ("elm", "offline_ttrl")
    )
    c = found["one", "offline_ttrl"]
    assert (c.ahead, c.behind) == (
        sum(elm[k] and not other[k] for k in elm),
        sum(other[k] and not elm[k] for k in elm),
    )
    assert c.difference.mean == pytest.approx((c.ahead - c.behind) / 11)
    assert c.difference.low <= c.difference.mean
    assert "elm against each other system" in (folder / "report.md").read_text()


def test_the_sweeps_lines_are_pooled_by_held_out_problem() -> None:
    """Two memories, four held-out problems; gains by problem: (0+0)/2, (0-1)/2, (1+1)/2, 0 -> mean
    +12.5 points."""
    (line,) = metrics.pooled(sweep_rows())
    assert (line["tried"], line["learned"], line["accuracy"], line["helped"], line["hurt"]) == (
        3,
        2,
        0.625,
        2,
        1,
    )
    assert line["gain"].n == 4 and line["gain"].mean == pytest.approx(0.125)


def test_a_folder_without_results_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(LatentmemError, match="There are no results in"):
        report.make(tmp_path)


def test_a_cell_stays_a_cell() -> None:
    assert cell("a|b\n<i>`_*[x]") == "a\\|b \\<i\\>\\`\\_\\*\\[x\\]"


def test_differences_are_drawn_in_points_the_best_on_top_and_filled_where_zero_is_left_out() -> (
    None
):
    rows = [
        ("worse", Estimate(9, -0.1, -0.2, -0.05)),
        (EVIL, Estimate(9, 0.2, 0.1, 0.35)),
        ("worse", Estimate(9, 0.0, -0.1, 0.1)),
    ]
    drawn = figures.differences({"first": rows, "second": rows[:1]})
    one, two = drawn["data"]
    assert one["x"] == pytest.approx([-10, 0, 20]) and one["error_x"]["array"] == pytest.approx(
        [5, 10, 15]
    )
    assert one["error_x"]["arrayminus"] == pytest.approx([10, 10, 10]) and one["y"] == [0, 1, 2], (
        "equal names keep their lines"
    )
    assert one["marker"]["symbol"] == ["circle", "circle-open", "circle"] and "<b>" not in "".join(
        one["text"]
    )
    assert drawn["layout"]["yaxis"]["domain"][0] > drawn["layout"]["yaxis2"]["domain"][1]
    assert two["yaxis"] == "y2"
    assert drawn["layout"]["yaxis"]["ticktext"] == one["text"]


def test_the_page_draws_the_differences_of_each_run(folder: Path) -> None:
    html = (folder / "report.html").read_text()
    drawn = [
        json.loads(f)
        for f in re.findall(
            r'<script type="application/json" data-figure="[^"]+">(.*?)</script>', html, re.S
        )
    ]
    found = [f for f in drawn if "error_x" in f["data"][0]]
    assert len(found) == 2, "the held-out run and the stream"
    assert all(
        len(f["data"][0]["x"]) > 0 and "oracle" not in "".join(f["data"][0]["text"]) for f in found
    )


@pytest.mark.parametrize("name", ["recipes", "multiarith-single"])
def test_committed_rows_give_the_table_beside_them(name: str, tmp_path: Path) -> None:
    """All but the intervals, which are exact today and were a bootstrap's; new columns stand in
    front."""
    there = Path(__file__).parents[2] / "assets" / "results" / name
    shutil.copytree(there, tmp_path / name)
    made = report.make(tmp_path / name)["report.md"].read_text()
    new, old = (
        [re.sub(r"\(\S+ %? ?to .*?\)", "", line) for line in page.splitlines() if line[:2] == "| "]
        for page in (made, (there / "report.md").read_text())
    )
    assert len(new) == len(old) > 8
    for line, before in zip(new, old, strict=True):
        assert set(before.split(" | ")[1:]) <= set(line.split(" | "))


def section(page: str, title: str) -> str:
    return page.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_tables_of_rows_say_of_which_model_data_and_seed(folder: Path) -> None:
    page, evil = (folder / "report.md").read_text(), cell(EVIL)
    for title, line in (
        ("Keys", f"| {evil} | toy | kv | 9 |"),
        ("One problem", f"| {evil} | toy | 3 | soft prompt | {evil} | 2 |"),
        (
            "Recipes",
            f"| fast | learning\\_rate=0.003 | {evil} | toy | 3 | 2 of 3 | 100.0 % | 62.5 % | "
            "50.0 % |",
        ),
    ):
        assert line in section(page, title), title


# ---------- Several runs in one report: what they are called, and what each says of itself.


def asked(folder: Path, spec, test, **more) -> None:
    """A held-out run of one system."""
    with Journal(folder, config("heldout", test=[part(test)]) | more) as journal:
        list(heldout([spec], data(5), (test,), journal))


ELM, ALONE = Cast().spec("elm", memories=True), Cast().spec("zero_shot")


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


def test_a_difference_that_rounds_to_nothing_has_no_minus() -> None:
    assert [page.points(x) for x in (-0.0002, 0.0, 0.09, -0.07, None)] == [
        "+0.0",
        "+0.0",
        "+9.0",
        "-7.0",
        "–",
    ]
