"""Facts about this installation: versions, machine, settings, weights, bank. Prints nothing.

Nothing here imports torch, and a broken part becomes a sentence among the problems: people call the
doctor when something is broken.
"""

from __future__ import annotations

import os
import platform
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from .. import __version__
from ..bank.schema import NotUpToDate
from ..records import LatentmemError
from ..settings import WHY, Settings

PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "sentence-transformers",
    "safetensors",
    "gguf",
    "huggingface_hub",
    "math-verify",
    "numpy",
    "scikit-learn",
    "gradio",
    "plotly",
    "pydantic",
    "pydantic-settings",
    "typer",
    "rich",
)
MISSING = "not installed"
# they decide the arithmetic
INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimd", "bf16")
ROOM = 4 * 2**30  # bytes: the default weights as a download and as bf16, with room to work


@dataclass(frozen=True)
class Report:
    """`sections`: title -> name -> value, in plain JSON values. `problems`: a sentence for each
    thing to mend."""

    sections: dict[str, dict[str, Any]]
    problems: tuple[str, ...]


def examine(overrides: dict[str, Any] | None = None) -> Report:
    """Everything worth knowing about this installation, with `overrides` of the settings. Never
    raises for a broken part."""
    problems: list[str] = []
    sections = {"versions": versions(problems), "machine": machine(problems)}
    try:
        settings = Settings(**(overrides or {}))
    except LatentmemError as e:
        problems.append(str(e))
    else:
        sections["settings"] = settings.model_dump(mode="json")
        sections["why these defaults"] = dict(WHY)
        sections["weights"] = weights(settings, problems)
        sections["bank"] = bank(settings.bank, problems)
    return Report(sections, tuple(problems))


def versions(problems: list[str]) -> dict[str, Any]:
    """Versions from the packages' metadata, without importing them."""
    found: dict[str, Any] = {
        "latentmem": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "sqlite": sqlite3.sqlite_version,
    }
    there = installed(PACKAGES)
    problems += [
        f"The package {name} is missing: run pip install -r requirements.txt."
        for name, version in there.items()
        if version == MISSING
    ]
    return found | there


def installed(names: Iterable[str]) -> dict[str, str]:
    """Name -> version of packages."""
    found = dict.fromkeys(names, MISSING)
    for name in found:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def machine(problems: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {"processor": _processor(), "cores": os.cpu_count()}
    found["instructions"] = " ".join(_instructions()) or "unknown"
    try:
        import psutil
    except ImportError:
        problems.append("The package psutil is missing: run pip install -r requirements.txt.")
    else:
        memory = psutil.virtual_memory()
        found |= {"memory": size(memory.total), "memory free": size(memory.available)}
    gpus = _gpus()
    found["accelerators"] = ", ".join(gpus) or "none"
    return found | {"device auto": _device(gpus)}


def _device(gpus: list[str]) -> str:
    """Where `device = auto` will compute, without asking torch, which decides when it loads."""
    try:
        build = metadata.version("torch")
    except metadata.PackageNotFoundError:
        return "unknown, torch is missing"
    if gpus and "+cpu" not in build:
        return "cuda"
    if gpus:
        return f"cpu: there is a GPU, but torch {build} is a build without CUDA"
    return "mps" if sys.platform == "darwin" and platform.machine() == "arm64" else "cpu"


def _gpus() -> list[str]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    query = [tool, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]


def _cpuinfo() -> Iterator[tuple[str, str]]:
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:  # not Linux
        return
    for line in text.splitlines():
        name, _, value = line.partition(":")
        yield name.strip(), value.strip()


def _processor() -> str:
    named = (value for name, value in _cpuinfo() if name == "model name")
    return next(named, platform.processor() or platform.machine())


def _instructions() -> list[str]:
    flags = next((value.split() for name, value in _cpuinfo() if name in ("flags", "Features")), [])
    return [name for name in INSTRUCTIONS if name in flags]


def weights(settings: Settings, problems: list[str]) -> dict[str, Any]:
    """Which weights are in the cache, and whether the settings' weights would fit."""
    try:
        from ..model.weights import resolve as store

        folder = store.cache_dir()
        free = _free(folder)
        found: dict[str, Any] = {"cache": str(folder), "free": size(free)}
        for name in dict.fromkeys((*store.MODELS, settings.model, settings.embedder)):
            found[name] = _state(store.describe(name))
        if not store.present(settings.model) and free < ROOM:
            problems.append(
                f"Only {size(free)} are free in {folder}: set LATENTMEM_CACHE to another disk."
            )
    except (LatentmemError, ImportError, OSError) as e:
        problems.append(
            str(e) if isinstance(e, LatentmemError) else f"The weights could not be examined ({e})."
        )
        return {}
    return found


def _state(facts: dict[str, Any]) -> str:
    """One model in words."""
    if facts["present"]:
        return f"present, {size(facts.get('bytes', 0))} in {facts.get('path', '')}"
    to_fetch = facts.get("download_bytes")
    return f"not here; {size(to_fetch)} to download" if to_fetch else "not here"


def bank(path: Path, problems: list[str]) -> dict[str, Any]:
    """The state of the bank's file. Reads and checks it; never makes or changes it."""
    found: dict[str, Any] = {"file": str(path)}
    state = "damaged"
    try:
        if not path.exists():
            return found | {
                "state": "not made yet; the first memory makes it",
                "free": size(_free(path.parent)),
            }
        from ..bank import Bank

        with Bank(path, read_only=True) as store:
            found |= {
                name: value
                for name, value in store.stats().items()
                if name not in ("path", "read_only", "used")
            }
            wrong = store.verify().problems
    except LatentmemError as e:
        wrong, state = [str(e)], e.state if isinstance(e, NotUpToDate) else state
    except (ImportError, sqlite3.Error, OSError) as e:  # a broken installation or disk
        wrong = [
            f"The bank {path} could not be examined ({e}): mend the installation and try again."
        ]
    problems.extend(wrong)
    return found | {"state": state if wrong else "whole", "free": size(_free(path.parent))}


def size(n: int) -> str:
    """Bytes for reading: 1.3 GB."""
    value, unit = float(n), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if unit == "bytes" or value >= 100 else f"{value:.1f} {unit}"


def _free(folder: Path) -> int:
    """Bytes free on the disk that holds `folder`, or will hold it."""
    # os.path.exists, since Path.exists raises for a folder without permission
    there = next(p for p in (folder, *folder.parents) if os.path.exists(p))
    return shutil.disk_usage(there).free
