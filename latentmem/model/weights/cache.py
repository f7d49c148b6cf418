"""The cache of weights: where each thing lies, what is finished, how something is put in place,
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

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...records import LatentmemError, Status, digest
from .catalog import MODELS, ModelSpec
from .download import Progress, atomic, file_sha256

STAMP = "latentmem.json"
# owner/name or owner/name@revision
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights on this disk. `path` is a folder for `from_pretrained`: config, tokenizer,
    safetensors."""

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
                f"LATENTMEM_CACHE = {chosen!r} has no place ({e}): write the whole path."
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
    """The finished folder of a table model or hub id, if every file has its size. Reads a few
    hundred bytes."""
    spec = MODELS.get(name)
    if spec is None and (not HUB_ID.fullmatch(name) or _is_folder(name)):
        return None
    folder = model_folder(name)
    try:
        stamp = json.loads((folder / STAMP).read_text("utf-8"))
        whole = all((folder / path).stat().st_size == size for path, size in stamp["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # absent or damaged: it is made again
    if (
        not whole
        or stamp.get("name") != name
        or (spec is not None and stamp.get("fingerprint") != spec.fingerprint)
    ):
        return None
    return Weights(name, folder, stamp["fingerprint"], stamp["label"])


def _is_folder(name: str) -> bool:
    try:
        return Path(name).expanduser().is_dir()
    except (OSError, RuntimeError, ValueError):  # too long, no home folder, a null byte
        return False


def local_folder(name: str) -> Path | None:
    """The folder of that name if there is one. Raises LatentmemError when it holds no loadable
    weights."""
    if name in MODELS or not name or not _is_folder(name):
        return None
    folder = Path(name).expanduser().resolve()
    tensors = sorted(folder.glob("*.safetensors"))
    if os.path.isfile(folder / "config.json") and tensors:
        # A cache of the hub consists of links, and what they point to may have been cleaned away.
        if lost := [file.name for file in tensors if not os.path.isfile(file)]:
            raise LatentmemError(
                f"The model folder {folder} has {lost[0]}, which is no file but a link to one "
                "that is gone: put the weights there again, or take the link away."
            )
        return folder
    if pickled := sorted(
        p.name for ending in ("bin", "pt", "pth") for p in folder.glob(f"*.{ending}")
    ):
        raise LatentmemError(
            f"The folder {folder} has its weights in {pickled[0]}, a pickle, which can run code "
            "and is never loaded: save the model again with save_pretrained, which writes "
            ".safetensors."
        )
    raise LatentmemError(
        f"The folder {folder} is no model: it needs a config.json and at least one .safetensors "
        "file."
    )


def files_fingerprint(folder: Path, say: Progress, known: Mapping[str, str] | None = None) -> str:
    """sha256 over the names and checksums of config.json and every .safetensors file, in order.

    `known`: checksums that were computed a moment ago, by name, so that large files are not read
    twice.
    """
    files = [folder / "config.json", *sorted(folder.glob("*.safetensors"))]
    sizes = [file.stat().st_size for file in files]
    parts: list[str] = []
    for i, file in enumerate(files):
        say(Status(f"Reading {folder.name} for its fingerprint", sum(sizes[:i]), sum(sizes)))
        parts += [file.name, (known or {}).get(file.name) or file_sha256(file)]
    return digest("latentmem folder", *parts)


def local_fingerprint(folder: Path, say: Progress) -> str:
    """`files_fingerprint`, remembered in the cache by path, size and modification time of every
    file."""
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
        with atomic(note) as f:
            f.write(json.dumps({"files": seen, "fingerprint": fingerprint}).encode())
    except OSError as e:  # it is right all the same, only computed again next time
        say(
            Status(
                f"The fingerprint of {folder.name} cannot be remembered ({e.strerror}: "
                f"{e.filename})"
            )
        )
    return fingerprint


def _unreadable(folder: Path, e: OSError) -> LatentmemError:
    return LatentmemError(
        f"The model folder {folder} cannot be read ({e.strerror}: {e.filename}): make it readable."
    )


def publish(name: str, made: Path, label: str, fingerprint: str, facts: dict[str, Any]) -> None:
    """Stamps the made folder and renames it into place, with everything in it safely on the disk."""
    files = {
        str(p.relative_to(made).as_posix()): p.stat().st_size
        for p in sorted(made.rglob("*"))
        if p.is_file() and p != made / STAMP
    }  # which a copy of somebody's cache folder brings along
    for path in files:
        with (made / path).open("rb+") as f:
            os.fsync(f.fileno())
    stamp = {"name": name, "label": label, "fingerprint": fingerprint, "files": files, **facts}
    with atomic(made / STAMP) as f:
        f.write(json.dumps(stamp, indent=1).encode())
    target = model_folder(name)
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():  # damaged or of another version
        old = partial_folder(name) / "old"
        shutil.rmtree(old, ignore_errors=True)
        os.replace(target, old)
    os.replace(made, target)
