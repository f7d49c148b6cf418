"""The shared form of a bank: merging is set union, and whatever a stranger sends does no harm."""

from __future__ import annotations

import hashlib
import io
import json
import random
import re
import struct
import time
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from latentmem.bank import Bank, serialization
from latentmem.bank import archive as bank_zip
from latentmem.bank.archive import ExportReport, ImportReport
from latentmem.records import Event, EventKind, LatentmemError
from tests.bank_samples import archive_of, assert_same, bank_of, make_memory
from tests.fuzz_samples import damaged, is_sentence, twisted

MADE = [make_memory(i) for i in range(6)]
KINDS: tuple[EventKind, ...] = (
    "used",
    "helped",
    "quarantined",
    "note",
    "released",
    "hurt",
    "quarantined",
    "tag",
)
EVENTS = [
    Event(
        MADE[i % 6].id,
        kind,
        f"p{i}",
        detail={"n": i},
        created=f"2026-02-0{1 + i % 7}T00:00:00",
        id=f"e{i}",
    )
    for i, kind in enumerate(KINDS)
]
Content = tuple[frozenset[int], frozenset[int]]
contents = st.tuples(st.frozensets(st.integers(0, 5)), st.frozensets(st.integers(0, 7)))


def filled(content: Content) -> Bank:
    bank = Bank()
    for i in sorted(content[0]):
        bank.put(MADE[i])
    for i in sorted(content[1]):
        if EVENTS[i].memory_id in bank:
            bank.record(EVENTS[i])
    return bank


def exported(bank: Bank, ids: list[str] | None = None) -> bytes:
    file = io.BytesIO()
    bank.export_zip(file, ids)
    return file.getvalue()


def members(archive: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(archive)) as z:
        return {name: z.read(name) for name in z.namelist()}


def zipped(
    parts: dict[str, bytes], *, sign: bool = True, method: int = zipfile.ZIP_DEFLATED
) -> bytes:
    """An archive of these members; `sign`: with a manifest that fits them."""
    parts = dict(parts)
    if sign:
        manifest = json.loads(parts["manifest.json"])
        manifest["members"] = {
            n: {"sha256": hashlib.sha256(d).hexdigest(), "bytes": len(d)}
            for n, d in parts.items()
            if n != "manifest.json"
        }
        parts["manifest.json"] = json.dumps(manifest).encode()
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as z:
        for name, data in parts.items():
            z.writestr(name, data)
    return file.getvalue()


def refusal(archive: bytes) -> str:
    """The sentence with which a whole archive is refused; the bank stays empty."""
    with Bank() as bank:
        with pytest.raises(LatentmemError) as error:
            bank.import_zip(io.BytesIO(archive))
        assert len(bank) == 0
    assert re.fullmatch(r"[^\n]+\.", str(error.value))
    return str(error.value)


def state(bank: Bank) -> Any:
    return sorted((r.id, r.quarantined, r.counters) for r in bank.infos()), exported(bank)


@settings(max_examples=8)
@given(contents, contents, contents)
def test_merging_is_set_union(a: Content, b: Content, c: Content) -> None:
    """Of one's own banks: commutative, associative and idempotent, to the last byte of the
    export."""
    ab, ba, abc, a_bc, bc = filled(a), filled(b), filled(a), filled(a), filled(b)
    ab.import_zip(io.BytesIO(exported(filled(b))), trusted=True)
    ba.import_zip(io.BytesIO(exported(filled(a))), trusted=True)
    assert state(ab) == state(ba)
    abc.import_zip(io.BytesIO(exported(filled(b))), trusted=True)
    abc.import_zip(io.BytesIO(exported(filled(c))), trusted=True)
    bc.import_zip(io.BytesIO(exported(filled(c))), trusted=True)
    a_bc.import_zip(io.BytesIO(exported(bc)), trusted=True)
    assert state(abc) == state(a_bc)
    before = state(ab)
    again = ab.import_zip(io.BytesIO(exported(ab)), trusted=True)
    assert (again.added, again.events, again.refused) == (0, 0, []) and state(ab) == before
    assert {r.id for r in ab.infos()} == {MADE[i].id for i in a[0] | b[0]}
    assert ab.verify().problems == []


@pytest.mark.parametrize("here", [["quarantined"], ["quarantined", "released"], []])
@pytest.mark.parametrize("theirs", [["released"], ["quarantined"], ["quarantined", "released"]])
@pytest.mark.parametrize("own", [True, False])
def test_no_archive_quarantines_or_releases_what_was_here(
    here: list[EventKind], theirs: list[EventKind], own: bool
) -> None:
    one, other = MADE[0], bank_of(MADE[0])
    for kind in theirs:
        other.record(Event(one.id, kind))
    archive = io.BytesIO(exported(other))
    with Bank() as bank:
        bank.import_zip(archive_of(one), trusted=own)
        for kind in here:
            bank.record(Event(one.id, kind))
        before = bank.events(one.id), bank.info(one.id).quarantined
        report = bank.import_zip(archive)
        if own or here:
            assert (bank.events(one.id), bank.info(one.id).quarantined) == before
            assert f"{len(theirs)} events put memory {one.id} into quarantine" in report.refused[0]
        else:  # on probation, and this bank has not judged it
            assert bank.info(one.id).quarantined == (theirs == ["quarantined"])
        assert bank.import_zip(archive, trusted=True).refused == []
        assert set(theirs) <= {e.kind for e in bank.events(one.id)}


def test_a_memory_comes_with_its_quarantine() -> None:
    other = bank_of(*MADE[:2])
    other.quarantine(MADE[0].id, "harmful")
    other.quarantine(MADE[1].id, "harmful")
    other.record(Event(MADE[1].id, "released"))
    with Bank() as bank:
        assert bank.import_zip(io.BytesIO(exported(other))).refused == []
        assert [i.id for i in bank.infos(quarantined=True)] == [MADE[0].id]


def test_an_archive_brings_everything_through_a_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "bank.zip"
    with (
        filled((frozenset(range(6)), frozenset(range(8)))) as bank,
        Bank(tmp_path / "other.sqlite") as other,
    ):
        assert bank.export_zip(path) == ExportReport(6, 8, [])
        assert [p.name for p in path.parent.iterdir()] == ["bank.zip"]
        assert other.import_zip(str(path)) == ImportReport(6, 0, 8, [], "", True)
        for memory in MADE:
            assert_same(other.get(memory.id), memory)
        brought = [e.id for e in other.events() if e.kind != "imported"]
        assert sorted(brought) == [e.id for e in EVENTS]
        assert {e.memory_id for e in other.events(kind="imported")} == {m.id for m in MADE}
        assert set(members(exported(bank, [MADE[1].id[:9]]))) == {
            "manifest.json",
            "memories.jsonl",
            "events.jsonl",
            f"memories/{MADE[1].id}.safetensors",
        }


def test_memories_of_another_model_are_refused_by_name() -> None:
    archive = exported(filled((frozenset({0, 1, 2}), frozenset({0, 1}))))
    with Bank() as bank:
        report = bank.import_zip(io.BytesIO(archive), model="model0")
        assert (report.added, report.events) == (2, 1)
        assert f"Memory {MADE[1].id} was made by 'name1'" in report.refused[0]
        assert "1 events belong to memory" in report.refused[1] and len(report.refused) == 2


GOOD = members(exported(filled((frozenset(range(3)), frozenset(range(3))))))
FIRST = min(MADE[:3], key=lambda m: m.id)
ARRAYS = f"memories/{FIRST.id}.safetensors"


def tensors(**changes: np.ndarray) -> bytes:
    return serialization.save_arrays(
        {"soft_prompt": FIRST.soft_prompt, "key.input": FIRST.keys["input"], **changes}
    )


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        (ARRAYS, b"garbage", "not valid safetensors"),
        (ARRAYS, tensors(soft_prompt=FIRST.soft_prompt * 2), "is not what its id says"),
        (ARRAYS, tensors(soft_prompt=FIRST.soft_prompt * np.float32(np.nan)), "NaN or infinity"),
        (
            ARRAYS,
            tensors(soft_prompt=FIRST.soft_prompt.astype(np.float64)),
            "'soft_prompt' of float64 does not belong",
        ),
        (ARRAYS, tensors(soft_prompt=FIRST.soft_prompt[0]), "must be a float32 array"),
        (ARRAYS, save({"soft_prompt": np.array(1, np.float32)}), "must be a float32 array"),
        (ARRAYS, tensors(evil=np.zeros(3, np.float32)), "'evil' of float32 does not belong"),
        (
            ARRAYS,
            tensors(**{"key.input": FIRST.keys["input"] * np.float32(2)}),
            "has length 2, not 1",
        ),
        (
            ARRAYS,
            serialization.save_arrays({"key.input": FIRST.keys["input"]}),
            "has no soft prompt",
        ),
        (ARRAYS, None, "has no arrays in the archive"),
        ("memories.jsonl", (rb'"best_step":1', b'"best_step":"one"'), "best_step"),
        ("memories.jsonl", (rb'"loss":[-\d.e]+', b'"loss":NaN'), "not valid JSON"),
        ("memories.jsonl", (rb'"loss":[-\d.e]+', b'"loss":1e999'), "not valid JSON"),
        (
            "memories.jsonl",
            (rb'"loss":[-\d.e]+', b'"loss":"nan"'),
            r"steps.0.loss: Input should be a finite number",
        ),
        (
            "memories.jsonl",
            (rb'"loss":[-\d.e]+', b'"loss":"Infinity"'),
            r"finite number (got 'Infinity')",
        ),
        ("memories.jsonl", (rb'"best_step":1', b'"best_step":' + b"9" * 5000), "not valid JSON"),
        (
            "memories.jsonl",
            (rb'"settings":\{', b'"settings":' + b'{"a":' * 100_000),
            "not valid JSON",
        ),
        ("memories.jsonl", (rb"What is", b"What was"), "is not what its id says"),
        ("memories.jsonl", (rb"What is", b"\\\\ud800"), "half a character"),
        (
            "memories.jsonl",
            (rb'"id":"m\w+"', b'"id":"../../etc/passwd"'),
            "has '../../etc/passwd' for an id",
        ),
    ],
)
def test_one_damaged_memory_is_refused_and_the_others_come(
    name: str, content: Any, told: str
) -> None:
    parts = dict(GOOD)
    if content is None:
        del parts[name]
    else:
        parts[name] = (
            content if isinstance(content, bytes) else re.sub(*content, parts[name], count=1)
        )
        assert parts[name] != GOOD[name]
    with Bank() as bank:
        report = bank.import_zip(io.BytesIO(zipped(parts)))
        assert report.added == 2 and FIRST.id not in bank and bank.verify().problems == []
        assert told in report.refused[0] and "\n" not in report.refused[0]


def test_arrays_that_do_not_match_their_checksum_are_refused() -> None:
    with Bank() as bank:
        report = bank.import_zip(io.BytesIO(zipped(GOOD | {ARRAYS: tensors()}, sign=False)))
        assert report.added == 2 and "do not match their checksum" in report.refused[0]


@pytest.mark.parametrize(
    ("event", "told"),
    [
        ({"kind": "eaten"}, "kind"),
        ({"id": ""}, "no id or no time"),
        ({"created": "soon"}, "not ISO 8601"),
        ({"created": "2999-01-01"}, "lies in the future"),
        ({"memory_id": "m0"}, "1 events belong to memory 'm0'"),
        ({"detail": [1]}, "detail"),
        ({"detail": {"a": "\ud800"}}, "cannot be written as JSON"),
        ({"problem_id": "\ud800"}, "cannot be written as JSON"),
        ({"id": "x" * 101}, "does not fit"),
        (None, "is not valid JSON"),
    ],
)
def test_bad_events_are_refused_and_the_others_come(
    event: dict[str, Any] | None, told: str
) -> None:
    lines = GOOD["events.jsonl"].splitlines()
    lines[0] = b"{" if event is None else json.dumps(json.loads(lines[0]) | event).encode()
    with Bank() as bank:
        report = bank.import_zip(io.BytesIO(zipped(GOOD | {"events.jsonl": b"\n".join(lines)})))
        assert (report.added, report.events, len(report.refused)) == (
            3,
            2,
            1,
        ) and told in report.refused[0]
        assert bank.verify().problems == []


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "/etc/passwd",
        "memories/../x.safetensors",
        "C:\\evil",
        "memories/",
        "memories/m0123456789abcdeF.safetensors",
        "memories/m0123456789abcdef.safetensors\n",
        "__MACOSX/x",
        "notes.txt",
        "memories/m0123456789abcdef.bin",
        "manifest.json/x",
    ],
)
def test_members_that_do_not_belong_are_refused(name: str) -> None:
    assert "does not belong in a bank" in refusal(zipped(GOOD | {name: b"x"}))


def test_the_container_is_checked_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile warns of the second member of a name
        file = io.BytesIO(zipped(GOOD))
        with zipfile.ZipFile(file, "a") as z:
            z.writestr("events.jsonl", b"")
        assert "events.jsonl twice" in refusal(file.getvalue())
    assert "not a latentmem archive" in refusal(b"PK not a zip")
    assert "not a latentmem archive" in refusal(b"")
    assert "has no memories.jsonl" in refusal(
        zipped({k: v for k, v in GOOD.items() if k != "memories.jsonl"})
    )
    manifest = json.loads(GOOD["manifest.json"])
    for change, told in (
        ({"version": 2}, "update it"),
        ({"format": "x"}, "not a latentmem-bank"),
        ({"members": 3}, "manifest.json: members"),
    ):
        other = {"manifest.json": json.dumps(manifest | change).encode()}
        assert told in refusal(zipped(GOOD | other, sign=False))
    assert "does not match its checksum" in refusal(
        zipped(GOOD | {"events.jsonl": b""}, sign=False)
    )
    unlisted = {"memories/m0123456789abcdef.safetensors": b""}
    assert "its manifest does not list" in refusal(zipped(GOOD | unlisted, sign=False))
    assert "packed in an unknown way" in refusal(zipped(GOOD, method=zipfile.ZIP_LZMA))
    encrypted = bytearray(zipped(GOOD))
    encrypted[encrypted.index(b"PK\x01\x02") + 8] |= 1
    assert "encrypted" in refusal(bytes(encrypted))
    monkeypatch.setattr(bank_zip, "MAX_LINE", 100)
    assert "a line of more than 100 bytes" in refusal(zipped(GOOD))
    monkeypatch.setattr(bank_zip, "MAX_DIRECTORY", 300)
    assert "lists more than" in refusal(zipped(GOOD))


def test_bombs_are_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bank_zip, "RATIO_FLOOR", 1 << 20)
    monkeypatch.setattr(bank_zip, "MAX_ARRAYS", 1 << 20)
    zeros = bytes(2 << 20)
    assert "unpacks to" in refusal(zipped(GOOD | {ARRAYS: zeros}))
    assert "would unpack to" in refusal(zipped(GOOD | {"events.jsonl": zeros}))
    overlapping = bytearray(zipped(GOOD))  # each entry claims half of the archive
    place = 0
    while (place := overlapping.find(b"PK\x01\x02", place + 1)) > 0:
        struct.pack_into("<I", overlapping, place + 20, len(overlapping) // 2)
    assert "would unpack to" in refusal(bytes(overlapping))


def counted(parts: dict[str, bytes], **counts: int) -> dict[str, bytes]:
    """The members of an archive whose manifest says that there are so many."""
    manifest = json.loads(parts["manifest.json"]) | counts
    return parts | {"manifest.json": json.dumps(manifest).encode()}


@pytest.mark.parametrize("line", [b"\n", b"{}\n", b"[]\n"])
@pytest.mark.parametrize("name", ["memories.jsonl", "events.jsonl"])
def test_millions_of_bad_lines_end_an_import_at_once(name: str, line: bytes) -> None:
    """60 MB of them pack into 65 KB; each costs a checker's error, 7 microseconds."""
    many = GOOD[name] + line * (6_000_000 // len(line))
    begun = time.process_time()
    assert "more than the 3 that there are" in refusal(zipped(GOOD | {name: many}))
    with Bank() as bank:
        loud = counted(GOOD | {name: many}, memories=10**8, events=10**8)
        if name == "memories.jsonl":
            assert "more than the 6 that there are" in refusal(zipped(loud))
        else:
            report = bank.import_zip(io.BytesIO(zipped(loud)))
            assert (report.added, report.events, len(report.refused)) == (3, 3, 1001)
            assert report.refused[-1] == (
                "events.jsonl was read up to line 1004, since 1000 lines were refused."
            )
    assert time.process_time() - begun < 2


def test_an_import_ends_when_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Good lines are slow, too: here each is one event again."""
    again = counted(GOOD | {"events.jsonl": GOOD["events.jsonl"] * 50_000}, events=150_000)
    monkeypatch.setattr(bank_zip, "SECONDS", 0.2)
    begun = time.monotonic()
    with Bank() as bank:
        report = bank.import_zip(io.BytesIO(zipped(again)))
    assert report.added == 3 and report.events in (0, 3) and time.monotonic() - begun < 20
    assert re.fullmatch(
        r"events.jsonl was read up to line \d+, since 0.2 seconds are over.", report.refused[-1]
    )


def test_too_many_members_are_refused_from_the_table_of_contents() -> None:
    head = struct.Struct("<4s6H3L5H2L")
    entries = b"".join(
        head.pack(b"PK\1\2", 20, 20, *[0] * 7, 5, *[0] * 6) + b"%05x" % i for i in range(200_000)
    )
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, len(entries), 0, 0)
    begun = time.process_time()
    assert "holds 199997 memories, more than the 100000" in refusal(entries + end)
    assert time.process_time() - begun < 0.2
    junk = {"junk": [[]] * 40_000}  # a manifest is no larger than its members make it
    assert "manifest.json in the archive unpacks to 1" in refusal(zipped(counted(GOOD, **junk)))


def test_any_damage_to_an_archive_ends_in_sentences() -> None:
    """Bytes overwritten at random: refused as a whole, or in part; what came in is what was
    exported."""
    good, rng = zipped(GOOD), random.Random(0)
    whole = {memory.id: memory for memory in MADE}
    for _ in range(150):
        bad = bytearray(good)
        for _ in range(rng.choice((1, 1, 3, 20))):
            bad[rng.randrange(len(bad))] = rng.randrange(256)
        if rng.random() < 0.2:
            del bad[rng.randrange(len(bad)) :]
        with Bank() as bank:
            try:
                report = bank.import_zip(io.BytesIO(bytes(bad)))
                assert report.added == len(bank)
            except LatentmemError as e:
                assert str(e).endswith(".") and len(bank) == 0
            for row in bank.infos():
                assert_same(bank.get(row.id), whole[row.id])


@given(st.data())
def test_fuzz_an_archive(data: st.DataObject) -> None:
    """Bytes of the container, bytes of a member, a member's JSON, the manifest: whatever comes in
    is whole."""
    parts, how = dict(GOOD), data.draw(st.sampled_from(["zip", "member", "line", "manifest"]))
    name = data.draw(st.sampled_from(sorted(parts)))
    if how == "manifest":
        manifest = data.draw(twisted(json.loads(parts["manifest.json"])))
        parts["manifest.json"] = json.dumps(manifest).encode()
    elif how == "line" and name.endswith(".jsonl"):
        rows = parts[name].splitlines()
        at = data.draw(st.integers(0, len(rows) - 1))
        rows[at] = json.dumps(data.draw(twisted(json.loads(rows[at])))).encode()
        parts[name] = b"\n".join(rows)
    elif how == "member" and name != "manifest.json":
        parts[name] = data.draw(damaged(parts[name]))
    archive = zipped(parts, sign=how in ("member", "line"))
    if how == "zip":
        archive = data.draw(damaged(archive))
    with Bank() as bank:
        try:
            report = bank.import_zip(io.BytesIO(archive))
        except LatentmemError as e:
            assert is_sentence(str(e)) and len(bank) == 0
            return
        assert all(map(is_sentence, report.refused)) and report.added == len(bank)
        assert bank.verify().problems == []
        for row in bank.infos():
            assert bank.get(row.id).id == row.id


def test_a_full_disk_leaves_no_half_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bank.zip"
    with filled((frozenset({2}), frozenset())) as bank:
        bank.export_zip(path)
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with (
        filled((frozenset({1}), frozenset())) as bank,
        pytest.raises(LatentmemError, match="No space left on device"),
    ):
        bank.export_zip(path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1
    monkeypatch.setattr(bank_zip, "MAX_MEMORIES", 1)
    with (
        filled((frozenset({1, 2}), frozenset())) as bank,
        pytest.raises(LatentmemError, match="export them in parts"),
    ):
        bank.export_zip(path)
    with Bank() as bank, pytest.raises(LatentmemError, match="cannot be read"):
        bank.import_zip(tmp_path / "none.zip")


# ------------------------------------------------------------------ what may be replaced and
# brought in
def test_an_export_replaces_an_archive_and_no_other_file(tmp_path: Path) -> None:
    other = tmp_path / "bank.sqlite"
    other.write_bytes(b"SQLite format 3\x00 and much more")
    with pytest.raises(
        LatentmemError,
        match=r"bank.sqlite exists and is not an archive: write to another name, such as bank.zip",
    ):
        bank_of(make_memory(1)).export_zip(other)
    assert other.read_bytes().startswith(b"SQLite") and len(list(tmp_path.iterdir())) == 1
    good = tmp_path / "bank.zip"
    bank_of(make_memory(1)).export_zip(good)
    bank_of(make_memory(1), make_memory(2)).export_zip(good)
    assert bank_of().import_zip(good).added == 2


def test_the_last_good_export_is_not_replaced_by_one_that_lacks_something(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = tmp_path / "bank.zip"
    bank = bank_of(make_memory(1), make_memory(2))
    bank.export_zip(good)
    before = good.read_bytes()
    with pytest.raises(LatentmemError, match=r"holds no memory, so .*bank.zip was left as it is"):
        bank_of().export_zip(good)
    monkeypatch.setattr(bank_zip, "MAX_LINE", 200)
    with pytest.raises(
        LatentmemError, match=r"lacks 2 memories or events of them .Memory m.* is too large"
    ):
        bank.export_zip(good)
    assert good.read_bytes() == before and len(list(tmp_path.iterdir())) == 1
    report = bank.export_zip(tmp_path / "new.zip")
    assert report.memories == 0 and len(report.refused) == 2, (
        "at a new name, what can be written is"
    )


def test_an_archive_brings_no_longer_prompt_than_the_settings_allow() -> None:
    """Only an archive: the comparison keeps adapters in banks of its own, which are longer."""
    report = bank_of().import_zip(
        archive_of(make_memory(1, tokens=512), make_memory(2, tokens=513))
    )
    assert report.added == 1
    assert "513 virtual tokens, more than the 512 allowed" in report.refused[0]


def test_an_archive_brings_no_object_that_the_server_might_take_for_a_file() -> None:
    """Gradio publishes the file of any {"path", "meta"} among what an endpoint returns."""
    trap, memory = {"path": "pyproject.toml", "meta": {"_type": "gradio.FileData"}}, make_memory(1)
    report = bank_of().import_zip(
        with_trap(memory, bank_zip.EVENTS, lambda line: {**line, "detail": {"x": trap}})
    )
    assert report.added == 1
    assert report.events == 0
    assert "detail 'x' is of type dict" in report.refused[0]
    report = bank_of().import_zip(
        with_trap(
            memory,
            bank_zip.MEMORIES,
            lambda line: {**line, "record": {**line["record"], "settings": {"x": trap}}},
        )
    )
    assert report.added == 0 and "setting 'x' is of type dict" in report.refused[0]


def with_trap(memory, member: str, change) -> io.BytesIO:
    """An archive of a memory with an event, each line of one member changed, with checksums that
    fit."""
    bank, out = bank_of(memory), io.BytesIO()
    bank.record(Event(memory.id, "note", detail={"text": "x"}))
    bank.export_zip(out)
    with zipfile.ZipFile(out) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members[member] = b"".join(
        json.dumps(change(json.loads(line))).encode() + b"\n"
        for line in members[member].splitlines()
    )
    manifest = json.loads(members[bank_zip.MANIFEST])
    manifest["members"][member] = {
        "sha256": hashlib.sha256(members[member]).hexdigest(),
        "bytes": len(members[member]),
    }
    members[bank_zip.MANIFEST] = json.dumps(manifest).encode()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out
