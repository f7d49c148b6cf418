"""The model hub, through huggingface_hub: whether it answers, what a repository holds, and some of
its files. Data only, code is never fetched.

Files are fetched in a child process (`python -m latentmem.model.weights.hub`): huggingface_hub
resumes what is there, and a cancelled caller ends the child within a second.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ...records import LatentmemError, Status
from .child import MB, Progress, disk_full, last_line, run_module, tree_size

PROBE_SECONDS = 4.0  # a hub that does not answer by then counts as unreachable
# What a model folder consists of: no pickle (.bin, .pt), no code, no other format.
MODEL_FILES = ["*.json", "*.safetensors", "*.jinja", "tokenizer*", "*.model", "*.txt"]
# Code, pickles (also of a tokenizer), and the same weights in other layouts.
LEFT_OUT = [
    *("*.py", "*.bin", "*.pt", "*.pth", "*.pkl", "*.gguf"),
    *("original/*", "onnx/*", "openvino/*", "consolidated*"),
]


class HubError(LatentmemError):
    """The hub could not give what was asked for; another source may."""


def endpoint() -> str:
    """The hub's address: HF_ENDPOINT or the public hub."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def switched_off() -> bool:
    """Whether the user forbids the hub (HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE)."""
    values = (os.environ.get(name, "") for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
    return any(value.strip().upper() in {"1", "ON", "YES", "TRUE"} for value in values)


def why_not() -> str:
    """Why the hub was not asked, to follow 'the model hub'."""
    return "is switched off by HF_HUB_OFFLINE" if switched_off() else "cannot be reached"


def reachable() -> bool:
    """Whether the hub answers, within PROBE_SECONDS."""
    if switched_off():
        return False
    # huggingface_hub's own client sees the same proxy and certificates as the download.
    from huggingface_hub.utils import get_session

    answers: list[bool] = []

    def ask() -> None:
        try:
            answer = get_session().head(endpoint(), timeout=PROBE_SECONDS)
            answers.append(answer.status_code < 500)
        except Exception:  # whatever the HTTP library raises, the meaning is the same
            answers.append(False)

    # A thread, because looking up a name has no time limit of its own.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return bool(answers and answers[0])


def listing(repo: str, revision: str | None) -> tuple[str, dict[str, int]]:
    """The commit that `revision` (default: the main branch) means now, and path -> bytes of the
    files worth fetching.

    Raises HubError: no such repository or revision, licence not accepted, no answer, no
    safetensors.
    """
    from huggingface_hub import HfApi

    try:
        info = HfApi(endpoint=endpoint()).model_info(
            repo, revision=revision, files_metadata=True, timeout=10
        )
    except Exception as e:  # the library's many errors, and those of its HTTP client
        raise _explain(repo, last_line(e)) from e
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    return str(info.sha), {path: sizes[path] for path in choose(repo, sizes)}


def choose(repo: str, paths: Iterable[str]) -> list[str]:
    """The files of a repository that make a model. Raises HubError when it has no safetensors."""
    from huggingface_hub.utils import filter_repo_objects

    paths = list(paths)
    chosen = list(filter_repo_objects(paths, allow_patterns=MODEL_FILES, ignore_patterns=LEFT_OUT))
    weights = [p for p in chosen if p.endswith(".safetensors") and "/" not in p]
    if "config.json" not in chosen or not weights:
        others = {".bin", ".pt", ".pth", ".gguf", ".onnx"}
        has = sorted({Path(p).suffix for p in paths} & others)
        raise HubError(
            f"{repo!r} has no config.json with .safetensors weights (it has "
            f"{', '.join(has) or 'none'}), and pickled weights are never loaded, because they can "
            "run code: choose a repository with safetensors."
        )
    return chosen


def fetch(
    repo: str,
    commit: str,
    files: Sequence[str],
    folder: Path,
    what: str,
    say: Progress,
    *,
    total: int,
    check: bool,
) -> None:
    """The named files of one commit into `folder`, resuming what is there already.

    `total`: expected bytes, for the progress. `check`: compare every file with the hub's checksum;
    a wrong one is removed, so that the next call fetches it again. Raises HubError.
    """
    folder.mkdir(parents=True, exist_ok=True)

    def tick() -> None:
        done = min(tree_size(folder), total)
        text = f"Downloading {what} from the hub: {done // MB:,} of {total // MB:,} MB"
        say(Status(text, done, total))

    job = {"repo": repo, "commit": commit, "files": list(files), "folder": str(folder)}
    env = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_ENDPOINT": endpoint()}
    status, output = run_module("hub", [json.dumps(job | {"check": check})], tick, **env)
    if status == 0:
        return
    if disk_full(output):
        raise OSError(errno.ENOSPC, "No space left on device", str(folder))
    raise _explain(repo, (output.strip().splitlines() or [""])[-1])


def _explain(repo: str, line: str) -> HubError:
    """A sentence for an error of huggingface_hub, as `last_line` writes it."""
    kind, _, message = line.partition(": ")
    if kind == "GatedRepoError":
        return HubError(
            f"The hub gives {repo!r} only to people who accepted its licence: accept it on "
            f"{endpoint()}/{repo} and set HF_TOKEN."
        )
    if kind in ("RepositoryNotFoundError", "HFValidationError"):
        return HubError(
            f"The hub has no model {repo!r}: check the spelling, or set HF_TOKEN if it is private."
        )
    if kind in ("RevisionNotFoundError", "RemoteEntryNotFoundError", "EntryNotFoundError"):
        return HubError(
            f"The hub has {repo!r} but not the revision or file asked for: check the part after "
            "'@'."
        )
    if kind == Damaged.__name__:
        return HubError(
            f"What arrived of {repo!r} is not what the hub ({endpoint()}) lists ({message}); it "
            "was removed: try again, and if it stays so, remove that model from the Hugging Face "
            "cache, too."
        )
    return HubError(
        f"The hub ({endpoint()}) did not deliver {repo!r} ({kind}: {message[:160]}): try again "
        "later."
    )


# ------------------------------------------------------------------ in the child process
class Damaged(Exception):
    """Files that are not what the hub lists: a power failure can cut a file off after
    huggingface_hub noted it as done."""


def _main(job: Mapping[str, Any]) -> None:
    from huggingface_hub import HfApi

    api, folder = HfApi(endpoint=endpoint()), Path(job["folder"])

    def one(path: str) -> None:
        api.hf_hub_download(job["repo"], path, revision=job["commit"], local_dir=folder)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, job["files"]))
    if job["check"]:
        found = api.verify_repo_checksums(job["repo"], revision=job["commit"], local_dir=folder)
        for wrong in found.mismatches:
            (folder / wrong["path"]).unlink()
        if found.mismatches:
            told = "{path} has {algorithm} {actual}, expected {expected}"
            raise Damaged(", ".join(told.format(**wrong) for wrong in found.mismatches[:2]))


if __name__ == "__main__":
    try:
        _main(json.loads(sys.argv[1]))
    except Exception as error:
        sys.exit(last_line(error))
