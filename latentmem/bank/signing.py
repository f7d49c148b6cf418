"""Who wrote an archive: a signature with an SSH key over the manifest, which holds a checksum of
every member. Optional. It stands in the zip's comment, where an older latentmem does not look, and
OpenSSH's `ssh-keygen` makes and checks it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from ..records import LatentmemError

NAMESPACE = "latentmem"  # a signature made for something else does not count
BEGIN = b"-----BEGIN SSH SIGNATURE-----"
GOOD = re.compile(r"Good \"latentmem\" signature with (\S+) key (SHA256:\S+)")
SECONDS = 10  # for a check


def sign(manifest: bytes, key: Path) -> bytes:
    """A signature with the private key in a file. Raises LatentmemError."""
    if not key.is_file():
        raise LatentmemError(
            f"There is no key at {key}: make one with `ssh-keygen -t ed25519 -f {key}`."
        )
    done = _run(["-Y", "sign", "-n", NAMESPACE, "-f", str(key)], manifest, None)
    if done is None:
        raise LatentmemError("ssh-keygen is missing, so nothing was signed: install OpenSSH.")
    if done.returncode:
        raise LatentmemError(
            f"The key {key} does not sign ({_last(done.stderr)}): give an SSH private key."
        )
    return done.stdout


def author(manifest: bytes, comment: bytes) -> str:
    """The kind and the fingerprint of the key that signed, as `ssh-keygen -l` shows it; "" if there
    is no signature. Raises LatentmemError for a wrong one."""
    if not comment.startswith(BEGIN):
        return ""
    with TemporaryDirectory() as folder:
        signature = Path(folder) / "signature"
        signature.write_bytes(comment)
        done = _run(
            ["-Y", "check-novalidate", "-n", NAMESPACE, "-s", str(signature)], manifest, SECONDS
        )
    if done is None:
        return "a key that was not checked, because ssh-keygen is missing here"
    good = GOOD.search(done.stdout.decode(errors="replace"))
    if done.returncode or not good:
        raise LatentmemError(
            f"The archive's signature is wrong ({_last(done.stderr + done.stdout)}): it was "
            "changed after it was signed, so fetch it again."
        )
    return f"the {good[1]} key {good[2]}"


def _run(
    options: list[str], data: bytes, seconds: float | None
) -> subprocess.CompletedProcess[bytes] | None:
    """ssh-keygen with these bytes as its input; None where it is missing."""
    try:
        return subprocess.run(
            ["ssh-keygen", *options], input=data, capture_output=True, timeout=seconds
        )
    except FileNotFoundError:
        return None
    except subprocess.TimeoutExpired:
        raise LatentmemError("The archive's signature takes too long to check.") from None


def _last(output: bytes) -> str:
    lines = output.decode(errors="replace").split("\n")
    return next((line.strip()[:120] for line in reversed(lines) if line.strip()), "no reason given")
