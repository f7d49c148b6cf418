"""The online protocol: only earlier memories, no truth, and the same end after any number of kills."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from latentmem.evaluation.journal import Journal, read_results
from latentmem.evaluation.protocols import run_stream
from latentmem.evaluation.results import ONE, VOTE, Learned, Progress, Result
from latentmem.records import LatentmemError, Problem
from tests.evaluation_samples import Cast, FakeSystem, data, problems

CONFIG = {"protocol": "stream", "seed": 0}


def cast(modes=(ONE, VOTE)) -> tuple[Cast, list]:
    made = Cast()
    return made, [made.spec("zero_shot", modes), made.spec("elm", modes, memories=True)]


def go(folder: Path, specs=None, n: int = 6, **how) -> list:
    with Journal(folder, CONFIG) as journal:
        return list(run_stream(specs or cast()[1], how.pop("given", data(n)), journal, **how))


def test_each_problem_meets_the_memories_of_earlier_ones_only(tmp_path: Path) -> None:
    go(tmp_path, n=12)
    order = {p.id: i for i, p in enumerate(problems(12))}
    results, learned, _ = read_results(tmp_path)
    met = [(order[r.problem_id], order[r.memory]) for r in results if r.memory]
    assert met and all(memory < asked for asked, memory in met)
    assert [x.problems for x in learned] == [(p.id,) for p in problems(12)]
    assert [r.index for r in results if (r.system, r.form) == ("elm", "one")] == list(range(12))


def test_an_arrival_of_several_is_answered_before_it_is_learnt_from(tmp_path: Path) -> None:
    made, specs = cast((ONE,))
    go(tmp_path, specs, n=7, block=3)
    elm = next(s for s in made.made if s.name == "elm")
    assert [what for what, _ in elm.seen] == ["reply"] * 3 + ["learn"] * 3 + ["reply"] * 3 + [
        "learn"
    ] * 3 + ["reply", "learn"]


def test_a_text_that_comes_twice_is_met_once(tmp_path: Path) -> None:
    again = Problem("  what is 0 + 1  of TOY?", "again", "1")
    go(tmp_path, given=replace(data(3), problems=(*problems(3), again)))
    assert {r.problem_id for r in read_results(tmp_path)[0]} == {"toy-0", "toy-1", "toy-2"}


def test_the_truth_reaches_nobody_and_poison_changes_nothing_but_the_scores(tmp_path: Path) -> None:
    made, specs = cast()
    go(tmp_path / "a", specs)
    assert {what for s in made.made for what, _ in s.seen} == {"learn", "reply"}
    assert all(p.answer is None for s in made.made for _, p in s.seen)
    go(
        tmp_path / "b",
        given=replace(data(6), problems=tuple(replace(p, answer="no") for p in problems(6))),
    )
    honest, bad = (read_results(tmp_path / x)[0] for x in "ab")
    same = lambda r: (r.problem_id, r.system, r.form, r.answer, r.memory, r.chosen, r.scores)
    assert [same(r) for r in honest] == [same(r) for r in bad] and not any(r.correct for r in bad)


def test_the_standings_add_up(tmp_path: Path) -> None:
    records = go(tmp_path, n=10)
    results = [r for r in records if isinstance(r, Result)]
    seen = [r for r in records if isinstance(r, Progress)]
    assert (
        seen[0].done == 0
        and [p.done for p in seen] == sorted(p.done for p in seen)
        and seen[-1].done == seen[-1].total == 40
    )
    for s in seen[-1].standings:
        mine = [r for r in results if (r.system, r.form) == (s.system, s.form)]
        assert (s.n, s.right, s.used) == (
            10,
            sum(r.correct for r in mine),
            sum(r.used for r in mine),
        )
        split = [
            r
            for r in mine
            if len(r.sides) == 2 and not r.agreed and len({x.right for x in r.sides.values()}) == 2
        ]
        assert s.judged == len(split) and s.routed == sum(r.sides[r.chosen].right for r in split)


def test_stopped_and_taken_up_again_it_ends_the_same(tmp_path: Path) -> None:
    go(tmp_path / "whole")
    for stop in range(1, 60, 7):
        with Journal(tmp_path / "parts", CONFIG) as journal:
            stream = run_stream(cast()[1], data(6), journal)
            for _, _ in zip(range(stop), stream, strict=False):
                pass
            stream.close()
    go(tmp_path / "parts")
    assert (tmp_path / "parts" / "results.jsonl").read_text() == (
        tmp_path / "whole" / "results.jsonl"
    ).read_text()
    cast_again, specs = cast()
    go(tmp_path / "parts", specs)
    assert cast_again.made == [], "a finished stream makes no system"


def test_a_form_that_comes_too_late_is_refused(tmp_path: Path) -> None:
    go(tmp_path, cast((ONE,))[1])
    with pytest.raises(
        LatentmemError,
        match=r"no replies of elm \(vote\) to problem 1, from which it has learnt since",
    ):
        go(tmp_path, cast((ONE, VOTE))[1][1:])


KILLED = """
import os, signal, sys
from pathlib import Path
from latentmem.evaluation import journal, protocols
from tests.evaluation.test_stream import CONFIG, cast
from tests.evaluation_samples import FakeSystem, data

def dying(moment):
    left, journal.SAVING = [moment], moment % 2 * 10**9
    def tick():
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    for holder, names in ((os, ("fsync", "rename", "replace")), (journal.shutil, ("rmtree",)),
                          (FakeSystem, ("learn", "reply", "save"))):
        for name in names:
            def new(*a, _old=getattr(holder, name), **k):
                tick()
                made = _old(*a, **k)
                tick()
                return made
            setattr(holder, name, new)
    with journal.Journal(Path(sys.argv[1]), CONFIG) as j:
        for _ in protocols.run_stream(cast()[1], data(6), j):
            tick()

with journal.Journal(Path(sys.argv[1] + ".warm"), CONFIG) as j:  # what a run imports is imported once, not in every child
    list(protocols.run_stream(cast()[1], data(2), j))
for moment in map(int, sys.argv[2:]):
    child = os.fork()
    if not child:
        dying(moment)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_killed_again_and_again_it_ends_with_the_same_file(tmp_path: Path) -> None:
    """SIGKILL in the middle of replies, lessons, writes and renames, again and again."""
    go(tmp_path / "whole")
    folder, moments = tmp_path / "killed", [*range(1, 12), *range(12, 90, 7), 10**6]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(folder), *map(str, moments)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"PYTHONPATH": "."},
    )
    codes = [int(line) for line in done.stdout.split()]
    assert codes[-1] == 0 and codes.count(-signal.SIGKILL) >= 12, (codes, done.stderr)
    assert (folder / "results.jsonl").read_text() == (
        tmp_path / "whole" / "results.jsonl"
    ).read_text()


def test_what_the_fake_learns_shows_in_its_replies() -> None:
    """Else the tests above could not tell a stream that learnt from one that did not."""
    system = FakeSystem("elm", memories=True)
    before = list(system.reply(problems(3), VOTE))
    list(system.learn(problems(2)))
    after = list(system.reply(problems(3), VOTE))
    assert [r.used for r in before] == [False] * 3 and [r.used for r in after] == [True] * 3


def test_lessons_are_lines_too(tmp_path: Path) -> None:
    records = go(tmp_path, n=3)
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert (
        [x["record"] for x in lines].count("Learned")
        == len([r for r in records if isinstance(r, Learned)])
        == 3
    )
