"""A memory's digest: the id covers the problem, the label and the soft prompt; the digest covers
every part, so that nothing can be forged under an old id without being named. A signature says who
wrote an archive."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from latentmem.bank import Bank, Overlay
from latentmem.bank.serialization import content, digest_of, pack, unpack
from latentmem.records import Cluster, LatentmemError, Memory, Vote
from tests.bank.test_archive import zipped
from tests.bank_samples import archive_of, assert_same, bank_of, make_memory, older, unit
from tests.cli_samples import Terminal

ONE = make_memory(1)
KEY = unit(np.random.default_rng(99), 6)
# What a stranger may change without changing the id.
FORGED: dict[str, Callable[[Memory], dict[str, Any]]] = {
    "answer": lambda m: {"problem": replace(m.problem, answer="42")},
    "model's name": lambda m: {"model_name": "another"},
    "trace's text": lambda m: {"traces": (replace(m.traces[0], text="forged"), *m.traces[1:])},
    "trace removed": lambda m: {"traces": m.traces[1:]},
    "trace's tokens": lambda m: {"traces": (replace(m.traces[0], token_ids=(1,)), *m.traces[1:])},
    "curve": lambda m: {"steps": (replace(m.steps[0], agreement=1.0),)},
    "curve removed": lambda m: {"steps": ()},
    "votes": lambda m: {"vote": Vote((Cluster(m.vote.clusters[0].answer, (0, 1, 2)),), 3, 3)},
    "best step": lambda m: {"best_step": 9},
    "settings": lambda m: {"settings": {**m.settings, "learning_rate": 9.0}},
    "created": lambda m: {"created": "2031-01-01T00:00:00+00:00"},
    "input key": lambda m: {"keys": {**m.keys, "input": KEY}},
    "kv key": lambda m: {"keys": {**m.keys, "kv": unit(np.random.default_rng(98), 12)}},
    "kv key removed": lambda m: {"keys": {"input": m.keys["input"]}},
}


def forge(memory: Memory, part: str) -> Memory:
    changed = replace(memory, **FORGED[part](memory))
    assert changed.id == memory.id
    return changed


@pytest.mark.parametrize("into", ["bank", "overlay", "overlay of a shared bank"])
def test_a_forgery_under_an_old_id_is_named_on_import_and_replaces_nothing(
    into: str, night: bool
) -> None:
    missed, seeds = [], range(20 if night else 1)
    for seed in seeds:
        honest = make_memory(seed)
        for part in FORGED:
            bank = Overlay(bank_of(honest) if "shared" in into else Bank())
            if into == "bank":
                bank = bank_of(honest)
            elif into == "overlay":
                bank.put(honest)
            report = bank.import_zip(archive_of(forge(honest, part)))
            named = [s for s in report.refused if f"Memory {honest.id} differs from" in s]
            if len(named) != 1 or named[0].count(". ") or (report.added, report.skipped) != (0, 1):
                missed.append((seed, part, report))
            assert_same(bank.get(honest.id), unpack(pack(honest)))
    assert not missed, f"{len(missed)} of {len(seeds) * len(FORGED)} were not named: {missed[:2]}"


def test_a_forgery_in_an_archive_does_not_fit_its_digest() -> None:
    """The archive's checksums are made anew, as anyone can; the digest was not."""
    with zipfile.ZipFile(archive_of(ONE)) as z:
        parts = {name: z.read(name) for name in z.namelist()}
    for old, new in ((b'"best_step":1', b'"best_step":2'), (b"\\\\boxed{1}", b"\\\\boxed{2}")):
        forged = parts | {"memories.jsonl": parts["memories.jsonl"].replace(old, new)}
        assert forged != parts
        with Bank() as bank:
            report = bank.import_zip(io.BytesIO(zipped(forged)))
            assert report.added == 0 and "is not what its digest" in report.refused[0]


def test_the_digest_covers_every_field_and_does_not_depend_on_how_it_was_stored(
    tmp_path: Path,
) -> None:
    assert {*content(ONE)} == {
        *("problem", "model", "model_name", "vote", "traces", "steps", "best_step"),
        *("settings", "created", "soft prompt", "input key", "kv key"),
    }
    path = tmp_path / "bank.sqlite"
    with Bank(path) as bank:
        digest = bank.info(bank.put(ONE)).digest
    assert digest == digest_of(unpack(pack(ONE))) and len(digest) == 64
    settings = dict(reversed(ONE.settings.items()))
    assert bank_of(replace(ONE, settings=settings)).info(ONE.id).digest == digest
    older(path, 2)
    with Bank(path) as bank:
        assert bank.info(ONE.id).digest == digest == digest_of(bank.get(ONE.id))
        archive = io.BytesIO()
        bank.export_zip(archive)
        bank.export_peft(ONE.id, tmp_path / "adapter")
    with zipfile.ZipFile(archive) as z:
        assert json.loads(z.read("memories.jsonl"))["digest"] == digest
    with safe_open(tmp_path / "adapter" / "adapter_model.safetensors", "numpy") as f:
        assert f.metadata()["latentmem.digest"] == digest
    with Bank() as bank:
        assert bank.import_zip(archive).added == 1 and bank.info(ONE.id).digest == digest
        again = bank.import_zip(archive)
        assert (again.skipped, again.refused) == (1, [])


def test_an_archive_without_digests_is_read(tmp_path: Path) -> None:
    """As an older latentmem wrote it."""
    with zipfile.ZipFile(archive_of(ONE)) as z:
        parts = {name: z.read(name) for name in z.namelist()}
    line = json.loads(parts["memories.jsonl"])
    del line["digest"]
    old = zipped(parts | {"memories.jsonl": json.dumps(line).encode() + b"\n"})
    with Bank() as bank:
        assert bank.import_zip(io.BytesIO(old)).added == 1
        assert bank.info(ONE.id).digest == digest_of(ONE)


def test_the_command_line_shows_it_and_names_a_conflict(cli: Terminal, tmp_path: Path) -> None:
    file = tmp_path / "forged.zip"
    file.write_bytes(archive_of(forge(ONE, "settings")).getvalue())
    with Bank(tmp_path / "bank.sqlite") as bank:
        bank.put(ONE)
    assert digest_of(ONE) in cli.ok("memories", "show", ONE.id)
    result = cli("import", str(file))
    assert result.exit_code == 1 and "in the bank in settings (digest" in result.stderr


# ------------------------------------------------------------------ signatures
@pytest.fixture
def key(tmp_path: Path) -> Path:
    if shutil.which("ssh-keygen") is None:
        pytest.skip("needs ssh-keygen")
    file = tmp_path / "author"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(file)], check=True)
    return file


def test_a_signed_archive_names_its_author(key: Path, cli: Terminal, tmp_path: Path) -> None:
    shown = subprocess.run(
        ["ssh-keygen", "-l", "-f", str(key)], capture_output=True, text=True, check=True
    )
    fingerprint = shown.stdout.split()[1]
    with Bank(tmp_path / "bank.sqlite") as bank:
        bank.put(ONE)
    file = tmp_path / "signed.zip"
    cli.ok("export", str(file), "--sign", str(key))
    with Bank() as bank:
        assert bank.import_zip(file).author == f"the ED25519 key {fingerprint}"
        assert Overlay(Bank()).import_zip(file).author == f"the ED25519 key {fingerprint}"
    assert f"signed by the ED25519 key {fingerprint}" in cli.ok("import", str(file))
    cli.ok("export", str(tmp_path / "plain.zip"))
    assert "The archive is not signed." in cli.ok("import", str(tmp_path / "plain.zip"))
    (tmp_path / "no key").write_text("x")
    for wrong, told in ((tmp_path / "none", "There is no key at"), (tmp_path / "no key", "sign (")):
        result = cli("export", str(tmp_path / "new.zip"), "--sign", str(wrong))
        assert result.exit_code == 1 and told in result.stderr
        assert not (tmp_path / "new.zip").exists()


def test_a_signature_covers_every_byte_that_is_imported(
    key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another archive under it, a signature for another purpose, and bytes that are none."""
    signed, other = io.BytesIO(), io.BytesIO()
    bank_of(ONE).export_zip(signed, key=key)
    bank_of(make_memory(2)).export_zip(other)
    good = zipfile.ZipFile(signed).comment
    command = ["ssh-keygen", "-Y", "sign", "-n", "file", "-f", str(key)]
    manifest = zipfile.ZipFile(signed).read("manifest.json")
    purpose = subprocess.run(command, input=manifest, capture_output=True, check=True).stdout
    cut = good[: len(good) // 2]
    for archive, comment in ((other, good), (signed, purpose), (signed, cut), (signed, cut[:40])):
        forged = io.BytesIO(archive.getvalue())
        with zipfile.ZipFile(forged, "a") as z:
            z.comment = comment
        with Bank() as bank:
            with pytest.raises(LatentmemError, match="The archive's signature is wrong"):
                bank.import_zip(forged)
            assert len(bank) == 0
    monkeypatch.setenv("PATH", "")
    with Bank() as bank:
        assert "ssh-keygen is missing here" in bank.import_zip(signed).author
    with pytest.raises(LatentmemError, match="ssh-keygen is missing, so nothing was signed"):
        bank_of(ONE).export_zip(io.BytesIO(), key=key)
