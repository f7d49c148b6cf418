"""What an export may replace, and what an upload may bring."""

from __future__ import annotations

import io
import json
import zipfile
from hashlib import sha256
from pathlib import Path

import pytest

from latentmem.bank import Bank, Overlay, overlay, serialization
from latentmem.bank import archive as bank_zip
from latentmem.bank import overlay as beside
from latentmem.bank.archive import EVENTS, MANIFEST, MEMORIES
from latentmem.bank.notes import tag, tags
from latentmem.bank.serialization import MOST_KEY
from latentmem.records import Event, LatentmemError
from tests.bank_samples import make_memory, make_receipt


def bank_of(*memories) -> Bank:
    bank = Bank(":memory:")
    for memory in memories:
        bank.put(memory)
    return bank


def archive_of(*memories) -> io.BytesIO:
    file = io.BytesIO()
    bank_of(*memories).export_zip(file)
    file.seek(0)
    return file


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
    assert (
        report.added == 1 and "513 virtual tokens, more than the 512 allowed" in report.refused[0]
    )


def test_a_visitor_brings_no_longer_prompt_than_the_shared_app_makes() -> None:
    visitor = Overlay(bank_of(make_memory(0)), most=3, longest=32)
    report = visitor.import_zip(archive_of(make_memory(1), make_memory(2, tokens=33)))
    assert (report.added, report.skipped) == (1, 0) and len(visitor.own) == 1
    assert (
        len(report.refused) == 1
        and "33 virtual tokens, more than the 32 that this shared app allows" in report.refused[0]
    )


def test_all_that_is_a_visitors_own_is_weighed() -> None:
    shared, one = make_memory(0), make_memory(1)
    visitor = Overlay(bank_of(shared), most=20)
    visitor.import_zip(archive_of(one))
    visitor.most_bytes = visitor.own.stats()["used"] + 2000
    for target in (one, shared):
        for _ in range(2):
            visitor.record(Event(target.id, "used"))
            visitor.record(Event(target.id, "note", detail={"text": "z" * 500}))
    for target in (one, shared):
        with pytest.raises(
            LatentmemError, match="more than the 0 MiB that this shared app keeps for you"
        ):
            visitor.record(Event(target.id, "note", detail={"text": "z" * 4000}))
    for add in (
        lambda: visitor.import_zip(archive_of(make_memory(2))),
        lambda: visitor.put(make_memory(3, tokens=400)),
    ):
        with pytest.raises(LatentmemError, match="delete some memories"):
            add()
    assert len(visitor.own) == 1
    notes = [e for e in visitor.events(kind="note") if e.detail]
    for undo in (
        lambda: visitor.quarantine(shared.id, "harmful"),
        lambda: visitor.release(one.id),
        lambda: visitor.record(Event(shared.id, "tag", detail={"tag": "x", "on": False})),
        lambda: visitor.record(Event(notes[0].memory_id, "note", detail={"removes": notes[0].id})),
    ):
        undo()
    visitor.delete(one.id)
    visitor.put(make_memory(4))
    assert len(visitor.own) == 1, "where some were deleted there is room again"


def test_an_archive_is_weighed_by_what_is_new_in_it() -> None:
    many = [make_memory(i, tokens=500) for i in range(8)]
    visitor = Overlay(bank_of(*many), most=2, most_bytes=100_000)
    everything = archive_of(*many, make_memory(9))
    assert everything.getbuffer().nbytes > 100_000
    report = visitor.import_zip(everything)
    assert (report.added, report.skipped) == (1, 8)


def test_what_a_visitor_did_outlasts_what_answers_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = make_memory(0)
    visitor = Overlay(bank_of(memory))
    monkeypatch.setattr(beside, "MOST_EVENTS", 3)
    visitor.quarantine(memory.id, "harmful")
    for _ in range(5):
        visitor.record(Event(memory.id, "retrieved"))
    assert visitor.info(memory.id).quarantined and len(visitor.events(memory.id)) == 3
    for _ in range(2):
        visitor.record(Event(memory.id, "note", detail={"text": "mine"}))
    with pytest.raises(LatentmemError, match="3 notes and changes of shared memories are as many"):
        visitor.record(Event(memory.id, "note", detail={"text": "one more"}))
    visitor.keep_receipt(make_receipt(1, memory), [Event(memory.id, "used")])
    assert [e.kind for e in visitor.events(memory.id)] == ["note", "note", "quarantined"], (
        "an answer is given all the same"
    )
    visitor.release(memory.id)
    assert not visitor.info(memory.id).quarantined, "in place of the state that it overrides"


def test_tags_of_many_are_given_all_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    shared, mine = [make_memory(i) for i in range(4)], make_memory(9)
    visitor = Overlay(bank_of(*shared))
    visitor.put(mine)
    names = [m.id for m in (*shared, mine)]
    assert tag(visitor, names, "one") == 5
    monkeypatch.setattr(beside, "MOST_EVENTS", 6)
    with pytest.raises(LatentmemError, match="are as many as this shared app keeps"):
        tag(visitor, names, "two")
    assert set(tags(visitor).values()) == {("one",)} and len(tags(visitor)) == 5
    monkeypatch.setattr(
        visitor.own, "record_all", lambda events: (_ for _ in ()).throw(LatentmemError("full"))
    )
    with pytest.raises(LatentmemError, match="full"):
        tag(visitor, names, "one", on=False)
    assert set(tags(visitor).values()) == {("one",)}, "and what was taken down beside is taken back"


def test_an_archive_brings_no_object_that_the_server_might_take_for_a_file() -> None:
    """Gradio publishes the file of any {"path", "meta"} among what an endpoint returns."""
    trap, memory = {"path": "pyproject.toml", "meta": {"_type": "gradio.FileData"}}, make_memory(1)
    report = bank_of().import_zip(
        with_trap(memory, EVENTS, lambda line: {**line, "detail": {"x": trap}})
    )
    assert (
        report.added == 1
        and report.events == 0
        and "detail 'x' is of type dict" in report.refused[0]
    )
    report = bank_of().import_zip(
        with_trap(
            memory,
            MEMORIES,
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
    manifest = json.loads(members[MANIFEST])
    manifest["members"][member] = {
        "sha256": sha256(members[member]).hexdigest(),
        "bytes": len(members[member]),
    }
    members[MANIFEST] = json.dumps(manifest).encode()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out


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
    assert (
        report.added == 1
        and f"Memory {long.id}: The input key has 1048577 numbers" in report.refused[0]
    )
    assert [h.memory_id for h in bank.search(one.keys["input"], k=9)] == [one.id]
    assert bank.search(long.keys["kv"], kind="kv", k=1)[0].memory_id == long.id
    (problem,) = bank.verify().problems
    assert long.id in problem and "more than the" in problem
    bank.delete(long.id)
    assert bank.verify().problems == []


def test_an_upload_is_counted_and_weighed_before_it_is_unpacked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    visitor = Overlay(bank_of(make_memory(0)), most=2)
    many = archive_of(*(make_memory(i) for i in range(1, 6)))
    monkeypatch.setattr("latentmem.bank.archive._arrays_of", lambda *_: pytest.fail("unpacked"))
    with pytest.raises(
        LatentmemError, match="holds 5 memories, more than the 3 that there is room for"
    ):
        visitor.import_zip(many)
    monkeypatch.setattr(overlay, "MOST_BYTES", 1 << 10)
    with pytest.raises(LatentmemError, match="unpacks to 0 MiB, more than the 0 MiB allowed here"):
        visitor.import_zip(archive_of(make_memory(1)))
    assert len(visitor.own) == 0
