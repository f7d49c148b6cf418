from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from latentmem.method import sympy_worker
from latentmem.method.answers import same_answer

ROOT = Path(__file__).parents[2]
POSIX = pytest.mark.skipif(os.name != "posix", reason="signals and fork")
FAKE_CHILD = """
import json, os, sys, time
print("ready", flush=True)
for line in sys.stdin:
    pair = json.loads(line)
    for side, text in zip(("left", "right"), pair):
        if "hang" in text: time.sleep(60)
        if "die" in text: os._exit(1)
        print(side, flush=True)
    if "pair" in pair[0] and "pair" in pair[1]: time.sleep(60)
    print("same" if sorted(pair[0]) == sorted(pair[1]) else "different", flush=True)
"""


@pytest.fixture
def pool(monkeypatch):
    """A pool of its own, so that neither suspects nor killed workers reach other tests."""
    monkeypatch.setattr(sympy_worker, "_pool", sympy_worker._Pool())
    yield sympy_worker._pool
    sympy_worker._pool.close()


@pytest.fixture
def fake(pool, monkeypatch, tmp_path):
    """The same pool with children that start at once and do as their input says."""
    (tmp_path / "child.py").write_text(FAKE_CHILD)
    monkeypatch.setattr(sympy_worker, "CHILD", tmp_path / "child.py")
    monkeypatch.setattr(sympy_worker, "WALL_SECONDS", 0.5)
    return pool


def run(script: str, **kwargs) -> subprocess.CompletedProcess:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-"],
        input=textwrap.dedent(script),
        env=env,
        text=True,
        timeout=50,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        **kwargs,
    )


def test_a_hanging_answer_is_given_up_and_the_next_is_compared(pool, monkeypatch):
    monkeypatch.setattr(sympy_worker, "CPU_SECONDS", 0.6)
    start = time.perf_counter()
    tower = r"\dfrac{5^{5^{5^{5^5}}-4}-5}{16}"
    assert not same_answer(tower, "17") and not same_answer(tower, "18")
    assert time.perf_counter() - start < 30  # 2 s on an idle machine
    assert len(pool.suspects) == 1
    assert same_answer("x+17", "17+x")


def test_hanging_input_from_eight_threads_is_bounded_and_the_pool_survives(fake):
    """A hostile string costs its time once for each worker, whatever it is compared with."""
    pairs = [
        ("ab", "ba"),
        ("hang", "b"),
        ("hang", "c"),
        ("d", "hang"),
        ("die", "e"),
        ("f", "die"),
        ("abc", "cab"),
        ("g", "h"),
    ] * 4
    found: list[object] = [None] * len(pairs)

    def compare(first: int) -> None:
        for i in range(first, len(pairs), 8):
            try:
                found[i] = same_answer(*pairs[i]) if i % 2 else sympy_worker.compare(*pairs[i])
            except BaseException as e:
                found[i] = e

    threads = [threading.Thread(target=compare, args=(i,)) for i in range(8)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.perf_counter() - start < 20  # 0.7 s on an idle machine
    assert found == [True, False, False, False, False, False, True, False] * 4
    assert set(fake.suspects) == {"hang", "die"} and not fake.busy
    assert len(fake.idle) <= sympy_worker.WORKERS


def test_the_string_that_hangs_is_blamed_and_a_hanging_pair_blames_neither(fake):
    assert not sympy_worker.compare("good", "hang")
    assert not sympy_worker.compare("pair1", "pair2")
    assert list(fake.suspects) == ["hang"]
    assert sympy_worker.compare("good", "doog") and sympy_worker.compare("pair1", "1") is False


def test_a_suspect_is_not_tried_again(fake):
    fake.suspects["ab"] = None
    assert not sympy_worker.compare("ab", "ba") and not fake.idle and not fake.busy


@POSIX
def test_a_stopped_or_killed_worker_is_replaced(fake):
    assert sympy_worker.compare("ab", "ba")
    worker = fake.idle[0]
    worker.process.kill()  # e.g. by the kernel, when memory ran out
    worker.process.wait()
    assert sympy_worker.compare("cd", "dc")
    worker = fake.idle[0]
    os.kill(worker.process.pid, signal.SIGSTOP)  # uses no processor time: only the clock can tell
    assert not sympy_worker.compare("ef", "fe")
    assert worker.process.poll() is not None and not fake.idle
    assert sympy_worker.compare("gh", "hg")


def test_a_worker_is_replaced_before_it_grows_old(fake, monkeypatch):
    monkeypatch.setattr(sympy_worker, "PAIRS", 2)
    assert sympy_worker.compare("ab", "ba") and len(fake.idle) == 1
    assert sympy_worker.compare("ab", "ba") and not fake.idle


def test_an_interrupted_comparison_leaves_no_answer_to_the_next(fake, monkeypatch):
    def interrupt(worker):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sympy_worker._Worker, "line", interrupt)
        with pytest.raises(KeyboardInterrupt):
            sympy_worker.compare("ab", "ba")
    assert not fake.idle and not fake.busy and not sympy_worker.compare("ab", "cd")


def test_a_worker_that_cannot_start_is_not_tried_all_the_time(pool, monkeypatch):
    monkeypatch.setattr(sympy_worker.sys, "executable", str(ROOT / "no-such-python"))
    for _ in range(2):
        with pytest.raises(sympy_worker.Unavailable):
            sympy_worker.compare("x+1", "1+x")
    assert pool.retry_at > time.monotonic()
    assert not same_answer("x+41", "41+x")


def test_a_script_without_a_main_guard_starts_no_copies_of_itself_and_leaves_nothing_behind():
    done = run("""
        print("script runs", flush=True)
        import os, sys
        from latentmem.method import sympy_worker
        from latentmem.method.answers import same_answer, warm_up
        warm_up()
        print("sympy" in sys.modules, same_answer("x+1", "1+x"))
        pid = sympy_worker._pool.idle[0].process.pid
        if hasattr(os, "fork"):  # a forked child must not write into its parent's pipes
            child = os.fork()
            if child == 0:
                os._exit(0 if not sympy_worker._pool.idle and same_answer("x+2", "2+x") else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert same_answer("x+3", "3+x") and sympy_worker._pool.idle[0].process.pid == pid
        print(pid)
        """)
    assert done.returncode == 0, done.stdout
    *said, pid = done.stdout.split()
    assert said == ["script", "runs", "False", "True"]
    if os.name == "posix":
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)
