"""What a bank keeps, lists and counts, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from latentmem.bank import Bank, Overlay
from latentmem.bank.notes import tag, tags
from latentmem.records import (
    Cluster,
    Counters,
    Event,
    LatentmemError,
    Memory,
    Problem,
    Step,
    Trace,
    Vote,
)
from tests.bank_samples import assert_same, make_memory, unit

texts = st.text(max_size=40).filter(
    lambda t: t.isascii() or not any(0xD800 <= ord(c) < 0xE000 for c in t)
)
floats = st.floats(allow_nan=False, allow_infinity=False)
plain = st.none() | st.booleans() | st.integers() | floats | texts
traces = st.builds(
    Trace,
    row=st.integers(0, 99),
    text=texts,
    answer=st.none() | texts,
    finished=st.booleans(),
    tokens=st.integers(0, 999),
    token_ids=st.lists(st.integers(0, 2**40), max_size=4).map(tuple),
    self_certainty=st.none() | floats,
    entropy=st.none() | floats,
    seconds=floats,
)
steps = st.builds(
    Step,
    step=st.integers(1, 9),
    steps=st.just(9),
    label=st.none() | texts,
    agreement=floats,
    rewards=st.lists(floats, max_size=3).map(tuple),
    loss=floats,
    grad_norm=floats,
    shift=floats,
    finished=floats,
    length=floats,
    entropy=floats,
    tokens=st.integers(0, 999),
    seconds_rollout=floats,
    seconds_train=floats,
    note=texts,
)


@st.composite
def memories(draw: st.DrawFn) -> Memory:
    shape = draw(st.tuples(st.integers(1, 4), st.integers(1, 6)))
    prompt = draw(arrays(np.float32, shape, elements=st.floats(-1e4, 1e4, width=32)))
    return make_memory(
        draw(st.integers(0, 99)),
        soft_prompt=prompt,
        settings=draw(st.dictionaries(texts, plain, max_size=3)),
        problem=Problem(
            draw(texts.filter(str.strip)), answer=draw(st.none() | texts), source=draw(texts)
        ),
        vote=Vote((Cluster(draw(texts), (0, 2)),), 3, 2),
        traces=tuple(draw(st.lists(traces, max_size=2))),
        steps=tuple(draw(st.lists(steps, max_size=2))),
        model=draw(texts.filter(bool)),
    )


@given(memories())
def test_what_is_put_comes_back_to_the_last_bit(memory: Memory) -> None:
    with Bank() as bank:
        assert bank.put(memory) == memory.id
        assert_same(bank.get(memory.id), memory)
        assert bank.info(memory.id).problem == memory.problem
        assert bank.verify().problems == []


def test_putting_twice_changes_nothing_and_survives_reopening(tmp_path: Path) -> None:
    path, memory = tmp_path / "new" / "folder" / "bank.sqlite", make_memory(1)
    with Bank(path) as bank:
        assert bank.put(memory) == bank.put(replace(memory, created="2030-01-01")) == memory.id
        assert len(bank) == 1 and memory.id in bank and "m" not in bank and None not in bank
    with Bank(path) as bank:
        assert_same(bank.get(memory.id), memory)


def test_kv_keys_are_kept_in_float16() -> None:
    key = unit(np.random.default_rng(0), 500)
    with Bank() as bank:
        kept = bank.get(bank.put(make_memory(keys={"kv": key}))).keys["kv"]
    assert kept.dtype == np.float32 and np.array_equal(
        kept, key.astype(np.float16).astype(np.float32)
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"soft_prompt": np.full((2, 2), np.nan, np.float32)}, "soft prompt holds NaN or infinity"),
        ({"soft_prompt": np.zeros(4, np.float32)}, r"soft prompt is float32 \(4,\)"),
        ({"soft_prompt": np.zeros((2, 2))}, "must be a float32 array"),
        ({"soft_prompt": np.zeros((0, 2), np.float32)}, "must be a float32 array"),
        ({"keys": {}}, "has no key"),
        ({"keys": {"input": np.full(4, 1.0, np.float32)}}, "input key has length 2, not 1"),
        ({"keys": {"input": np.full(4, np.nan, np.float32)}}, "input key holds NaN"),
        ({"keys": {"input": np.eye(2, dtype=np.float32)}}, r"must be a float32 vector \[d\]"),
        (
            {"keys": {"smell": unit(np.random.default_rng(0), 3)}},
            "no kind of key 'smell': use input or kv",
        ),
        ({"model": ""}, "names no model"),
        ({"settings": {"x": float("inf")}}, "cannot be written as JSON"),
        ({"settings": {"x": object()}}, "setting 'x' is of type object"),
        (
            {"settings": {"x": {"path": "secret", "meta": {"_type": "gradio.FileData"}}}},
            "setting 'x' is of type dict",
        ),
        ({"settings": {"path": "x", "meta": "y"}}, "setting 'path' stands beside 'meta'"),
        ({"soft_prompt": np.full((2, 3), 3.4e38, np.float32)}, "a number of size 3.4e\\+38"),
        ({"problem": Problem("half \ud800 a character", id="p")}, "half a character"),
        (
            {"traces": (Trace(0, "text", None, True, 1, entropy=float("nan")),)},
            "A trace of the memory cannot",
        ),
        ({"traces": (Trace(0, None, None, True, 1),)}, "text"),  # type: ignore[arg-type]
        ({"vote": Vote((Cluster("4", (0, 1, 2)),), 2, 3)}, "more answers than its total of 2"),
        ({"best_step": -1}, "best_step = -1"),
        ({"created": "yesterday"}, "'yesterday' is not ISO 8601"),
    ],
)
def test_bad_memories_are_refused_with_one_sentence(changes: dict[str, Any], message: str) -> None:
    with Bank() as bank, pytest.raises(LatentmemError, match=message) as error:
        bank.put(make_memory(**changes))
    assert str(error.value).endswith(".") and "\n" not in str(error.value)


def test_an_id_may_be_shortened_while_it_is_unambiguous() -> None:
    with Bank() as bank:
        ids = [bank.put(make_memory(i)) for i in range(300)]
        ids.sort()
        a, b = next((a, b) for a, b in pairwise(ids) if a[:4] == b[:4])
        assert bank.get(a[:12]).id == a and bank.info(f" {b[:12]} ").id == b
        with pytest.raises(
            LatentmemError, match=f"begins the ids of several memories: write .*{b[:8]}"
        ):
            bank.get(a[:4])
        for unknown in (a[:-2] + "xy", "", "m", "m00", "mzzzz", "ä" * 9, "\ud800", "x" * 1000):
            with pytest.raises(LatentmemError, match="There is no memory"):
                bank.get(unknown)


def test_infos_are_filtered_sorted_paged_and_counted_in_few_queries() -> None:
    with Bank() as bank:
        ids = [bank.put(make_memory(i)) for i in range(6)]
        for kind in ("used", "used", "helped", "note", "feedback"):
            bank.record(Event(ids[2], kind))
        bank.quarantine(ids[4], "harmful")
        statements: list[str] = []
        bank._store._db.set_trace_callback(statements.append)  # type: ignore[union-attr]
        rows = bank.infos()
        bank._store._db.set_trace_callback(None)  # type: ignore[union-attr]
        assert len(statements) == 4  # one for the rows, the others for the one in quarantine
        assert [r.id for r in rows] == ids[::-1]
        assert rows[3].counters == Counters(used=2, helped=1)
        assert [r.id for r in rows if r.quarantined] == [ids[4]]
        assert [r.id for r in bank.infos(limit=2)] == [ids[5], ids[4]]
        assert [r.id for r in bank.infos(source="set1", model="model0")] == [ids[4]]
        assert [r.id for r in bank.infos(quarantined=True)] == [ids[4]]
        assert len(bank.infos(quarantined=False)) == 5
        assert [r.id for r in bank.infos(text="5 PLUS")] == [ids[5]]
        assert bank.infos(text="100%") == [] and bank.infos(limit=0) == []


def test_newest_first_whatever_the_time_zone() -> None:
    with Bank() as bank:
        times = [
            "2026-01-01T12:00:00+02:00",
            "2026-01-01T10:30:00Z",
            "2026-01-01T11:00:00.5",
            "2026-01-01T11:00:00+00:00",
        ]
        for seed, created in enumerate(times):
            bank.put(make_memory(seed, created=created))
        assert [r.created for r in bank.infos()] == [times[2], times[3], times[1], times[0]]


def test_events_are_appended_once_and_found() -> None:
    with Bank() as bank:
        a, b = bank.put(make_memory(1)), bank.put(make_memory(2))
        first = bank.record(Event(a[:9], "retrieved", "p1", "r1", {"rank": 1, "score": 0.1 + 0.2}))
        assert first.memory_id == a and first.id and first.created
        assert bank.record(first) == first and bank.events() == [first]
        second = bank.record(Event(b, "helped", receipt_id="r1"))
        assert bank.events(receipt_id="r1") == [second, first]
        assert bank.events(a) == [first]
        assert bank.events(kind="helped") == [second]
        assert bank.events(limit=1) == [second]
        with pytest.raises(LatentmemError, match="differs from the one"):
            bank.record(replace(first, kind="hurt"))
        for event, message in (
            (Event("m0000", "used"), "no memory"),
            (Event(a, "eaten"), "no kind of event"),  # type: ignore[arg-type]
            (Event(a, "note", detail={"x": float("nan")}), "JSON"),
            (Event(a, "note", detail={"x": {"path": "secret"}}), "detail 'x' is of type dict"),
            (Event(a, "note", detail={"text": "z" * (1 << 17)}), "the limit is 131072"),
            (Event(a, "note", "\ud800"), "JSON"),
            (Event(a, "note", created="2999-01-01"), "lies in the future"),
            (Event(a, "note", created="soon"), "not ISO 8601"),
        ):
            with pytest.raises(LatentmemError, match=message):
                bank.record(event)
        assert len(bank.events()) == 2 and bank.verify().problems == []


def test_quarantine_lasts_until_release_even_if_the_clock_was_set_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Bank() as bank:
        memory = make_memory(1)
        bank.put(memory)
        bank.quarantine(memory.id, "harmful")
        assert bank.info(memory.id).quarantined and bank.search(memory.keys["input"]) == ()
        assert len(bank.search(memory.keys["input"], include_quarantined=True)) == 1
        monkeypatch.setattr("latentmem.bank.serialization.now", lambda: 0)
        bank.release(memory.id)
        assert not bank.info(memory.id).quarantined and len(bank.search(memory.keys["input"])) == 1
        assert [e.kind for e in bank.events()] == ["released", "quarantined"]
        assert bank.events(kind="quarantined")[0].detail == {"reason": "harmful"}


def test_a_tag_can_be_taken_away_even_if_the_clock_that_gave_it_was_ahead() -> None:
    ahead = (datetime.now(UTC) + timedelta(hours=20)).isoformat()
    with Bank() as bank:
        a, b = bank.put(make_memory(1)), bank.put(make_memory(2))
        for ident in (a, b):
            bank.record(Event(ident, "tag", detail={"tag": "wrong", "on": True}, created=ahead))
        assert tag(bank, [a, b], "wrong", on=False) == 2 and tags(bank) == {}
        assert tag(bank, [a], "wrong") == 1 and tags(bank) == {a: ("wrong",)}
        bank.record(Event(a, "tag", detail={"tag": "wrong", "on": False}))
        assert tags(bank) == {}
        visitor = Overlay(bank)  # what a visitor takes away is kept beside
        tag(bank, [b], "wrong")
        assert tag(visitor, [b], "wrong", on=False) == 1
        assert tags(visitor) == {}
        assert tags(bank) == {b: ("wrong",)}
        assert tag(visitor, [b], "wrong") == 1 and tags(visitor) == {b: ("wrong",)}


def test_events_of_one_moment_keep_their_order_whatever_the_clock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Bank() as bank:
        ident = bank.put(make_memory(1))
        bank.record(Event(ident, "released"))
        monkeypatch.setattr("latentmem.bank.serialization.now", lambda: 0)
        bank.record_all(
            [Event(ident, "quarantined"), Event(ident, "released"), Event(ident, "quarantined")]
        )
        assert bank.info(ident).quarantined and bank.search(make_memory(1).keys["input"]) == ()


def test_delete_takes_the_events_along_and_allows_putting_again() -> None:
    with Bank() as bank:
        memory = make_memory(1)
        bank.put(memory)
        bank.record(Event(memory.id, "used"))
        bank.delete(memory.id)
        assert len(bank) == 0
        assert bank.events() == []
        assert bank.search(memory.keys["kv"], kind="kv") == ()
        with pytest.raises(LatentmemError, match="no memory"):
            bank.delete(memory.id)
        bank.put(memory)
        assert bank.search(memory.keys["kv"], kind="kv")[0].memory_id == memory.id
        assert bank.verify().problems == []


def test_a_bank_in_ram_serves_all_threads() -> None:
    with Bank() as bank:
        threads = [
            Thread(target=lambda i=i: [bank.put(make_memory(10 * i + j)) for j in range(10)])
            for i in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(bank) == 40
        assert bank.verify().problems == []
        assert bank.stats()["journal_mode"] == "memory"


def test_two_processes_write_one_file(tmp_path: Path) -> None:
    """Both create the file and put 12 memories, six of them the same."""
    code = (
        "import sys; from tests.bank_samples import make_memory; from latentmem.bank import Bank\n"
        "for i in range(int(sys.argv[2]), int(sys.argv[2]) + 12):\n"
        "    with Bank(sys.argv[1]) as bank: bank.put(make_memory(i))"
    )
    path = tmp_path / "bank.sqlite"
    children = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(path), start], cwd=Path(__file__).parents[2]
        )
        for start in ("0", "6")
    ]
    assert [child.wait(timeout=50) for child in children] == [0, 0]
    with Bank(path) as bank:
        assert {row.id for row in bank.infos()} == {make_memory(i).id for i in range(18)}
        assert bank.verify().problems == []


@settings(max_examples=15)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 4), st.sampled_from(["put", "delete", "quarantine", "release", "other"])
        ),
        max_size=12,
    )
)
def test_search_sees_every_change_of_this_and_other_connections(
    changes: list[tuple[int, str]],
) -> None:
    """The cached index against what SQL says, after each change."""
    import tempfile

    with (
        tempfile.TemporaryDirectory() as folder,
        Bank(f"{folder}/b") as bank,
        Bank(f"{folder}/b") as other,
    ):
        for seed, change in changes:
            memory = make_memory(seed)
            if change in ("put", "other"):
                (bank if change == "put" else other).put(memory)
            elif memory.id in bank:
                {
                    "delete": other.delete,
                    "release": bank.release,
                    "quarantine": lambda i: other.quarantine(i, "why"),
                }[change](memory.id)
            for b in (bank, other):
                expected = {row.id for row in b.infos(quarantined=False)}
                assert {h.memory_id for h in b.search(memory.keys["input"], k=9)} == expected


def test_layer_vectors_are_kept_exported_and_told_apart(tmp_path: Path) -> None:
    """A memory of the recipe `fast`: [layers, 1, hidden] in place of [virtual tokens, hidden]."""
    prompt = make_memory(1)
    vectors = replace(prompt, soft_prompt=prompt.soft_prompt[:, None])
    assert vectors.id != prompt.id, "the same numbers in another form"
    archive, other = tmp_path / "bank.zip", tmp_path / "other.sqlite"
    with Bank(tmp_path / "bank.sqlite") as bank, Bank(other) as copy:
        bank.put(prompt)
        name = bank.put(vectors)
        assert np.array_equal(bank.get(name).soft_prompt, vectors.soft_prompt)
        assert bank.get(name).soft_prompt.shape == (4, 1, 8) and not bank.verify().problems
        assert {p.shape for _, p in bank.soft_prompts()} == {(4, 8), (4, 1, 8)}
        bank.export_zip(archive)
        copy.import_zip(archive)
        assert np.array_equal(copy.get(name).soft_prompt, vectors.soft_prompt)
        with pytest.raises(LatentmemError, match="a vector for each layer, which PEFT"):
            bank.export_peft(name, tmp_path / "adapter")
        with pytest.raises(LatentmemError, match=r"or layer vectors \[layers, 1, hidden\]"):
            bank.put(replace(prompt, soft_prompt=np.ones((4, 2, 8), np.float32)))
