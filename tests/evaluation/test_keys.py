"""How good keys are, on a tiny random model: every line once, whatever happens in between."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from latentmem.evaluation import protocols
from latentmem.evaluation.datasets import DataSet, load
from tests.baseline_samples import make_factory, problems, tiny_engine


@pytest.fixture
def factory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    return make_factory(tiny_engine(monkeypatch), tmp_path / "cache", group=2)


def lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_keys_are_measured_once_a_kind(factory, tmp_path: Path) -> None:
    data = load("examples?source=change,area")
    list(protocols.key_quality(factory, data, tmp_path))
    list(protocols.key_quality(factory, data, tmp_path))
    rows = lines(tmp_path / "keys.jsonl")
    assert [(r["kind"], r["n"], r["families"]) for r in rows] == [("input", 16, 2), ("kv", 16, 2)]
    assert all(
        0 <= r["same_family"] <= 1 and r["chance"] == pytest.approx(2 * 8 * 7 / (16 * 15))
        for r in rows
    )


def changed(data: DataSet, at: int, **parts: Any) -> DataSet:
    """The data with one problem changed."""
    those = list(data.problems)
    those[at] = replace(those[at], **parts)
    return replace(data, problems=tuple(those))


def test_keys_are_measured_again_for_another_embedder_family_or_machine(
    factory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rows(data: DataSet) -> int:
        list(protocols.key_quality(factory, data, tmp_path))
        return len(lines(tmp_path / "keys.jsonl"))

    toys = tuple(replace(p, source=f"toys/{i % 2}") for i, p in enumerate(problems(4)))
    usual = DataSet("toys", "toys", toys)
    (tmp_path / "keys.jsonl").write_text(
        '{"digest": "of the first versions", "model": "tiny", "kind": "kv"}\n'
    )
    assert rows(usual) == rows(usual) == 3
    assert rows(changed(usual, 0, source="toys/1")) == 5
    factory.settings = factory.settings.changed(embedder="another")
    assert rows(usual) == 7
    monkeypatch.setattr(protocols, "computed", lambda model: ("the same weights", "cuda"))
    assert rows(usual) == 9
