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

from latentmem import math_worker
from latentmem.answers import same_answer

ROOT = Path(__file__).parent.parent
POSIX = pytest.mark.skipif(os.name != "posix", reason="signals and fork")


@pytest.fixture
def pool(monkeypatch):
    """A pool of its own, so that neither suspects nor killed workers reach other tests."""
    pool = math_worker._Pool()
    monkeypatch.setattr(math_worker, "_pool", pool)
    yield pool
    pool.close()


def run(script: str, **kwargs) -> subprocess.CompletedProcess:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-"], input=textwrap.dedent(script), env=env, text=True, timeout=50,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **kwargs)


def test_hanging_input_from_eight_threads_is_bounded_and_the_pool_survives(pool, monkeypatch):
    """Each hostile string costs its share of processor time once, whatever it is compared with."""
    monkeypatch.setattr(math_worker, "CPU_SECONDS", 0.6)
    hostile = "10^{10^{10}}"
    pairs = [(hostile, "5"), ("x+2", "2+x"), (hostile, "6"), ("7", hostile), (r"\sqrt{12}", r"2\sqrt{3}"), (hostile, "x"),
             ("y", hostile), ("(1,2)", "(2,1)")]
    expected = [False, True, False, False, True, False, False, False]
    found: list[object] = [None] * len(pairs)

    def compare(i: int) -> None:
        try:
            found[i] = math_worker.compare(*pairs[i])
        except BaseException as e:
            found[i] = e

    threads = [threading.Thread(target=compare, args=(i,)) for i in range(len(pairs))]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected
    assert time.perf_counter() - start < 40  # 3 s on an idle machine
    assert list(pool.suspects) == [hostile]
    assert len(pool.idle) + len(pool.busy) <= math_worker.WORKERS
    assert math_worker.compare("x+1", "1+x")


def test_a_suspect_is_not_tried_again(pool):
    pool.suspects["x+1"] = None
    assert not math_worker.compare("x+1", "1+x") and not pool.idle and not pool.busy


@POSIX
def test_a_stopped_or_killed_worker_is_replaced(pool, monkeypatch):
    assert math_worker.compare("x+1", "1+x")
    worker = pool.idle[0]
    worker.process.kill()  # e.g. by the kernel, when memory ran out
    worker.process.wait()
    assert math_worker.compare("x+2", "2+x")
    worker = pool.idle[0]
    monkeypatch.setattr(math_worker, "WALL_SECONDS", 0.3)
    os.kill(worker.process.pid, signal.SIGSTOP)  # uses no processor time: only the clock can tell
    assert not math_worker.compare("x+3", "3+x")
    assert worker.process.poll() is not None and not pool.idle


def test_a_worker_that_cannot_start_is_not_tried_all_the_time(pool, monkeypatch):
    monkeypatch.setattr(math_worker.sys, "executable", str(ROOT / "no-such-python"))
    for _ in range(2):
        with pytest.raises(math_worker.Unavailable):
            math_worker.compare("x+1", "1+x")
    assert pool.retry_at > time.monotonic()
    assert not same_answer("x+41", "41+x")


def test_a_script_without_a_main_guard_starts_no_further_copies_of_itself():
    done = run("""
        print("script runs")
        from latentmem.answers import same_answer, warm_up
        warm_up()
        print(same_answer("x+1", "1+x"))
        """)
    assert done.returncode == 0 and done.stdout.split("\n") == ["script runs", "True", ""]


@POSIX
def test_a_forked_child_uses_workers_of_its_own_and_none_is_left_behind():
    done = run("""
        import os
        from latentmem import math_worker
        from latentmem.answers import same_answer
        assert same_answer("x+1", "1+x")
        pid = math_worker._pool.idle[0].process.pid
        child = os.fork()
        if child == 0:
            os._exit(0 if not math_worker._pool.idle and same_answer("x+2", "2+x") else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert same_answer("x+3", "3+x") and math_worker._pool.idle[0].process.pid == pid
        print(pid)
        """)
    assert done.returncode == 0, done.stdout
    with pytest.raises(ProcessLookupError):
        os.kill(int(done.stdout), 0)


def test_importing_the_module_loads_no_math_library():
    done = run("import latentmem.answers, sys; print('sympy' in sys.modules, 'math_verify' in sys.modules)")
    assert done.stdout == "False False\n"
