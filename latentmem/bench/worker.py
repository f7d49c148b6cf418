"""One side of one row in a process of its own: `python -m latentmem.bench.worker SIDE WORK`.

So each side has its own libraries, threads and memory, and the process that compares them stays small. The worker
prepares its side and then measures once for every line it is sent; it answers each with a line of JSON. Whatever a
library prints goes to standard error.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, MutableMapping
from typing import IO, Any

from ..records import LatentmemError
from .work import PeerMissing, Work


def peak_bytes() -> float:
    """GB (1e9 bytes) that this process has held at most."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e9  # Linux counts in KiB


def main() -> None:
    """The worker's side of the conversation."""
    spec, work = sys.argv[1], Work(**json.loads(sys.argv[2]))
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    if spec.startswith("peers."):
        _as_at_home(os.environ, llama=spec.startswith("peers.llama"))
    serve(spec, work, sys.stdin, answers)


def _as_at_home(environ: MutableMapping[str, str], *, llama: bool) -> None:
    """A peer's threads wait as they would without us, or as a person has set it. llama.cpp meets its threads many times a layer
    and is made for threads that spin, whatever is set for torch."""
    ours = environ.pop("LATENTMEM_WAITS", None)
    for name, gone in (("OMP_WAIT_POLICY", ours or llama), ("GOMP_SPINCOUNT", llama)):
        if gone:
            environ.pop(name, None)


def serve(spec: str, work: Work, questions: IO[str], answers: IO[str]) -> None:
    """Prepare the side, then measure once for every line."""
    from .rows import prepare

    def reply(**message: Any) -> None:
        print(json.dumps(message), file=answers, flush=True)

    try:
        side = prepare(spec)(work)
        reply(note=side.note)
        for _ in questions:
            reply(value=side.run())
    except PeerMissing as e:
        reply(missing=str(e))
    except LatentmemError as e:
        reply(error=str(e))
    except Exception as e:  # whatever a peer raises is told, and decided upon by the process that compares
        import traceback

        traceback.print_exc()
        reply(error=f"{type(e).__name__}: {' '.join(str(e).split())[:300]}")


class Worker:
    """A side as the comparing process sees it. Raises PeerMissing, and LatentmemError for anything that went wrong."""

    def __init__(self, spec: str, work: Work) -> None:
        self.spec = spec
        self._said = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - closed by close()
        self._process = subprocess.Popen([sys.executable, "-m", "latentmem.bench.worker", spec, work.to_json()],
                                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, text=True,
                                         env=_environment())
        try:
            self.note: str = self._answer()["note"]
        except BaseException:
            self.close()
            raise

    def measure(self) -> float:
        """Do the work once; the figure."""
        assert self._process.stdin
        try:
            self._process.stdin.write("run\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended: its last words are read below
        return float(self._answer()["value"])

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._said.seek(0)
            last = (self._said.read().strip().splitlines() or ["nothing was said"])[-1]
            raise LatentmemError(f"Measuring {self.spec} ended with exit code {self._process.returncode}: {last[:300]}.")
        message = json.loads(line)
        if "missing" in message:
            raise PeerMissing(message["missing"])
        if "error" in message:
            raise LatentmemError(f"Measuring {self.spec} failed: {message['error']}")
        return message

    def close(self) -> None:
        """End the process."""
        process = self._process
        for stream in (process.stdin, process.stdout):
            if stream:
                _quietly(stream.close)
        try:
            process.wait(2)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._said.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _quietly(close: Callable[[], None]) -> None:
    try:
        close()
    except BrokenPipeError:
        return  # the other end is gone, which is what closing is for


def _environment() -> dict[str, str]:
    from .startup import environment

    return environment()


if __name__ == "__main__":
    main()
