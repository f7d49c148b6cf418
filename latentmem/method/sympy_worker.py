"""Symbolic comparison by math-verify, in a process of its own. Both ends of the pipe are in this
file.

Why a process: math-verify's own timeouts use SIGALRM, which only the main thread may set, and
without them an answer such as `10^{10^{10}}` computes forever. A process can be killed. Why not a
multiprocessing pool: its spawned children import the caller's `__main__` again (a whole gradio app,
or an unguarded script without end). So this file is run as a script, which imports math-verify and
nothing else.

Protocol, one line each. Parent: a JSON pair of strings. Child: "ready" once after its imports; then
per pair "left" and "right" as soon as that string alone has proved harmless, and last "same" or
"different". If the child dies on the way, the lines that did arrive tell which of the two strings
was to blame.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

CPU_SECONDS = (
    2.0  # of processor time per pair, so that a busy machine does not change a verdict (POSIX)
)
# per pair, the limit where processor time cannot be limited, and for a child that is stopped
WALL_SECONDS = 8.0
START_SECONDS = 60.0  # importing sympy takes 1 s, but may take far longer from a cold disk
RETRY_SECONDS = 30.0  # after a child failed to start, nobody tries again for this long
MEMORY_BYTES = 2 << 30  # address space of a child
PAIRS = 5000  # a child is replaced after so many pairs, whatever sympy's caches have grown to
WORKERS = 2  # so that one hostile visitor does not stop the others
CHILD = Path(__file__).resolve()
SUSPECTS = 1024  # strings remembered as harmful
RELATION = re.compile(r"[<>]|\\(?:le|ge|ne)(?![A-Za-z])")


class Unavailable(Exception):
    """No child process could be started, so nothing is known about the pair."""


class _Worker:
    """One child process. Used by one thread at a time."""

    def __init__(self) -> None:
        self.pairs = 0
        self.ready = False
        self.process = subprocess.Popen(
            # -P: keep this folder off the child's sys.path, where our module names could shadow
            # others
            [sys.executable, "-P", str(CHILD), str(CPU_SECONDS), str(WALL_SECONDS)],
            text=True,
            encoding="ascii",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )

    @contextmanager
    def patience(self, seconds: float) -> Iterator[None]:
        """Kill the child if the body takes longer; its reader then reads the end of the pipe."""
        timer = threading.Timer(seconds, self.process.kill)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def line(self) -> str:
        return self.process.stdout.readline().strip()

    def compare(self, left: str, right: str) -> tuple[str, ...]:
        """The child's lines: 3 when all went well, fewer when it died. Raises Unavailable."""
        try:
            if not self.ready:
                with self.patience(START_SECONDS):
                    self.ready = self.line() == "ready"
                if not self.ready:
                    raise Unavailable
            self.pairs += 1
            with self.patience(WALL_SECONDS):
                self.process.stdin.write(json.dumps([left, right]) + "\n")
                self.process.stdin.flush()
                lines: list[str] = []
                while len(lines) < 3 and (line := self.line()):
                    lines.append(line)
            return tuple(lines)
        # it died between two pairs, or no thread can be started: nobody is to blame
        except (OSError, RuntimeError):
            raise Unavailable from None

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        try:
            self.process.stdin.close()
        except OSError:  # flushes what the dead child never read
            return


class _Pool:
    """At most WORKERS children, started when needed, remade when lost; for any thread."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.slots = threading.BoundedSemaphore(WORKERS)
        self.idle: list[_Worker] = []
        self.busy: set[_Worker] = set()
        self.suspects: OrderedDict[str, None] = OrderedDict()
        self.retry_at = 0.0

    def take(self) -> _Worker:
        with self.lock:
            while self.idle:
                worker = self.idle.pop()
                if worker.process.poll() is None:
                    break
                worker.stop()
            else:
                if time.monotonic() < self.retry_at:
                    raise Unavailable
                try:
                    worker = _Worker()
                # out of processes or memory, or no interpreter in sys.executable
                except (OSError, ValueError):
                    self.retry_at = time.monotonic() + RETRY_SECONDS
                    raise Unavailable from None
            self.busy.add(worker)
            return worker

    def give(self, worker: _Worker, healthy: bool) -> None:
        with self.lock:
            self.busy.discard(worker)
            if healthy and worker.pairs < PAIRS:
                self.idle.append(worker)
                return
        worker.stop()

    def compare(self, left: str, right: str) -> bool:
        with self.slots:
            with self.lock:
                if left in self.suspects or right in self.suspects:
                    return False
            worker, lines = self.take(), ()
            try:
                lines = worker.compare(left, right)
            except Unavailable:
                if not worker.ready:
                    self.retry_at = time.monotonic() + RETRY_SECONDS
                raise
            # also on KeyboardInterrupt, after which the child would answer the wrong question
            finally:
                self.give(worker, healthy=len(lines) == 3)
            if len(lines) < 2:  # a string that hangs alone hangs with every partner: once is enough
                with self.lock:
                    self.suspects[(left, right)[len(lines)]] = None
                    while len(self.suspects) > SUSPECTS:
                        self.suspects.popitem(last=False)
            return lines[2:] == ("same",)

    def close(self) -> None:
        with self.lock:
            workers = [*self.idle, *self.busy]
            self.idle.clear()
        for worker in workers:
            worker.process.kill()  # a thread that still waits for it reads the end of the pipe
            with suppress(subprocess.TimeoutExpired):
                worker.process.wait(1.0)


_pool = _Pool()


def _forget() -> None:
    """In a forked child: the workers belong to the parent, whose pipes must not be shared."""
    global _pool
    _pool = _Pool()


atexit.register(lambda: _pool.close())
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def compare(left: str, right: str) -> bool:
    """Are the two LaTeX strings the same by math-verify, in either direction? Bounded in time, from
    any thread.

    False also when a comparison takes too long, too much memory, or kills the child. Raises
    Unavailable if no child process can be started.
    """
    return _pool.compare(left, right)


def stands_for(gap: Any, size: Any, places: Iterable[int]) -> bool:
    """May a decimal with so many places behind the point stand for what it rounds or cuts off?

    With six places or more, of which four are more than leading zeros: 0.008333 is 1/120, 0.333 is
    not 1/3. `gap` is how far the two numbers are apart, `size` the larger one.
    """
    unit = min((10**p for p in places if p >= 6), default=0)
    return bool(unit and gap * unit < 1 and size * unit >= 1000)


def warm_up() -> None:
    """Start a child in the background: the first comparison need not wait for sympy."""
    if not _pool.idle and not _pool.busy and _pool.slots.acquire(blocking=False):
        try:
            _pool.give(_pool.take(), healthy=True)
        except Unavailable:
            return  # the first comparison will say so
        finally:
            _pool.slots.release()


# From here on: the child.


def _limit_process() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C is for the parent
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    except (ImportError, ValueError, OSError):
        return  # Windows has no such limit, and macOS may refuse it; the time limits remain


def _limit_pair(cpu: float, wall: float) -> None:
    """A pair that takes too long ends the process, even without its parent. 0: no limit."""
    import faulthandler

    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, cpu)  # SIGPROF ends the process by default
    if wall:
        faulthandler.dump_traceback_later(wall + 2.0, exit=True)
    else:
        faulthandler.cancel_dump_traceback_later()


def _equal(left: Any, right: Any, *rounding: int) -> bool:
    """Are two expressions or matrices equal? What math-verify asks of two values, without its
    tolerances.

    It takes what is below 1e-15 for zero wherever it stands, so that all fractions with a
    denominator beyond that are one.
    """
    from math_verify.grader import get_pct_val
    from sympy import Expr, MatrixBase, simplify

    if isinstance(left, MatrixBase) and isinstance(right, MatrixBase):
        return left.shape == right.shape and all(map(_equal, left.flat(), right.flat()))
    if not isinstance(left, Expr) or not isinstance(right, Expr):
        return False
    if not (left.is_number and right.is_number):
        return bool(simplify(_exact(left) - _exact(right)).is_zero)
    a, b = get_pct_val(left), get_pct_val(right)
    if a is not None and b is not None:
        return _equal_numbers(a, b)
    pairs = ((left, right), (a, right), (left, b))
    return any(_equal_numbers(x, y) for x, y in pairs if x is not None and y is not None)


def _exact(expression: Any) -> Any:
    """The expression with the decimals as the fractions that they were written as."""
    from sympy import Float, Rational

    return expression.xreplace({f: Rational(str(f)) for f in expression.atoms(Float)})


def _equal_numbers(left: Any, right: Any) -> bool:
    """Rationals are compared exactly, others to 50 digits; a decimal stands for what it rounds."""
    from sympy import Float, I, simplify

    x, y = (_exact(side).doit() for side in (left, right))
    if not (x.is_real and y.is_real) and (x.has(I) or y.has(I)):
        return all(map(_equal_numbers, left.as_real_imag(), right.as_real_imag()))
    rational = x.is_Rational and y.is_Rational
    if not rational:
        x, y = x.evalf(50), y.evalf(50)
    gap, size = abs(x - y), max(abs(x), abs(y))
    if gap == 0 or (not rational and gap < 1e-40 * size):
        return True
    if not rational and (gap < 1e-12 * size or size < 1e-40):  # digits were lost on the way
        return bool(simplify(_exact(left) - _exact(right)).is_zero)
    decimals = [str(side) for side in (left, right) if isinstance(side, Float)]
    return stands_for(gap, size, [len(d.rstrip("0").partition(".")[2]) for d in decimals])


_BUILDER = re.compile(r"\\?\{ *([A-Za-z]) *(?:\\in((?:(?!\\\}).)+?))?[|:]((?:(?!\\\}).)+)\\?\}")


def _solutions(text: str) -> Any:
    r"""The set that conditions on one variable describe; None for any other text.

    As in `x<2\lor x>5` or `\{x|-3<x<4\}`. A comma between two conditions means "and", unless
    nothing fulfils both.
    """
    from sympy import Intersection, Union

    variables: set[str] = set()

    def solved(part: str) -> Any:
        if builder := _BUILDER.fullmatch(part):
            return Intersection(solved(builder[3]), *_parsed(builder[2] or r"\mathbb{R}"))
        for signs, join in ((r"lor|cup", Union), (r"land|cap", Intersection)):
            if len(parts := re.split(rf"\\(?:{signs})(?![A-Za-z])", part)) > 1:
                return join(*map(solved, parts))
        if "," in part and RELATION.search(part):
            parts = [solved(one) for one in part.split(",")]
            both = Intersection(*parts)
            return Union(*parts) if both.is_empty else both
        (one,) = _parsed(part)
        variables.update(s.name for s in one.free_symbols)
        return one.as_set() if hasattr(one, "as_set") else one

    if not RELATION.search(text):
        return None
    try:
        found = solved(text)
    except Exception:  # more than one variable, or nothing that sympy can solve
        return None
    return found if len(variables) == 1 else None


def _parsed(text: str) -> list:
    """The expression in the text as math-verify reads it, a list of at most one."""
    from math_verify import LatexExtractionConfig, parse
    from sympy import I

    # No fallback and LaTeX only: else it picks any number out of a string that it cannot parse.
    latex = [LatexExtractionConfig()]
    found = parse(f"${text}$", latex, fallback_mode="no_fallback", parsing_timeout=None)
    for i, one in enumerate(found):
        named = {s: I for s in getattr(one, "free_symbols", ()) if s.name == "i"}
        with suppress(Exception):  # to math-verify the imaginary unit is a variable
            found[i] = one.xreplace(named) if named else one
    return found


def _read(text: str) -> tuple[list, bool]:
    """The expression in the text, for `verify`, and whether it is a set given by conditions."""
    solutions = _solutions(text)
    listed = re.sub(r"\\(?:lor|land)(?![A-Za-z])", ",", text)
    found = _parsed(listed) if solutions is None else [solutions]
    for expression in found:
        with suppress(Exception):  # what hangs or bursts even here is to blame alone
            expression.doit().evalf()
    return found, solutions is not None


def _same(left: tuple[list, bool], right: tuple[list, bool]) -> bool:
    from math_verify import verify
    from sympy import FiniteSet

    if left[1] != right[1] and any(isinstance(one, FiniteSet) for one in (*left[0], *right[0])):
        # to math-verify the set {2, 5} could be the pair or interval (2, 5)
        return bool(left[0][0].symmetric_difference(right[0][0]).is_empty)
    both = ((left[0], right[0]), (right[0], left[0]))
    return any(verify(gold, answer, timeout_seconds=None) for gold, answer in both)


def _adapt() -> None:
    """Have math-verify compare values by `_equal` wherever it does, and read degrees as such."""
    from math_verify import grader, parser

    grader.sympy_numeric_eq, grader.sympy_symbolic_eq = _equal, lambda left, right: False
    solve, latex2sympy = grader.solve, parser.latex2sympy
    # else all equations without a solution would be the same
    grader.solve = lambda *equation: solve(*equation) or 1 / 0
    parser.latex2sympy = lambda text, **how: latex2sympy(text, **how | {"convert_degrees": True})


def _serve(cpu: float, wall: float) -> None:
    _limit_process()
    say, sys.stdout = sys.stdout, sys.stderr  # a library that prints must not disturb the protocol

    def tell(line: str) -> None:
        say.write(line + "\n")
        say.flush()

    _adapt()
    _same(_read(r"\frac{x+1}{2}"), _read(r"\frac{x}{2}+0.5"))  # first use is ten times slower
    tell("ready")
    for line in sys.stdin:
        _limit_pair(cpu, wall)
        sides = []
        for side, text in zip(("left", "right"), json.loads(line), strict=True):
            try:
                sides.append(_read(text))
            except Exception:
                sides.append(([], False))
            tell(side)
        try:
            verdict = "same" if _same(*sides) else "different"
        except Exception:
            verdict = "different"
        _limit_pair(0.0, 0.0)
        tell(verdict)


if __name__ == "__main__":
    _serve(*map(float, sys.argv[1:]))
