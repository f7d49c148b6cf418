"""The commands about the bank, over a real bank and no model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from latentmem.bank import Bank
from latentmem.cli.app import read_receipt
from latentmem.records import Event
from tests.cli_samples import ONE, RECEIPT, Terminal, memory


@pytest.fixture
def stored(tmp_path: Path) -> tuple[str, str]:
    with Bank(tmp_path / "bank.sqlite") as bank:
        return bank.put(memory()), bank.put(memory("How old is Leila now?", "examples/ages", 1))


def test_memories_are_listed_and_filtered(cli: Terminal, stored: tuple[str, str]) -> None:
    assert {m["id"] for m in cli.lines("memories")} == set(stored)
    assert all(i in cli.ok("memories") for i in stored)
    assert [m["id"] for m in cli.lines("memories", "--contains", "leila")] == [stored[1]]
    assert [m["id"] for m in cli.lines("memories", "--source", "examples/equation")] == [stored[0]]
    assert "No memory fits, of 2" in cli.ok("memories", "--quarantined")


def test_a_memory_is_shown_quarantined_released_deleted(
    cli: Terminal, stored: tuple[str, str]
) -> None:
    said = cli.ok("memories", "show", stored[0][:8])
    assert ONE[:30] in said and "2 x 4, kept after step 1" in said and f"near: {stored[1]}" in said
    shown = [r["record"] for r in cli.lines("memories", "show", stored[0])]
    assert shown == ["MemoryInfo", "Vote", "Trace", "Trace", "Trace", "Step"]
    assert "quarantined" in cli.ok("memories", "quarantine", stored[0], "--reason", "wrong")
    assert [m["id"] for m in cli.lines("memories", "--quarantined")] == [stored[0]]
    cli.ok("memories", "release", stored[0])
    assert not cli.ok("memories", "--quarantined", "--json")
    assert "add --yes" in cli.fails("memories", "delete", stored[0])
    assert "is deleted" in cli.ok("memories", "delete", stored[0], "--yes")
    assert [m["id"] for m in cli.lines("memories")] == [stored[1]]
    assert "no memory" in cli.fails("memories", "show", stored[0])


def test_options_of_the_group_hold_for_its_commands(
    cli: Terminal, stored: tuple[str, str], tmp_path: Path
) -> None:
    other = str(tmp_path / "other.sqlite")
    Bank(other).close()
    assert "no memory" in cli.fails("memories", "--bank", other, "show", stored[0])
    assert "no memory" in cli.fails("memories", "show", stored[0], "--bank", other)
    assert (
        json.loads(cli.ok("memories", "--json", "show", stored[0]).splitlines()[0])["record"]
        == "MemoryInfo"
    )


def test_receipts_are_listed_shown_and_read_by_replay(
    cli: Terminal, stored: tuple[str, str], tmp_path: Path
) -> None:
    with Bank(tmp_path / "bank.sqlite") as bank:
        bank.keep_receipt(RECEIPT, [Event(stored[0], "used", receipt_id=RECEIPT.id)])
    assert RECEIPT.id in cli.ok("receipts") and "1 receipts of" in cli.ok(
        "receipts", "--memory", stored[0][:8]
    )
    assert "0 receipts of" in cli.ok("receipts", "--memory", stored[1])
    shown = cli.ok("receipts", "show", RECEIPT.id)
    assert (
        RECEIPT.problem.text[:30] in shown
        and "The verifier chose it." in shown
        and "memory tried" in shown
    )
    (tmp_path / "r.json").write_text(cli.ok("receipts", "show", RECEIPT.id, "--json"))
    assert read_receipt(tmp_path / "r.json").token_digest == RECEIPT.token_digest
    assert [r["id"] for r in cli.lines("receipts")] == [RECEIPT.id]
    assert "no receipt 'r404'" in cli.fails("receipts", "show", "r404")


def test_receipts_are_deleted(cli: Terminal, stored: tuple[str, str], tmp_path: Path) -> None:
    with Bank(tmp_path / "bank.sqlite") as bank:
        for receipt in (RECEIPT, replace(RECEIPT, id="r2"), replace(RECEIPT, id="r3")):
            bank.keep_receipt(receipt)
    for wrong in ([], ["r2", "--all", "--yes"]):
        assert "not said which receipts" in cli.fails("receipts", "delete", *wrong)
    assert "1 receipt would be gone" in cli.fails("receipts", "delete", "r2")
    assert "3 receipts would be gone" in cli.fails("receipts", "delete", "--all")
    assert "none was deleted" in cli.fails("receipts", "delete", "r2", "r404", "--yes")
    assert cli.lines("receipts", "delete", "r2", "--yes") == [
        {"record": "Forgotten", "receipts": 1}
    ]
    assert {r["id"] for r in cli.lines("receipts")} == {RECEIPT.id, "r3"}
    assert "2 receipts deleted from" in cli.ok(
        "receipts", "delete", "--all", "--yes"
    ) and not cli.lines("receipts")


def test_export_and_import(cli: Terminal, stored: tuple[str, str], tmp_path: Path) -> None:
    archive, other = str(tmp_path / "a.zip"), str(tmp_path / "other.sqlite")
    assert "2 memories and 0 events" in cli.ok("export", archive)
    assert "2 memories are added, 0 were there" in cli.ok("import", archive, "--bank", other)
    assert cli.lines("import", archive, "--bank", other)[0]["skipped"] == 2
    assert cli.lines("export", archive, "--id", stored[0])[0]["memories"] == 1
    assert "nothing to write to" in cli.fails("export")
    assert "\n" not in cli.fails("import", str(tmp_path / "none.zip"))


def base_of(folder: Path) -> str:
    return json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]


def test_export_as_peft(cli: Terminal, stored: tuple[str, str], tmp_path: Path) -> None:
    one, all_ = tmp_path / "one", tmp_path / "all"
    cli.ok("export", "--peft", str(one), "--id", stored[0][:8])
    assert {p.name for p in one.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    assert base_of(one) == "toy"
    cli.ok("export", "--peft", str(all_), "--base-model", "owner/name")
    assert {base_of(f) for f in all_.iterdir()} == {"owner/name"}
    assert "give --peft FOLDER" in cli.fails(
        "export", str(tmp_path / "a.zip"), "--base-model", "owner/name"
    )
    assert {p.name for p in all_.iterdir()} == set(stored)


LISTS = (["memories"], ["receipts"], ["memories", "--contains", "x"])
ON_A_BANK = (
    ["memories", "show", "m0123"],
    ["memories", "delete", "m0123", "--yes"],
    ["memories", "quarantine", "m0123"],
    ["memories", "release", "m0123"],
    ["receipts", "show", "r1"],
    ["receipts", "delete", "--all", "--yes"],
    ["export", "out/a.zip"],
    ["export", "--peft", "out"],
    ["verify"],
    ["solve", ONE, "--memory", "m0123"],
)


@pytest.mark.parametrize("arguments", [*LISTS, *ON_A_BANK], ids=" ".join)
def test_a_bank_that_is_not_there_is_not_made_by_looking(
    cli: Terminal, tmp_path: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    typo, place = tmp_path / "folder" / "bnak.sqlite", tmp_path / "bank.sqlite"
    for named in (["--bank", str(typo)], ["--set", f"bank={typo}"]):
        assert f"There is no bank at {typo}: check the path" in cli.fails(*arguments, *named)
    if arguments in LISTS:
        assert cli.ok(*arguments).startswith(
            f"There is no bank yet at {place}: `latentmem distil` or `import` makes one."
        )
        assert cli.ok(*arguments, "--json") == ""
    else:
        assert cli.fails(*arguments).startswith(
            f"There is no bank yet at {place}: `latentmem distil` or `import` makes one."
        )
    assert list(tmp_path.iterdir()) == []


def test_a_bank_is_made_by_importing(
    cli: Terminal, stored: tuple[str, str], tmp_path: Path
) -> None:
    cli.ok("export", str(tmp_path / "a.zip"))
    new = tmp_path / "new" / "bank.sqlite"
    cli.ok("import", str(tmp_path / "a.zip"), "--bank", str(new))
    assert "2 memories, 0 events" in cli.ok("verify", "--bank", str(new))
    assert "0 receipts of" in cli.ok("receipts", "--bank", str(new))


def test_a_bank_in_an_impossible_place_is_one_sentence(cli: Terminal, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "cannot be opened" in cli.fails(
        "verify", "--bank", str(tmp_path / "file" / "bank.sqlite")
    )
    assert "is a folder" in cli.fails("verify", "--bank", str(tmp_path))


def test_adapters_are_written_past_a_damaged_memory(
    cli: Terminal, stored: tuple[str, str], tmp_path: Path
) -> None:
    third = memory("Where is Bo?", seed=2)
    with Bank(tmp_path / "bank.sqlite") as bank:
        bank.put(third)
        bank._store._db.execute(
            "UPDATE parts SET bytes = zeroblob(9) WHERE seq = 3 AND part = 'soft_prompt'"
        )  # type: ignore
    result = cli("export", str(tmp_path / "a.zip"), "--peft", str(tmp_path / "peft"))
    assert result.exit_code == 1 and {p.name for p in (tmp_path / "peft").iterdir()} == set(stored)
    told = result.stderr.strip().splitlines()
    assert len(told) == 2 and all(f"Memory {third.id} is damaged" in line for line in told), (
        "for the adapter and the archive"
    )
    assert "2 memories and 0 events are written" in result.stdout and (tmp_path / "a.zip").exists()
    assert f"Memory {third.id} is damaged" in cli.fails(
        "export", "--peft", str(tmp_path / "one"), "--id", third.id
    )
    with Bank(tmp_path / "bank.sqlite") as bank:
        bank._store._db.execute("UPDATE memories SET problem_text = '' WHERE seq = 3")  # type: ignore[union-attr]
    assert "1 memories with a damaged entry are left out" in cli.fails(
        "export", "--peft", str(tmp_path / "two")
    )


def test_an_adapter_of_another_kind_stays(
    cli: Terminal, stored: tuple[str, str], tmp_path: Path
) -> None:
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    assert "did not write" in cli.fails("export", "--peft", str(tmp_path), "--id", stored[0])
    assert (tmp_path / "adapter_config.json").read_text() == '{"peft_type": "LORA"}'


def test_verify_says_what_is_damaged(
    cli: Terminal, stored: tuple[str, str], tmp_path: Path
) -> None:
    assert "2 memories, 0 events and 0 receipts checked, all is well." in cli.ok("verify")
    bank = tmp_path / "bank.sqlite"
    data = bytearray(bank.read_bytes())
    at = data.rindex(b"Leila")
    data[at : at + 5] = b"Lella"
    bank.write_bytes(data)
    result = cli("verify")
    assert result.exit_code == 1 and stored[1] in result.stderr
    bank.write_bytes(b"no bank at all " * 400)
    assert str(bank) in cli.fails("verify")
