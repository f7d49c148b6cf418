"""assets/results/README.md shows the committed figures and no others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binomtest

from latentmem.bench import report
from latentmem.evaluation import evidence

RESULTS = Path(__file__).parents[2] / "assets" / "results"
# Of different machines: their figures do not go into one file.
BENCHES = ("bench", "bench-xeon", "bench-distil", "bench-memory")
MET = {True: "yes", False: "**no**", None: "–"}


@pytest.fixture(scope="module")
def page() -> str:
    return (RESULTS / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return evidence.read(RESULTS / "evidence.json")


def table_rows(page: str, head: str) -> list[str]:
    """The rows of all tables that begin with this head."""
    parts = page.split(f"\n{head}")[1:]
    return [line for part in parts for line in part.split("\n\n")[0].splitlines()[2:]]


def spans(row: dict[str, Any]) -> tuple[str, str]:
    """Accuracy, and the difference to the model alone, with their intervals."""
    accuracy = f"{evidence.percent(row['accuracy'])} ({100 * row['ci_low']:.1f} to "
    delta = evidence.points(row["delta_vs_zero_shot"])
    if delta != "–":
        low, high = (evidence.points(row[f"delta_ci_{end}"]) for end in ("low", "high"))
        delta += f" ({low} to {high})"
    return f"{accuracy}{100 * row['ci_high']:.1f})", delta


def test_the_tables_hold_every_row_of_the_evidence_once(
    page: str, rows: list[dict[str, Any]]
) -> None:
    want, alone = [], table_rows(page, "| run | learns from > asks |")
    for row in rows:
        accuracy, delta = spans(row)
        run, votes = row["settings"]["run"], row["settings"].get("votes")
        end = f"| {row['tokens']:,} |"
        if row["system"] == "zero_shot":
            assert any(run in one and f"| {accuracy} {end}" in one for one in alone), run
            continue
        name = f"`{row['system']}`" + (f" (N = {votes})" if votes else "")
        run += " on GSM8K" if row["dataset"] == "multiarith > gsm8k_test" else ""
        flips = "–" if row["helped"] is None else f"{row['helped']} / {row['hurt']}"
        start = f"| {name} | {run} | {row['seed']} | {row['n']} "
        want.append(f"{start}| {accuracy} | {delta} | {flips} {end}")
    assert sorted(table_rows(page, "| system | run | seed | n | accuracy")) == sorted(want)


def test_four_differences_survive_the_correction(page: str, rows: list[dict[str, Any]]) -> None:
    found = []
    for row in rows:
        if row["helped"] is not None and "_oracle" not in row["system"]:
            changed = row["helped"] + row["hurt"]
            chance = binomtest(row["helped"], changed).pvalue if changed else 1.0
            found.append((chance, (row["settings"]["run"], row["system"])))
    found.sort()
    holm = [chance * (len(found) - i) for i, (chance, _) in enumerate(found)]
    survive = found[: next(i for i, value in enumerate(holm) if value > 0.05)]
    assert f"Of the {len(found)} differences" in page
    assert {name for _, name in survive} == {
        ("multiarith-100-full", "vote_n"),
        ("multiarith-100-context", "reasoning_bank"),
        ("multiarith-300", "elm"),
        ("multiarith-300", "icl_refined"),
    }


def test_the_page_has_the_committed_benches(page: str) -> None:
    want = []
    for name in BENCHES:
        for row in report.read(RESULTS / f"{name}.json")["rows"]:
            ours, peer = (
                "–" if row[side] is None else f"{report.number(row[side])} {row['unit']}"
                for side in ("ours", "peer")
            )
            peer_name = "–" if row["peer"] is None else row["peer_name"]
            ratio, met = report.number(row["ratio"]), MET[row["met"]]
            start = f"| {row['what']} | {name}.json | {ours} | {peer_name} "
            want.append(f"{start}| {peer} | {ratio} | {row['target']} | {met} |")
    assert sorted(table_rows(page, "| what | file | ours |")) == sorted(want)


@pytest.mark.parametrize("name", ["bench", "bench-distil"])
def test_every_committed_row_was_measured_three_times_and_says_whether_the_target_was_met(
    name: str,
) -> None:
    for row in report.read(RESULTS / f"{name}.json")["rows"]:
        assert len(row["ours_runs"]) >= 3, row["name"]
        assert row["met"] is not None or not row["peer_runs"], row["name"]
