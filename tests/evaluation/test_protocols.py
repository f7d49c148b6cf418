"""The held-out and the online protocol on systems without a model: what is asked, in which order,
and that a kill changes nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from latentmem.evaluation.datasets import DataSet
from latentmem.evaluation.journal import Journal, read_results
from latentmem.evaluation.protocols import run_heldout, run_stream
from latentmem.evaluation.results import ONE, VOTE, Learned, Progress, Result
from latentmem.records import LatentmemError, Problem
from tests.evaluation_samples import Cast, FakeSystem, data, problems

# ---------- The held-out protocol on systems without a model: what is asked, in which order, and
# that a kill changes nothing.


CONFIG = {"protocol": "heldout", "seed": 0, "settings": {"learning_rate": 0.001}}


def heldout(
    folder: Path,
    cast: Cast,
    *,
    tests: tuple[DataSet, ...] = (),
    learn: DataSet | None = None,
    specs=None,
) -> list:
    with Journal(folder, CONFIG) as journal:
        return list(
            run_heldout(
                specs or cast.all(), learn or data(5), tests or (data(11, first=100),), journal
            )
        )


def plain(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def test_every_system_answers_every_problem_in_both_forms(tmp_path: Path) -> None:
    records = heldout(tmp_path, Cast())
    results, learned, config = read_results(tmp_path)
    assert [r for r in records if isinstance(r, Result)] == results
    for system in ("zero_shot", "elm", "offline_ttrl"):
        for mode in ("one", "vote"):
            mine = [r for r in results if (r.system, r.form) == (system, mode)]
            assert [r.index for r in mine] == list(range(11)) and len(
                {r.problem_id for r in mine}
            ) == 11
    assert config == CONFIG
    assert [(x.system, x.place, len(x.problems)) for x in learned] == [
        ("elm", 0, 2),
        ("elm", 1, 2),
        ("elm", 2, 1),
        ("offline_ttrl", 0, 5),
    ]
    last = [r for r in records if isinstance(r, Progress)][-1]
    assert (last.done, last.total) == (66, 66)
    by_hand = [r.correct for r in results if (r.system, r.form) == ("elm", "vote")]
    standing = next(s for s in last.standings if (s.system, s.form) == ("elm", "vote"))
    assert (standing.n, standing.right, standing.coverage) == (11, sum(by_hand), 1.0)


def test_what_was_learnt_and_spent_is_written_down(tmp_path: Path) -> None:
    heldout(tmp_path, Cast())
    _, learned, _ = read_results(tmp_path)
    spent = {
        s: sum(x.spent.tokens for x in learned if x.system == s)
        for s in ("zero_shot", "elm", "offline_ttrl")
    }
    assert spent == {"zero_shot": 0, "elm": 500, "offline_ttrl": 1000}
    assert [t.problem_id for x in learned for t in x.taught if x.system == "elm"] == [
        f"toy-{i}" for i in range(5)
    ]


def test_the_truth_reaches_no_system(tmp_path: Path) -> None:
    cast = Cast()
    heldout(tmp_path / "a", cast)
    assert {what for what, _ in cast.seen} == {"fit", "learn", "reply"}
    assert all(p.answer is None for _, p in cast.seen)


def test_poisoned_answers_change_the_scores_and_nothing_else(tmp_path: Path) -> None:
    def poisoned(d: DataSet) -> DataSet:
        return replace(d, problems=tuple(replace(p, answer="666") for p in d.problems))

    heldout(tmp_path / "a", Cast())
    heldout(tmp_path / "b", Cast(), learn=poisoned(data(5)), tests=(poisoned(data(11, first=100)),))
    honest, bad = read_results(tmp_path / "a")[0], read_results(tmp_path / "b")[0]
    assert [(r.answer, r.memory, r.chosen, r.tokens) for r in honest] == [
        (r.answer, r.memory, r.chosen, r.tokens) for r in bad
    ]
    assert any(r.correct for r in honest) and not any(r.correct for r in bad)


def test_only_a_system_that_says_so_gets_labels_and_only_in_fit(tmp_path: Path) -> None:
    cast = Cast()
    spec = cast.spec("offline_grpo", offline=True)
    make = spec.make

    def labelled():
        system = make()
        system.needs_labels = True
        return system

    heldout(tmp_path, cast, specs=[replace(spec, make=labelled)])
    given = {
        what: {p.answer is not None for w, p in cast.seen if w == what} for what in ("fit", "reply")
    }
    assert given == {"fit": {True}, "reply": {False}}


def test_a_finished_run_does_nothing_more_and_makes_no_system(tmp_path: Path) -> None:
    heldout(tmp_path, Cast())
    before = (tmp_path / "results.jsonl").read_bytes()
    cast = Cast()
    records = heldout(tmp_path, cast)
    assert cast.made == [] and (tmp_path / "results.jsonl").read_bytes() == before
    assert [type(r) for r in records] == [Progress] and records[0].done == 66


def test_another_system_or_form_can_join_later(tmp_path: Path) -> None:
    cast = Cast()
    heldout(tmp_path, cast, specs=[cast.spec("elm", (ONE,), memories=True)])
    heldout(
        tmp_path,
        cast,
        specs=[cast.spec("elm", (ONE, VOTE), memories=True), cast.spec("zero_shot")],
    )
    heldout(
        tmp_path / "at_once",
        Cast(),
        specs=[Cast().spec("elm", memories=True), Cast().spec("zero_shot")],
    )
    key = lambda r: (r.system, r.form, r.index)
    assert sorted(read_results(tmp_path)[0], key=key) == sorted(
        read_results(tmp_path / "at_once")[0], key=key
    )
    assert len([p for w, p in cast.made[1].seen if w == "learn"]) == 0, (
        "what was learnt is taken from the folder"
    )


def test_a_folder_is_not_continued_with_other_settings(tmp_path: Path) -> None:
    heldout(tmp_path, Cast())
    with pytest.raises(
        LatentmemError,
        match=r"holds a run with settings.learning_rate = 0.001, and here it is 0.003: give",
    ):
        Journal(tmp_path, CONFIG | {"settings": {"learning_rate": 0.003}})


def test_two_processes_do_not_write_to_one_folder(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from latentmem.evaluation.journal import Journal; "
        f"Journal(Path({str(tmp_path)!r}), {CONFIG!r})"
    )
    with Journal(tmp_path, CONFIG):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "Another run is writing to" in done.stderr


@pytest.mark.parametrize("lines", [1, 5, 12, 25])
@pytest.mark.parametrize("torn", [0, 7])
def test_a_file_cut_off_anywhere_is_completed_to_the_same(
    tmp_path: Path, lines: int, torn: int
) -> None:
    """A kill can leave any prefix of the file: whole lines of a unit, and a torn one."""
    heldout(tmp_path / "whole", Cast())
    whole = (tmp_path / "whole" / "results.jsonl").read_bytes()
    parts = whole.splitlines(keepends=True)
    folder = tmp_path / "cut"
    with Journal(folder, CONFIG):
        pass
    (folder / "results.jsonl").write_bytes(b"".join(parts[:lines]) + parts[lines][:torn])
    heldout(folder, Cast())
    key = lambda r: (r.system, r.form, r.index)
    assert sorted(read_results(folder)[0], key=key) == sorted(
        read_results(tmp_path / "whole")[0], key=key
    )


def test_damage_in_the_middle_is_named_and_not_overwritten(tmp_path: Path) -> None:
    heldout(tmp_path, Cast())
    parts = (tmp_path / "results.jsonl").read_bytes().splitlines(keepends=True)
    parts[3] = b"{not json}\n"
    (tmp_path / "results.jsonl").write_bytes(b"".join(parts))
    with pytest.raises(LatentmemError, match=r"results.jsonl, line 4 is not a line of results"):
        Journal(tmp_path, CONFIG)
    assert (tmp_path / "results.jsonl").read_bytes() == b"".join(parts)


# (protocol, problems, the parts of a system at which it may be killed, too, when)
RUNS = [
    ("heldout", 11, [], [*range(1, 11, 2), *range(12, 42, 4), 10**6]),
    ("stream", 6, ["learn", "reply", "save"], [*range(1, 12, 2), *range(12, 90, 11), 10**6]),
]
KILLED = """
import json, os, signal, sys
from pathlib import Path
from latentmem.evaluation import journal, protocols
from tests.evaluation.test_protocols import CONFIG, cast
from tests.evaluation_samples import Cast, FakeSystem, data

def heldout(journal, n):
    asked = (data(n or 2, first=100),)
    return protocols.run_heldout(Cast().all(), data(5 if n else 2), asked, journal)

def stream(journal, n):
    return protocols.run_stream(cast()[1], data(n or 2), journal)

def dying(folder, run, problems, parts, moment):
    # What was learnt is stored each time, or nearly never.
    left, journal.SAVING = [moment], moment % 2 * 10**9
    def tick():
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    for holder, names in ((os, ("fsync", "rename", "replace")), (journal.shutil, ("rmtree",)),
                          (FakeSystem, parts)):
        for name in names:
            def new(*a, _old=getattr(holder, name), **k):
                tick()
                made = _old(*a, **k)
                tick()
                return made
            setattr(holder, name, new)
    with journal.Journal(folder, CONFIG) as j:
        for _ in run(j, problems):
            if parts:
                tick()

for name, problems, parts, moments in json.loads(sys.argv[2]):
    folder, run, codes = Path(sys.argv[1]) / name, globals()[name], []
    # What a run imports is imported once, not in every child.
    with journal.Journal(folder.with_suffix(".warm"), CONFIG) as j:
        list(run(j, 0))
    for moment in moments:
        child = os.fork()
        if not child:
            dying(folder, run, problems, parts, moment)
            os._exit(0)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    print(json.dumps(codes))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_killed_again_and_again_it_ends_with_the_same_file(tmp_path: Path) -> None:
    """SIGKILL before or after every write, rename and removal, and in the middle of replies and
    lessons: each start gets a few operations further."""
    heldout(tmp_path / "whole-heldout", Cast())
    stream(tmp_path / "whole-stream")
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), json.dumps(RUNS)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"PYTHONPATH": "."},
    )
    for (name, *_), line in zip(RUNS, done.stdout.splitlines(), strict=True):
        codes = json.loads(line)
        assert codes[-1] == 0 and set(codes) == {0, -signal.SIGKILL}, (name, codes, done.stderr)
        assert codes.count(-signal.SIGKILL) >= 8, (name, codes)
        assert plain(tmp_path / name) == plain(tmp_path / f"whole-{name}")


# ---------- The online protocol: only earlier memories, no truth, and the same end after any number
# of kills.


def cast(modes=(ONE, VOTE)) -> tuple[Cast, list]:
    made = Cast()
    return made, [made.spec("zero_shot", modes), made.spec("elm", modes, memories=True)]


def stream(folder: Path, specs=None, n: int = 6, **how) -> list:
    with Journal(folder, CONFIG) as journal:
        return list(run_stream(specs or cast()[1], how.pop("given", data(n)), journal, **how))


def test_each_problem_meets_the_memories_of_earlier_ones_only(tmp_path: Path) -> None:
    stream(tmp_path, n=12)
    order = {p.id: i for i, p in enumerate(problems(12))}
    results, learned, _ = read_results(tmp_path)
    met = [(order[r.problem_id], order[r.memory]) for r in results if r.memory]
    assert met and all(memory < asked for asked, memory in met)
    assert [x.problems for x in learned] == [(p.id,) for p in problems(12)]
    assert [r.index for r in results if (r.system, r.form) == ("elm", "one")] == list(range(12))


def test_an_arrival_of_several_is_answered_before_it_is_learnt_from(tmp_path: Path) -> None:
    made, specs = cast((ONE,))
    stream(tmp_path, specs, n=7, block=3)
    elm = next(s for s in made.made if s.name == "elm")
    assert [what for what, _ in elm.seen] == ["reply"] * 3 + ["learn"] * 3 + ["reply"] * 3 + [
        "learn"
    ] * 3 + ["reply", "learn"]


def test_a_text_that_comes_twice_is_met_once(tmp_path: Path) -> None:
    again = Problem("  what is 0 + 1  of TOY?", "again", "1")
    stream(tmp_path, given=replace(data(3), problems=(*problems(3), again)))
    assert {r.problem_id for r in read_results(tmp_path)[0]} == {"toy-0", "toy-1", "toy-2"}


def test_the_truth_reaches_nobody_and_poison_changes_nothing_but_the_scores(tmp_path: Path) -> None:
    made, specs = cast()
    stream(tmp_path / "a", specs)
    assert {what for s in made.made for what, _ in s.seen} == {"learn", "reply"}
    assert all(p.answer is None for s in made.made for _, p in s.seen)
    stream(
        tmp_path / "b",
        given=replace(data(6), problems=tuple(replace(p, answer="no") for p in problems(6))),
    )
    honest, bad = (read_results(tmp_path / x)[0] for x in "ab")
    same = lambda r: (r.problem_id, r.system, r.form, r.answer, r.memory, r.chosen, r.scores)
    assert [same(r) for r in honest] == [same(r) for r in bad] and not any(r.correct for r in bad)


def test_the_standings_add_up(tmp_path: Path) -> None:
    records = stream(tmp_path, n=10)
    results = [r for r in records if isinstance(r, Result)]
    seen = [r for r in records if isinstance(r, Progress)]
    assert seen[0].done == 0
    assert [p.done for p in seen] == sorted(p.done for p in seen)
    assert seen[-1].done == seen[-1].total == 40
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
    stream(tmp_path / "whole")
    for stop in range(1, 60, 7):
        with Journal(tmp_path / "parts", CONFIG) as journal:
            running = run_stream(cast()[1], data(6), journal)
            for _, _ in zip(range(stop), running, strict=False):
                pass
            running.close()
    stream(tmp_path / "parts")
    assert (tmp_path / "parts" / "results.jsonl").read_text() == (
        tmp_path / "whole" / "results.jsonl"
    ).read_text()
    cast_again, specs = cast()
    stream(tmp_path / "parts", specs)
    assert cast_again.made == [], "a finished stream makes no system"


def test_a_form_that_comes_too_late_is_refused(tmp_path: Path) -> None:
    stream(tmp_path, cast((ONE,))[1])
    with pytest.raises(
        LatentmemError,
        match=r"no replies of elm \(vote\) to problem 1, from which it has learnt since",
    ):
        stream(tmp_path, cast((ONE, VOTE))[1][1:])


def test_what_the_fake_learns_shows_in_its_replies() -> None:
    """Else the tests above could not tell a stream that learnt from one that did not."""
    system = FakeSystem("elm", memories=True)
    before = list(system.reply(problems(3), VOTE))
    list(system.learn(problems(2)))
    after = list(system.reply(problems(3), VOTE))
    assert [r.used for r in before] == [False] * 3 and [r.used for r in after] == [True] * 3


def test_lessons_are_lines_too(tmp_path: Path) -> None:
    records = stream(tmp_path, n=3)
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert (
        [x["record"] for x in lines].count("Learned")
        == len([r for r in records if isinstance(r, Learned)])
        == 3
    )
