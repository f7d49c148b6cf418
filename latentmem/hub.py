"""The model hub: is it there, what does a repository hold, fetch some of its files. Data only, code is never fetched.

The download runs in a child process (`python -m latentmem.hub`), so that it can be watched and stopped.
"""

from __future__ import annotations

import glob
import json
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from .downloads import MB, Progress, child_env, file_sha256, run_watched, tree_size
from .records import LatentmemError, Status

PROBE_SECONDS = 4.0  # a hub that does not answer by then counts as unreachable
# What a model folder consists of. Pickle (.bin, .pt), code (.py) and other formats are not on the list.
MODEL_FILES = ("*.json", "*.safetensors", "*.jinja", "tokenizer*", "*.model", "*.txt")
# The same weights in other layouts.
COPIES = ("original/*", "onnx/*", "openvino/*", "consolidated*")

_reached: bool | None = None  # what the probe found; None: not probed in this process
_failed: float | None = None  # when it found nothing
AGAIN = 30.0  # seconds after which a hub that did not answer is asked again


class HubError(LatentmemError):
    """The hub could not give what was asked for; another source may."""


@dataclass(frozen=True, slots=True)
class Listed:
    """What the hub says of a file: its bytes, and the sha256 that it keeps of large files. None where it says nothing."""

    bytes: int | None
    sha256: str | None = None


def endpoint() -> str:
    """The hub's address: HF_ENDPOINT or the public hub."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def switched_off() -> bool:
    """Whether the user forbids the hub (HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE)."""
    values = (os.environ.get(name, "") for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
    return any(value.strip().upper() in {"1", "ON", "YES", "TRUE"} for value in values)


def why_not() -> str:
    """Why the hub was not asked, to put behind 'the model hub'."""
    return "is switched off by HF_HUB_OFFLINE" if switched_off() else "cannot be reached"


def reachable(say: Progress) -> bool:
    """Whether the hub answers, within 5 seconds. A yes holds for the process, a no for AGAIN seconds, and it
    is said each time it is found."""
    global _reached, _failed
    if switched_off():
        return False
    if _reached is None or (not _reached and _failed is not None and time.monotonic() - _failed > AGAIN):
        _reached = _probe(endpoint())
        if not _reached:
            _failed = time.monotonic()
            say(Status(f"The model hub ({endpoint()}) cannot be reached: taking the package index instead"))
    return _reached


def _probe(address: str) -> bool:
    # huggingface_hub's own client, so that the probe sees the same proxy and certificates as the download.
    from huggingface_hub.utils import get_session

    answers: list[bool] = []

    def ask() -> None:
        try:
            answers.append(get_session().head(address, timeout=PROBE_SECONDS).status_code < 500)
        except Exception:  # whatever the HTTP library raises, the meaning is the same
            answers.append(False)

    # A thread, because looking up a name has no time limit of its own.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return bool(answers and answers[0])


def listing(repo: str, revision: str | None) -> tuple[str, dict[str, Listed]]:
    """The commit that `revision` (default: the main branch) means now, and what the repository's files must be.

    Raises HubError: no such repository or revision, licence not accepted, no answer.
    """
    from huggingface_hub import HfApi

    try:
        info = HfApi(endpoint=endpoint()).model_info(repo, revision=revision, files_metadata=True, timeout=10)
    except Exception as e:  # the library's many errors, and those of its HTTP client
        raise _explain(repo, type(e).__name__, str(e)) from e
    return info.sha, {f.rfilename: Listed(f.lfs.size, f.lfs.sha256) if f.lfs else Listed(f.size) for f in info.siblings or ()}


def choose(repo: str, files: Mapping[str, Listed]) -> dict[str, Listed]:
    """The files of a repository worth fetching. Raises HubError when it has no safetensors."""

    def matches(path: str, patterns: Sequence[str]) -> bool:
        return any(fnmatchcase(path, pattern) for pattern in patterns)

    wanted = {p: n for p, n in files.items() if matches(p, MODEL_FILES) and not matches(p, (*COPIES, "*.py"))}
    if "config.json" not in wanted or not any(p.endswith(".safetensors") and "/" not in p for p in wanted):
        has = sorted({Path(p).suffix for p in files if Path(p).suffix in {".bin", ".pt", ".pth", ".gguf", ".onnx"}})
        raise HubError(f"{repo!r} has no config.json with .safetensors weights (it has {', '.join(has) or 'none'}), "
                       "and pickled weights are never loaded, because they can run code: choose a repository with "
                       "safetensors.")
    return wanted


def fetch(repo: str, commit: str, folder: Path, files: Sequence[str], total: int, what: str, say: Progress) -> None:
    """The named files of one commit into `folder`, resuming what is there already. Raises HubError, also when one is missing.

    `total`: expected bytes, for the progress only.
    """
    folder.mkdir(parents=True, exist_ok=True)
    named = [glob.escape(path) for path in files]  # the names are no patterns, whatever signs are in them
    job = {"repo_id": repo, "revision": commit, "local_dir": str(folder), "allow_patterns": named}

    def tick() -> None:
        done = min(tree_size(folder), total)
        say(Status(f"Downloading {what} from the hub: {done // MB:,} of {total // MB:,} MB", done, total))

    env = child_env(HF_HUB_DISABLE_PROGRESS_BARS="1", HF_ENDPOINT=endpoint())
    status, output = run_watched([sys.executable, "-m", "latentmem.hub", json.dumps(job)], env, tick)
    if status == 0:
        # Where its own listing fails, snapshot_download takes whatever is in the folder for the whole, and succeeds.
        if missing := [path for path in files if not (folder / path).is_file()]:
            raise HubError(f"The hub ({endpoint()}) delivered {repo!r} only in part, without {_some(missing)}: try again, and "
                           "it goes on from there.")
        return
    last = output.strip().splitlines()[-1] if output.strip() else ""
    kind, _, message = last.partition(": ")
    if "No space left on device" in output:
        raise OSError(28, "No space left on device", str(folder))
    raise _explain(repo, kind, message)


def check(repo: str, folder: Path, wanted: Mapping[str, Listed], what: str, say: Progress) -> dict[str, str]:
    """Hold what was fetched against what the hub listed. Returns the checksums that this took, by path.

    A file can have been cut off by a power failure after the hub's client noted it as done, and that client would use it
    for ever. So wrong files are removed and the next call fetches them again. Raises HubError naming them.
    """
    wrong: dict[str, str] = {}
    sums: dict[str, str] = {}
    for path, listed in wanted.items():
        say(Status(f"Checking {what}: {path}"))
        size = (folder / path).stat().st_size
        if listed.bytes is not None and size != listed.bytes:
            wrong[path] = f"{path} has {size:,} bytes, expected {listed.bytes:,}"
        elif listed.sha256 is not None:
            sums[path] = file_sha256(folder / path)
            if sums[path] != listed.sha256:
                wrong[path] = f"{path} has sha256 {sums[path]}, expected {listed.sha256}"
    for path in wrong:
        (folder / path).unlink()
    if wrong:
        faults = _some(list(wrong.values()))
        raise HubError(f"What arrived of {repo!r} is not what the hub ({endpoint()}) lists ({faults}); it was removed: try "
                       "again, and if it stays so, remove that model from the Hugging Face cache, too.")
    return sums


def _some(items: Sequence[str]) -> str:
    return ", ".join(items[:2]) + (f" and {len(items) - 2} more" if len(items) > 2 else "")


def _explain(repo: str, kind: str, message: str) -> HubError:
    if kind == "GatedRepoError":
        return HubError(f"The hub gives {repo!r} only to people who accepted its licence: accept it on "
                        f"{endpoint()}/{repo} and set HF_TOKEN.")
    if kind in ("RepositoryNotFoundError", "HFValidationError"):
        return HubError(f"The hub has no model {repo!r}: check the spelling, or set HF_TOKEN if it is private.")
    if kind in ("RevisionNotFoundError", "RemoteEntryNotFoundError", "EntryNotFoundError"):
        return HubError(f"The hub has {repo!r} but not the revision or file asked for: check the part after '@'.")
    return HubError(f"The hub ({endpoint()}) did not deliver {repo!r} ({kind}: {message[:160]}): try again later.")


def _main(arguments: Mapping[str, object]) -> None:
    from huggingface_hub import snapshot_download

    snapshot_download(**arguments)


if __name__ == "__main__":
    try:
        _main(json.loads(sys.argv[1]))
    except Exception as error:  # the parent turns the last line into a sentence
        sys.exit(f"{type(error).__name__}: {' '.join(str(error).split())}")
