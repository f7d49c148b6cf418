"""The README shows the committed figures and no others."""

from __future__ import annotations

from pathlib import Path

import pytest

from latentmem.bench import report

ROOT = Path(__file__).parents[2]
BENCHES = (
    "bench",
    "bench-distil",
)  # of two machines: figures of different ones do not go into one file


@pytest.mark.parametrize("name", BENCHES)
def test_the_readme_has_the_committed_bench(name: str) -> None:
    data = report.read(ROOT / "assets" / "results" / f"{name}.json")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = readme.split(f"<!-- {name}:begin -->\n")[1].split(f"<!-- {name}:end -->")[0]
    want = report.markdown(data["rows"], data["machine"], data["versions"])
    assert shown == want, (
        f"put what `latentmem bench --table --out assets/results/{name}.json` prints between the "
        "comments"
    )


@pytest.mark.parametrize("name", BENCHES)
def test_every_committed_row_was_measured_three_times_and_says_whether_the_target_was_met(
    name: str,
) -> None:
    for row in report.read(ROOT / "assets" / "results" / f"{name}.json")["rows"]:
        assert len(row["ours_runs"]) >= 3, row["name"]
        assert row["met"] is not None or not row["peer_runs"], row["name"]
