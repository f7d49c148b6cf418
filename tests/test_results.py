"""The README shows the committed figures and no others."""

from __future__ import annotations

from pathlib import Path

from latentmem.bench import report

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- bench:begin -->\n", "<!-- bench:end -->"


def test_the_readme_has_the_committed_bench() -> None:
    data = report.read(ROOT / "assets" / "results" / "bench.json")
    shown = (ROOT / "README.md").read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0]
    want = report.markdown(data["rows"], data["machine"], data["versions"])
    assert shown == want, "put what `latentmem bench --table --out assets/results/bench.json` prints between the comments"


def test_every_committed_row_was_measured_three_times_and_says_whether_the_target_was_met() -> None:
    for row in report.read(ROOT / "assets" / "results" / "bench.json")["rows"]:
        assert len(row["ours_runs"]) >= 3, row["name"]
        assert row["met"] is not None or not row["peer_runs"], row["name"]
