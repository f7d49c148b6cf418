"""Which memory an answer tries, and why none: a tiny random model learns, as in test_engine."""

from __future__ import annotations

import numpy as np
import pytest

from latentmem.bank.key_index import OtherKeys
from latentmem.records import LatentmemError
from tests.engine.test_engine import (  # noqa: F401 (some are fixtures)
    Q,
    embed,
    engine,
    learnt,
    models,
    run,
    taught,
)


def test_threshold_keeps_far_memories_out(taught):
    receipt = run(taught.changed(min_similarity=1.0).answer(Q))[-1]
    assert receipt.used is None and "below the threshold" in receipt.route.reason and receipt.hits


def test_keys_of_another_embedder_are_not_trusted(taught):
    """Their length is the same, so only what it makes of the memory's own problem tells it."""
    taught._shared.loader._embedders["reversed"] = lambda text: embed(text)[::-1].copy()
    receipt = run(taught.changed(embedder="reversed").answer(Q))[-1]
    assert receipt.hits and receipt.used is None
    assert (
        "was not made by reversed" in receipt.route.reason
        and "choose the embedder" in receipt.route.reason
    )
    assert run(taught.changed(embedder="reversed", key="kv").answer(Q))[-1].used, (
        "activations have no embedder"
    )
    assert run(taught.answer(Q))[-1].used


def test_keys_of_another_length_cost_no_answer(taught):
    """An embedder of other dimensions finds nothing it could compare; the problem is answered
    alone, and told why."""
    taught._shared.loader._embedders["short"] = lambda text: embed(text)[:5] / np.linalg.norm(
        embed(text)[:5]
    )
    other = taught.changed(embedder="short")
    with pytest.raises(OtherKeys, match="use the embedder or model that made them"):
        other.search(Q)
    receipt = run(other.answer(Q))[-1]
    assert receipt.hits == () and receipt.used is None and receipt.route.side == "zero_shot"
    assert receipt.route.reason.startswith(
        "No memory is tried. The search key has 5 numbers, but the input keys"
    )


def test_what_cannot_be_is_said_before_any_work(taught, tmp_path):
    (tmp_path / "file").write_text("")
    other = taught.changed(
        bank=tmp_path / "file" / "b.sqlite"
    )  # a bank that is named takes the place of the one given
    with pytest.raises(LatentmemError, match="cannot be opened"):
        next(other.distil(Q))
    assert taught.changed(bank=tmp_path / "b.sqlite").bank.path == str(tmp_path / "b.sqlite")
    assert taught.changed(rollouts=5).bank is taught.bank
    with pytest.raises(LatentmemError):
        taught.search(Q, k=0)
    with pytest.raises(LatentmemError):
        run(taught.think(Q, memory_id=""))


def test_empty_bank_is_a_result(engine):
    assert "holds no memory" in run(engine.answer(Q))[-1].route.reason


def test_kv_keys_find_the_same_problem(taught, learnt):
    found = taught.changed(key="kv").search(learnt.memory.problem)
    assert found.kind == "kv" and found.hits[0].similarity == pytest.approx(1, abs=1e-3)
