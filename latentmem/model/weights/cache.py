"""The cache of weights: where things lie, what is finished, how a model is put in place,
fingerprints.

The cache folder is LATENTMEM_CACHE or the platform's cache folder. In it:
    models/<name>/   what `from_pretrained` loads, with latentmem.json: where it came from,
    checksums, fingerprint
    gguf/            the verified downloads that folders were converted from, kept so that a folder
    can be made again
                     without the network; LATENTMEM_KEEP_GGUF=0 removes each after its conversion
    partial/, locks/, fingerprints/    downloads that can be resumed, one lock per model, checksums
    of local folders
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...files import put_in_place, replacing
from ...records import LatentmemError, Status, digest
from .catalog import MODELS, ModelSpec
from .child import MB, Progress

STAMP = "latentmem.json"
# owner/name or owner/name@revision
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights on this disk. `path`: a folder of config, tokenizer, safetensors."""

    name: str
    path: Path
    fingerprint: str  # sha256-based identity of the weights (hex, 64 characters)
    label: str


def cache_dir() -> Path:
    """The cache folder (it need not exist yet): LATENTMEM_CACHE, else the platform's."""
    if chosen := os.environ.get("LATENTMEM_CACHE"):
        try:
            return Path(chosen).expanduser().absolute()
        except RuntimeError as e:
            raise LatentmemError(
                f"LATENTMEM_CACHE = {chosen!r} cannot be found ({e}): write the whole path."
            ) from None
    from platformdirs import user_cache_path

    return user_cache_path("latentmem", appauthor=False)


def file_name(name: str) -> str:
    return name.replace("/", "--").replace("\\", "--")


def model_folder(name: str) -> Path:
    return cache_dir() / "models" / file_name(name)


def gguf_path(spec: ModelSpec) -> Path:
    return cache_dir() / "gguf" / spec.files[0].path


def partial_folder(name: str) -> Path:
    return cache_dir() / "partial" / file_name(name)


def found(name: str) -> Weights | None:
    """The finished folder of a table model or hub id, if every file has its size; else None."""
    spec = MODELS.get(name)
    if spec is None and (not HUB_ID.fullmatch(name) or _is_folder(name)):
        return None
    folder = model_folder(name)
    try:
        stamp = json.loads((folder / STAMP).read_text("utf-8"))
        whole = all((folder / path).stat().st_size == size for path, size in stamp["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # absent or damaged: it is made again
    if not whole or stamp.get("name") != name:
        return None
    if spec is not None and stamp.get("fingerprint") != spec.fingerprint:
        return None
    return Weights(name, folder, stamp["fingerprint"], stamp["label"])


def _is_folder(name: str) -> bool:
    try:
        return Path(name).expanduser().is_dir()
    except (OSError, RuntimeError, ValueError):  # too long, no home folder, a null byte
        return False


def local_folder(name: str) -> Path | None:
    """The folder of that name, if any. Raises LatentmemError if it holds no loadable weights."""
    if name in MODELS or not name or not _is_folder(name):
        return None
    folder = Path(name).expanduser().resolve()
    tensors = sorted(folder.glob("*.safetensors"))
    if os.path.isfile(folder / "config.json") and tensors:
        # A cache of the hub consists of links whose files may have been removed.
        if lost := [file.name for file in tensors if not os.path.isfile(file)]:
            raise LatentmemError(
                f"The model folder {folder} has {lost[0]}, a link to a file that is gone: put the "
                "weights there again, or remove the link."
            )
        return folder
    if pickled := sorted(p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth")):
        raise LatentmemError(
            f"The folder {folder} has its weights in {pickled[0]}, a pickle, which can run code "
            "and is never loaded: save the model again with save_pretrained, which writes "
            ".safetensors."
        )
    raise LatentmemError(
        f"The folder {folder} is not a model: it needs a config.json and at least one "
        ".safetensors file."
    )


def files_fingerprint(folder: Path, say: Progress) -> str:
    """sha256 over the names and checksums of config.json and every .safetensors file, in order."""
    files = [folder / "config.json", *sorted(folder.glob("*.safetensors"))]
    sizes = [file.stat().st_size for file in files]
    parts: list[str] = []
    for i, file in enumerate(files):
        say(Status(f"Reading {folder.name} for its fingerprint", sum(sizes[:i]), sum(sizes)))
        parts += [file.name, file_sha256(file)]
    return digest("latentmem folder", *parts)


def local_fingerprint(folder: Path, say: Progress) -> str:
    """`files_fingerprint`, remembered by every file's path, size and modification time."""
    try:
        files = [folder / "config.json", *sorted(folder.glob("*.safetensors"))]
        seen = [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    except OSError as e:
        raise _unreadable(folder, e) from e
    note = cache_dir() / "fingerprints" / f"{digest(str(folder))[:24]}.json"
    try:
        known = json.loads(note.read_text("utf-8"))
        if known["files"] == seen:
            return known["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError):
        known = None  # not computed yet, or of other files
    try:
        fingerprint = files_fingerprint(folder, say)
    except OSError as e:
        raise _unreadable(folder, e) from e
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        with replacing(note) as part:
            part.write_text(json.dumps({"files": seen, "fingerprint": fingerprint}), "utf-8")
    except OSError as e:  # it is right, only computed again next time
        why = f"({e.strerror}: {e.filename})"
        say(Status(f"The fingerprint of {folder.name} cannot be remembered {why}"))
    return fingerprint


def _unreadable(folder: Path, e: OSError) -> LatentmemError:
    return LatentmemError(
        f"The model folder {folder} cannot be read ({e.strerror}: {e.filename}): make it readable."
    )


def publish(name: str, made: Path, label: str, fingerprint: str, facts: dict[str, Any]) -> None:
    """Stamp the made folder and give it its name in the cache, once all of it is on the disk."""
    stamp = made / STAMP
    stamp.unlink(missing_ok=True)  # a copy of somebody's cache folder brings one along
    there = [p for p in sorted(made.rglob("*")) if p.is_file()]
    files = {p.relative_to(made).as_posix(): p.stat().st_size for p in there}
    facts = {"name": name, "label": label, "fingerprint": fingerprint, "files": files, **facts}
    stamp.write_text(json.dumps(facts, indent=1), "utf-8")
    target = model_folder(name)
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():  # damaged or of another version
        old = partial_folder(name) / "old"
        shutil.rmtree(old, ignore_errors=True)
        os.replace(target, old)
    put_in_place(made, target)


# ---------- The disk: checksums, space, errors, one process at a time.


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes (hex, 64 characters)."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def check_space(folder: Path, need: int, what: str) -> None:
    """Raises LatentmemError when the disk of `folder` has fewer than `need` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < need:
        raise LatentmemError(
            f"The disk is too full for {what}: it needs {max(1, need // MB):,} MB and {folder} has "
            f"{free // MB:,} MB free; free some space or set LATENTMEM_CACHE to a folder on a "
            "larger disk."
        )


@contextmanager
def disk_errors(folder: Path, what: str) -> Iterator[None]:
    """Turn a full or unwritable disk into one sentence. Finished parts stay for the next time."""
    try:
        yield
    except OSError as e:
        if e.errno in (errno.ENOSPC, errno.EDQUOT):
            raise LatentmemError(
                f"The disk filled up while {what} was written to {folder}: free some space or set "
                "LATENTMEM_CACHE to a folder on a larger disk, then try again."
            ) from e
        if e.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
            raise LatentmemError(
                f"The cache folder {folder} cannot be written ({e.strerror}: {e.filename}): set "
                "LATENTMEM_CACHE to a folder that can."
            ) from e
        raise


@contextmanager
def locked(path: Path, what: str, say: Progress) -> Iterator[None]:
    """Hold the lock file while the body runs. A caller that waits reports it every second."""
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock, begun = FileLock(path), time.monotonic()
    while True:
        try:
            lock.acquire(timeout=1.0, poll_interval=0.1)
            break
        except Timeout:
            text = f"Another process is preparing {what}: waiting for it"
            say(Status(text, time.monotonic() - begun))
    try:
        yield
    finally:
        lock.release()
