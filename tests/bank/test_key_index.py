"""Search is exact: the same as sorting float64 cosines, whatever the filters, and steady while
others write."""

from __future__ import annotations

from threading import Event as Flag
from threading import Thread

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentmem.bank import Bank, key_index, serialization
from latentmem.bank.serialization import MOST_KEY
from latentmem.records import LatentmemError
from tests.bank_samples import archive_of, bank_of, make_memory, unit


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 60),
    st.integers(1, 8),
    st.integers(1, 70),
    st.integers(1, 5),
)
def test_nearest_is_what_sorting_all_cosines_gives(
    seed: int, n: int, dim: int, k: int, kinds: int
) -> None:
    """Few directions, so that there are many ties."""
    rng = np.random.default_rng(seed)
    rows = np.stack([unit(rng, dim) for _ in range(kinds)])[rng.integers(0, kinds, n)]
    ids = [f"m{i:04x}" for i in rng.permutation(n)]
    index = key_index.KeyIndex("input")
    block = index.blocks.setdefault(dim, key_index.Block(dim))
    for i in range(n):
        block.append(rows[i : i + 1], [(i, ids[i], "name", 0, 0)])
    query, mask = unit(rng, dim), rng.random(n) < 0.7
    hits = key_index.nearest(block.view(), query, k, mask)

    cosines = (rows.astype(np.float64) * query).sum(axis=1) / np.linalg.norm(
        rows.astype(np.float64), axis=1
    )
    cosines /= np.linalg.norm(query.astype(np.float64))
    best = sorted((-cosines[i].round(12), ids[i], i) for i in range(n) if mask[i])
    assert [h.memory_id for h in hits] == [ident for _, ident, _ in best[:k]]
    assert [h.rank for h in hits] == list(range(1, len(hits) + 1))
    for place, hit in enumerate(hits):
        assert hit.similarity == pytest.approx(cosines[best[place][2]], abs=1e-12)
        if place + 1 < len(best):
            assert hit.margin == pytest.approx(
                cosines[best[place][2]] - cosines[best[place + 1][2]], abs=1e-12
            )
        else:
            assert hit.margin is None


def test_equal_keys_are_ordered_by_id() -> None:
    key = unit(np.random.default_rng(0), 384)
    with Bank() as bank:
        ids = sorted(bank.put(make_memory(i, keys={"input": key})) for i in range(37))
        hits = bank.search(key, k=37)
    assert [h.memory_id for h in hits] == ids
    assert {h.similarity for h in hits} == {1.0} and {h.margin for h in hits} == {0.0, None}


def test_filters_leave_only_what_they_say() -> None:
    with Bank() as bank:
        made = [make_memory(i) for i in range(12)]
        for memory in made:
            bank.put(memory)
        bank.quarantine(made[6].id, "harmful")
        key = made[0].keys["input"]

        def found(**filters: object) -> set[str]:
            return {h.memory_id for h in bank.search(key, k=99, **filters)}  # type: ignore[arg-type]

        assert found() == {m.id for m in made} - {made[6].id}
        assert found(model="model0", include_quarantined=True) == {m.id for m in made[::2]}
        assert found(model="model0", source="set0") == {made[0].id}
        assert found(exclude=[made[0].id, "mnone"]) == {m.id for m in made} - {
            made[6].id,
            made[0].id,
        }
        assert found(model="unknown") == found(source="unknown") == set()
        assert bank.search(made[3].keys["kv"], kind="kv")[0].memory_id == made[3].id
        ids, matrix = bank.keys("input", model="model1")
        assert ids == [m.id for m in made[1::2]]
        assert matrix.shape == (6, 6)
        assert matrix.dtype == np.float32
        np.testing.assert_allclose(matrix, [m.keys["input"] for m in made[1::2]], rtol=1e-6)
        assert made[6].id not in bank.keys("input")[0]
        assert made[6].id in bank.keys("kv", include_quarantined=True)[0]


def test_an_empty_bank_finds_nothing() -> None:
    with Bank() as bank:
        assert bank.search(np.ones(3, np.float32)) == ()
        ids, matrix = bank.keys("kv")
        assert ids == [] and matrix.shape == (0, 0)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (np.zeros(6, np.float32), "other than zero"),
        (np.full(6, np.nan, np.float32), "finite"),
        (np.ones((2, 3), np.float32), r"\(2, 3\)"),
        (np.ones(5, np.float32), "has 5 numbers, but the input keys of the bank have 6"),
    ],
)
def test_bad_queries_are_refused(key: np.ndarray, message: str) -> None:
    with Bank() as bank:
        bank.put(make_memory(1))
        with pytest.raises(LatentmemError, match=message):
            bank.search(key)
        with pytest.raises(LatentmemError, match="k = 0"):
            bank.search(np.ones(6, np.float32), k=0)
        with pytest.raises(LatentmemError, match="use input or kv"):
            bank.search(np.ones(6, np.float32), kind="smell")  # type: ignore[arg-type]


def test_keys_of_several_lengths_live_together() -> None:
    with Bank() as bank:
        a, b = make_memory(1, dim=6), make_memory(2, dim=9)
        bank.put(a)
        bank.put(b)
        assert bank.search(a.keys["input"], k=5)[0].memory_id == a.id
        assert bank.search(b.keys["input"], k=5)[0].memory_id == b.id
        with pytest.raises(LatentmemError, match=r"different lengths \(\[6, 9\]\)"):
            bank.keys("input")
        assert bank.keys("input", model=a.model)[0] == [a.id]


def test_a_key_takes_no_more_room_than_it_needs_and_none_once_its_memory_is_deleted() -> None:
    """A bank may hold long keys of many lengths, one memory each."""
    with Bank() as bank:
        made = [make_memory(i, dim=dim) for i, dim in enumerate((6, 1000, 1000, 2000))]
        for memory in made:
            bank.put(memory)
            bank.search(memory.keys["input"])
        blocks = bank._indices["input"].blocks
        assert {dim: block._buffer.shape for dim, block in blocks.items()} == {
            6: (1, 6),
            1000: (2, 1000),
            2000: (1, 2000),
        }
        for memory in made[1:3]:
            bank.delete(memory.id)
        assert bank.search(made[0].keys["input"])[0].memory_id == made[0].id
        assert set(bank._indices["input"].blocks) == {6, 2000}
        with pytest.raises(
            LatentmemError, match="has 1000 numbers, but the input keys of the bank have"
        ):
            bank.search(made[1].keys["input"])
        bank.put(made[1])
        assert bank.search(made[1].keys["input"])[0].memory_id == made[1].id
        for memory in (made[0], made[1], made[3]):
            bank.delete(memory.id)
        assert bank.search(made[1].keys["input"]) == () and bank._indices["input"].blocks == {}


def test_a_search_reads_only_what_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    add = key_index.KeyIndex.add
    monkeypatch.setattr(
        key_index.KeyIndex, "add", lambda self, rows: (read.append(len(rows)), add(self, rows))[1]
    )
    with Bank() as bank:
        made = [make_memory(i) for i in range(10)]
        for memory in made[:8]:
            bank.put(memory)
        for _ in range(3):
            bank.search(made[0].keys["input"])
        assert read == [8]
        bank.put(made[8])
        bank.put(made[9])
        assert bank.search(made[9].keys["input"])[0].memory_id == made[9].id
        bank.delete(made[9].id)
        assert bank.search(made[9].keys["input"])[0].memory_id != made[9].id
        assert read == [8, 2]


def test_threads_search_while_another_puts() -> None:
    made = [make_memory(i) for i in range(120)]
    order = {memory.id: i for i, memory in enumerate(made)}
    done, errors = Flag(), []
    with Bank() as bank:
        bank.put(made[0])

        def look() -> None:
            newest = 0
            while not done.is_set():
                try:
                    found = [order[h.memory_id] for h in bank.search(made[0].keys["input"], k=200)]
                    assert sorted(found) == list(range(len(found)))
                    assert len(found) >= newest  # no gaps, never fewer
                    newest = len(found)
                except Exception as e:
                    errors.append(e)
                    return

        threads = [Thread(target=look) for _ in range(3)]
        for thread in threads:
            thread.start()
        for memory in made[1:]:
            bank.put(memory)
        done.set()
        for thread in threads:
            thread.join()
        assert not errors, errors
        assert len(bank.search(made[0].keys["input"], k=200)) == 120


def test_a_key_has_only_so_many_numbers() -> None:
    """Search keeps all keys in memory."""
    long, one = make_memory(1, dim=MOST_KEY + 1), make_memory(2, dim=MOST_KEY)
    with pytest.raises(
        LatentmemError, match="input key has 1048577 numbers, more than the 1048576 allowed"
    ):
        bank_of().put(long)
    with pytest.MonkeyPatch.context() as older:  # a bank and an archive of before
        older.setattr(serialization, "MOST_KEY", MOST_KEY + 1)
        archive, bank = archive_of(long, one), bank_of(long, one)
    report = bank_of().import_zip(archive)
    assert report.added == 1
    assert f"Memory {long.id}: The input key has 1048577 numbers" in report.refused[0]
    assert [h.memory_id for h in bank.search(one.keys["input"], k=9)] == [one.id]
    assert bank.search(long.keys["kv"], kind="kv", k=1)[0].memory_id == long.id
    (problem,) = bank.verify().problems
    assert long.id in problem and "more than the" in problem
    bank.delete(long.id)
    assert bank.verify().problems == []
