"""The held-out protocol on systems without a model: what is asked, in which order, and that a kill
changes nothing."""

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
from latentmem.evaluation.protocols import run_heldout
from latentmem.evaluation.results import ONE, VOTE, Progress, Result
from latentmem.records import LatentmemError
from tests.evaluation_samples import Cast, data

CONFIG = {"protocol": "heldout", "seed": 0, "settings": {"learning_rate": 0.001}}


def go(
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
    records = go(tmp_path, Cast())
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
    go(tmp_path, Cast())
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
    go(tmp_path / "a", cast)
    assert {what for what, _ in cast.seen} == {"fit", "learn", "reply"}
    assert all(p.answer is None for _, p in cast.seen)


def test_poisoned_answers_change_the_scores_and_nothing_else(tmp_path: Path) -> None:
    def poisoned(d: DataSet) -> DataSet:
        return replace(d, problems=tuple(replace(p, answer="666") for p in d.problems))

    go(tmp_path / "a", Cast())
    go(tmp_path / "b", Cast(), learn=poisoned(data(5)), tests=(poisoned(data(11, first=100)),))
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

    go(tmp_path, cast, specs=[replace(spec, make=labelled)])
    given = {
        what: {p.answer is not None for w, p in cast.seen if w == what} for what in ("fit", "reply")
    }
    assert given == {"fit": {True}, "reply": {False}}


def test_a_finished_run_does_nothing_more_and_makes_no_system(tmp_path: Path) -> None:
    go(tmp_path, Cast())
    before = (tmp_path / "results.jsonl").read_bytes()
    cast = Cast()
    records = go(tmp_path, cast)
    assert cast.made == [] and (tmp_path / "results.jsonl").read_bytes() == before
    assert [type(r) for r in records] == [Progress] and records[0].done == 66


def test_another_system_or_form_can_join_later(tmp_path: Path) -> None:
    cast = Cast()
    go(tmp_path, cast, specs=[cast.spec("elm", (ONE,), memories=True)])
    go(
        tmp_path,
        cast,
        specs=[cast.spec("elm", (ONE, VOTE), memories=True), cast.spec("zero_shot")],
    )
    go(
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
    go(tmp_path, Cast())
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
    go(tmp_path / "whole", Cast())
    whole = (tmp_path / "whole" / "results.jsonl").read_bytes()
    parts = whole.splitlines(keepends=True)
    folder = tmp_path / "cut"
    with Journal(folder, CONFIG):
        pass
    (folder / "results.jsonl").write_bytes(b"".join(parts[:lines]) + parts[lines][:torn])
    go(folder, Cast())
    key = lambda r: (r.system, r.form, r.index)
    assert sorted(read_results(folder)[0], key=key) == sorted(
        read_results(tmp_path / "whole")[0], key=key
    )


def test_damage_in_the_middle_is_named_and_not_overwritten(tmp_path: Path) -> None:
    go(tmp_path, Cast())
    parts = (tmp_path / "results.jsonl").read_bytes().splitlines(keepends=True)
    parts[3] = b"{not json}\n"
    (tmp_path / "results.jsonl").write_bytes(b"".join(parts))
    with pytest.raises(LatentmemError, match=r"results.jsonl, line 4 is not a line of results"):
        Journal(tmp_path, CONFIG)
    assert (tmp_path / "results.jsonl").read_bytes() == b"".join(parts)


KILLED = """
import os, signal, sys
from pathlib import Path
from latentmem.evaluation import journal, protocols
from tests.evaluation_samples import Cast, data
from tests.evaluation.test_heldout import CONFIG

def dying(moment):
    left, journal.SAVING = [moment], moment % 2 * 10**9  # what was learnt is stored each time, or nearly never
    def tick():
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    for module, names in ((os, ("fsync", "rename", "replace")), (journal.shutil, ("rmtree",))):
        for name in names:
            def new(*a, _old=getattr(module, name), **k):
                tick()
                made = _old(*a, **k)
                tick()
                return made
            setattr(module, name, new)
    with journal.Journal(Path(sys.argv[1]), CONFIG) as j:
        for _ in protocols.run_heldout(Cast().all(), data(5), (data(11, first=100),), j):
            pass

with journal.Journal(Path(sys.argv[1] + ".warm"), CONFIG) as j:  # what a run imports is imported once, not in every child
    list(protocols.run_heldout(Cast().all(), data(2), (data(2, first=100),), j))
for moment in map(int, sys.argv[2:]):
    child = os.fork()
    if not child:
        dying(moment)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_killed_again_and_again_it_ends_with_the_same_file(tmp_path: Path) -> None:
    """SIGKILL before or after every write, rename and removal: each start gets a few operations
    further."""
    go(tmp_path / "whole", Cast())
    folder, moments = tmp_path / "killed", [*range(1, 11), *range(12, 42, 4), 10**6]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(folder), *map(str, moments)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"PYTHONPATH": "."},
    )
    codes = [int(line) for line in done.stdout.split()]
    assert (
        codes[-1] == 0 and set(codes) == {0, -signal.SIGKILL} and codes.count(-signal.SIGKILL) >= 12
    ), (codes, done.stderr)
    assert plain(folder) == plain(tmp_path / "whole")
