"""Made-up models and the places they come from: a folder of tiny wheels for the real pip, and a
small model hub."""

from __future__ import annotations

import hashlib
import json
import socket
import subprocess
import sys
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from latentmem.model.weights import hub, wheels
from latentmem.model.weights.catalog import MODELS, DataFile, ModelSpec, Wheel
from latentmem.model.weights.child import last_line

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FOLDER = {
    "model.safetensors": b"weights" * 1000,
    "config.json": b"{}",
    "1_Pooling/config.json": b'{"a": 1}',
}
PARTS = [bytes([i]) * 5000 for i in range(1, 4)]
# In place of pip where pip itself is not the point: the same arguments, forty times quicker.
COPY = """
import glob, os, shutil, sys
name, _, version = sys.argv[-1].partition("==")
found = glob.glob(f"{os.environ['PIP_FIND_LINKS']}/{name.replace('-', '_')}-{version}-*.whl")
shutil.copy(found[0], sys.argv[sys.argv.index("--dest") + 1])
"""


def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, no_hub: bool = True) -> Path:
    """An empty cache and a folder that pip takes wheels from and nowhere else; the folder is
    returned. `no_hub`: the hub counts as unreachable.
    """
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("LATENTMEM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "LATENTMEM_KEEP_GGUF"):
        monkeypatch.delenv(name, raising=False)
    if no_hub:
        monkeypatch.setattr(hub, "reachable", lambda: False)
    return folder


def quick_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheels, "_pip", lambda what: [sys.executable, "-S", "-E", "-c", COPY])


def hub_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the child process of a download does, in this process: it starts seconds sooner."""

    def run(name: str, arguments: Sequence[str], tick: Callable[[], None], **_: str) -> Any:
        tick()
        try:
            hub._main(json.loads(arguments[0]))
        except Exception as e:
            return 1, last_line(e)
        return 0, ""

    monkeypatch.setattr(hub, "run_module", run)


def add(monkeypatch: pytest.MonkeyPatch, spec: ModelSpec) -> ModelSpec:
    """Puts the model into the table for one test."""
    monkeypatch.setitem(MODELS, spec.name, spec)
    return spec


def no_network_and_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a warm cache must need no network and no process")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(subprocess, "Popen", refuse)


def file_of(path: str, data: bytes) -> DataFile:
    return DataFile(path, len(data), hashlib.sha256(data).hexdigest())


def write_wheel(folder: Path, package: str, version: str, members: Mapping[str, bytes]) -> Path:
    """A wheel that pip accepts: the members and the three metadata files."""
    module = package.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    path = folder / f"{module}-{version}-py3-none-any.whl"
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, data in members.items():
            wheel.writestr(name, data)
        wheel.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n"
        )
        wheel.writestr(
            f"{info}/WHEEL",
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        wheel.writestr(f"{info}/RECORD", "")
    return path


def folder_model(index: Path, files: Mapping[str, bytes], name: str = "tiny-folder") -> ModelSpec:
    """A model of kind 'folder' whose one wheel lies in `index`."""
    write_wheel(
        index,
        "tiny-data",
        "1.0",
        {f"tiny_data/model/{path}": data for path, data in files.items()}
        | {"tiny_data/__init__.py": b"raise SystemExit('a data wheel is never imported')"},
    )
    return ModelSpec(
        name,
        "Tiny folder",
        "folder",
        "tiny/folder",
        COMMIT,
        tuple(file_of(path, data) for path, data in files.items()),
        (Wheel("tiny-data==1.0", "tiny_data/model/"),),
        sum(map(len, files.values())),
    )


def gguf_model(index: Path, parts: list[bytes], name: str = "tiny-gguf") -> ModelSpec:
    """A model of kind 'gguf' in as many wheels as parts, whose bytes joined in order are the
    file."""
    wheels = []
    for i, data in enumerate(parts, 1):
        write_wheel(index, f"tiny-part{i}", "1.0", {f"tiny_part{i}/data/part{i:02d}.bin": data})
        wheels.append(Wheel(f"tiny-part{i}==1.0", f"tiny_part{i}/data/part{i:02d}.bin"))
    whole = b"".join(parts)
    return ModelSpec(
        name,
        "Tiny GGUF",
        "gguf",
        "tiny/gguf",
        COMMIT,
        (file_of("tiny.gguf", whole),),
        tuple(wheels),
        2 * len(whole),
    )


def listed(path: str, data: bytes) -> dict[str, Any]:
    """What the hub lists of a file: of those kept as large files, the weights, the sha256, too."""
    return {"rfilename": path, "size": len(data)} | large(path, data)


def large(path: str, data: bytes) -> dict[str, Any]:
    if not path.endswith(".safetensors"):
        return {}
    sha256 = hashlib.sha256(data).hexdigest()
    return {"lfs": {"size": len(data), "sha256": sha256, "oid": sha256, "pointerSize": 130}}


class HubHandler(BaseHTTPRequestHandler):
    """The part of a model hub's protocol that huggingface_hub needs to list and fetch files."""

    protocol_version = "HTTP/1.1"
    repos: Mapping[str, Mapping[str, bytes]]
    asked: list[str]
    status: int
    refused: Collection[str]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.asked.append(f"{self.command} {path}")
        if path == "/" and self.status < 500:
            self.reply(200, b"hub")
        elif any(part in path for part in self.refused):
            self.reply(403, b"{}")
        elif self.status:
            self.reply(self.status, b"{}")
        else:
            self.answer(path)

    def answer(self, path: str) -> None:
        for repo, files in self.repos.items():
            if path.startswith(f"/api/models/{repo}/tree/"):
                return self.say(
                    [
                        {
                            "type": "file",
                            "path": p,
                            "size": len(d),
                            "oid": hashlib.sha1(b"blob %d\0" % len(d) + d).hexdigest(),
                        }
                        | large(p, d)
                        for p, d in files.items()
                    ]
                )
            if path == f"/api/models/{repo}" or path.startswith(f"/api/models/{repo}/revision/"):
                return self.say(
                    {
                        "id": repo,
                        "sha": COMMIT,
                        "siblings": [listed(p, d) for p, d in files.items()],
                    }
                )
            start = f"/{repo}/resolve/{COMMIT}/"
            if path.startswith(start) and (data := files.get(path.removeprefix(start))) is not None:
                return self.reply(200, data)
        self.reply(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def say(self, value: Any) -> None:
        self.reply(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def reply(self, code: int, data: bytes, extra: Mapping[str, str] | None = None) -> None:
        self.send_response(code)
        headers = {
            "Content-Length": str(len(data)),
            "Content-Type": "application/octet-stream",
            "X-Repo-Commit": COMMIT,
            "ETag": f'"{hashlib.sha256(data).hexdigest()}"',
            **(extra or {}),
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Nothing on the terminal."""


@contextmanager
def small_hub(
    repos: Mapping[str, Mapping[str, bytes]], status: int = 0, refused: Collection[str] = ()
) -> Iterator[tuple[str, list[str]]]:
    """A model hub on this machine. Yields its address and the list of requests it got.

    repos: id -> path -> bytes. status: when set, every answer has this HTTP status, only the root's
    is 200 unless the server is broken (500 and above). refused: answers to paths that hold one of
    these parts are 403; it may change meanwhile.
    """
    asked: list[str] = []
    handler = type(
        "Handler",
        (HubHandler,),
        {"repos": repos, "asked": asked, "status": status, "refused": refused},
    )
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever, args=(0.01,), daemon=True)  # ends at once
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
