"""The profile of rollouts and of a gradient step, on the tiny random model; how a figure is drawn."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from latentmem.bench import profile, report, workloads
from latentmem.bench import report as figure
from latentmem.bench.workloads import Work
from latentmem.records import Status
from tests.tiny import tiny_model

TINY = Work(
    model="tiny", tokens=14, rollouts=4, init_text="Think."
)  # the profiler takes time for every operation


def test_parts_are_profiled_and_replace_those_of_an_earlier_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workloads, "language_model", lambda _: tiny_model(num_hidden_layers=1))
    file = tmp_path / "profile.json"
    earlier = {"name": "another", "operations": {}}
    report.save(file, "profile", [earlier], machine=report.machine(), versions={})
    parts = [r for r in profile.run(TINY, file) if not isinstance(r, Status)]
    assert all(p.seconds > 0 and p.operations for p in parts)
    kept = report.read(file, "profile")["rows"]
    assert [p.name for p in parts] == [r["name"] for r in kept] == ["rollouts", "step"]
    assert all(r["versions"]["torch"] for r in kept) and json.loads(file.read_text())["machine"]
    table = profile.markdown(kept)
    assert table.count("| operation |") == 2 and "Gradient step" in table


def test_what_spans_much_is_drawn_on_a_logarithmic_axis() -> None:
    plain = {"title": "t", "x_name": "x", "y_name": "y", "x": [1, 2], "y": [1.0, 2.0]}
    made = figure.figure(
        [
            plain,
            {**plain, "y": [1.0, 40.0]},
            {**plain, "limit": [10.0, 100.0]},
            {**plain, "y": [0.0, 40.0]},
        ]
    )
    assert [axis.type for axis in made.select_yaxes()] == ["linear", "log", "log", "linear"]
