"""Views of distillations and receipts: pure functions from records to HTML and figures."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from latentmem.engine.run_state import Scene
from latentmem.method.routing import route
from latentmem.method.voting import vote
from latentmem.records import Delta, Route, Status, Vote
from latentmem.ui.views import distillation
from latentmem.ui.views import html as views
from latentmem.ui.views import receipt as views_receipt
from latentmem.ui.views.html import formula
from tests.ui.test_views import Tags, receipt
from tests.ui_samples import scene, steps, trace

# ---------- a distillation, and what a memory changed


def test_the_curve_has_three_series_and_no_loss_for_the_final_check() -> None:
    figure = json.loads(json.dumps(distillation.curve_figure(steps(6), best=3), allow_nan=False))
    assert [d["name"] for d in figure["data"]] == ["Agreement", "Loss", "Gradient norm"]
    assert [d["x"] for d in figure["data"]] == [[0, 1, 2, 3, 4, 5], *[[1, 2, 3, 4, 5]] * 2]


def test_the_agreement_of_the_kept_prompt_is_marked_where_it_was_seen() -> None:
    """Each step samples before it trains: the prompt after step 1 is seen at work in step 2, that
    after 5 in the check."""
    seen = [
        replace(s, agreement=a)
        for s, a in zip(steps(6), (0.62, 0.75, 0.5, 0.5, 0.5, 0.875), strict=True)
    ]
    for best, agreement in ((1, 0.75), (5, 0.875)):
        figure = distillation.curve_figure(seen, best=best)
        [line], words = (
            figure["layout"]["shapes"],
            [a["text"] for a in figure["layout"]["annotations"]],
        )
        curve = dict(zip(figure["data"][0]["x"], figure["data"][0]["y"], strict=True))
        assert curve[line["x0"]] == agreement
        assert line["x0"] == line["x1"]
        assert line["yref"] == "y domain"
        assert f"kept: after step {best}" in words and line["x0"] == best
        first, *others = str(distillation.sparklines(seen, best)).split("<figure")[1:]
        dots = [s.partition('<circle cx="')[2].partition('"')[0] for s in (first, *others)]
        steps_before = (
            best / 5,
            (best - 1) / 4,
            (best - 1) / 4,
        )  # loss and gradient norm have no check
        assert [float(d) for d in dots] == pytest.approx(
            [4 + 152 * share for share in steps_before], abs=0.06
        )
    assert "<circle" not in str(distillation.sparklines(seen))


def test_the_curve_begins_with_the_untrained_prompt_and_the_table_ends_with_the_check() -> None:
    axis = distillation.curve_figure(steps(1, 30))["layout"]["xaxis"]
    assert axis["range"] == [-0.5, 30.5] and axis["dtick"] == 3
    start = distillation.curve_figure(steps(6), best=0)["layout"]
    assert "kept: the start" in [a["text"] for a in start["annotations"]]
    [[_, table]] = distillation.steps_table(steps(6))
    assert table.count('<th scope="row">check</th>') == 1
    assert "<td>–</td><td>–</td>" in table
    assert '<th scope="row">6</th>' not in table


def test_words_over_the_curves_are_in_ink() -> None:
    """As text the colours of the lines are too pale on paper."""
    for words in distillation.curve_figure(steps(6), best=3)["layout"]["annotations"]:
        assert "color" not in words["font"]


def distilling(n: int, *extra: object) -> Scene:
    """A scene after the first vote and n of 5 steps, then what is given."""
    s = scene(trace(0, "7"), trace(1, "7"), total=2)
    for one in steps(n):
        s.add(trace(0, "7", side="memory"))
        s.add(one)
    for record in extra:
        s.add(record)
    return s


def test_time_left_and_how_much_is_done() -> None:
    """A step takes 1.1 s of writing and 0.9 s of training; the final check after five of them only
    writes."""
    left, share = distillation.time_left, distillation.share_done
    assert left(distilling(0)) is None and share(distilling(0), 5) == pytest.approx(1 / 7)
    assert left(distilling(2)) == pytest.approx(3 * 2.0 + 1.1) and share(
        distilling(2), 5
    ) == pytest.approx(3 / 7)
    # all of it is written, none trained
    half = distilling(2, Delta(0, "x", "memory"), trace(0, "7", side="memory"))
    assert left(half) == pytest.approx(2.5 * 2.0 + 1.1) and share(half, 5) == pytest.approx(3.5 / 7)
    trained = distilling(2, Status("Training step 3 of 5", 2, 2))
    assert left(trained) == pytest.approx(2 * 2.0 + 1.1) and share(trained, 5) == pytest.approx(
        4 / 7
    )
    assert left(distilling(5)) == pytest.approx(1.1)
    assert left(distilling(6)) == 0
    assert share(distilling(6), 5) == 1


def test_what_is_happening_in_plain_words() -> None:
    words = distillation.phase_words
    assert words(Scene(), 5)[0] == "Starting…"
    assert "First vote: 2 of 2 attempts finished" in words(distilling(0), 5)[0]
    writing = distilling(1, Delta(0, "x", "memory"))
    assert words(writing, 5)[0].startswith("Step 2 of 5: 0 of")
    assert "rewarded" in words(writing, 5)[1]
    training = distilling(1, Status("Training step 2 of 5", 1, 2))
    assert words(training, 5)[0] == "Training step 2 of 5"
    assert "stay as they are" in words(training, 5)[1]
    assert words(distilling(5, Delta(0, "x", "memory")), 5)[0].startswith("Final check")
    assert "About" in distillation.distil_status(writing, 5)


def test_a_vote_that_came_after_all_traces_has_no_moment_of_decision() -> None:
    """A distillation votes once a round: that all traces were needed is not known."""
    s, first = Scene(), [trace(i, "7") for i in range(8)]
    for t in first:
        s.add(t)
    s.add(vote(first))
    fresh = [replace(t, side="memory") for t in first]
    for _ in range(2):
        for t in fresh:
            s.add(t)
        s.add(vote(fresh, side="memory"))
    assert s.decided_after == {} and all(
        "decided" not in html for _, html in views.scene_votes(s, True)
    )
    for i in range(1, 9):  # sampled one by one, each followed by a vote: five of eight decide
        s.add(fresh[i - 1])
        s.add(vote(fresh[:i], 8, "memory"))
    assert s.decided_after == {"memory": 4}, (
        "four more could only draw, and ties go to the earliest"
    )
    pair = scene(trace(0, "7"), trace(1, "8"), total=2)
    assert pair.decided_after == {"zero_shot": 1}, (
        "decided by the first vote, and one trace is still open"
    )
    assert scene(trace(0, "7"), total=1).decided_after == {}, (
        "a single trace decides nothing before its end"
    )


def test_steps_are_named_in_a_distillation_and_not_where_a_memory_is_only_compared() -> None:
    assert "of step 2 at once" in views.doing(distilling(1, Delta(0, "x", "memory"))).text
    compared = Scene(total=8)
    compared.add(Delta(0, "x", "memory"))
    assert "step" not in views.doing(compared).text


def test_what_a_memory_changed_in_one_sentence() -> None:
    change = views_receipt.change_words
    two, one, other = (
        vote([trace(i, a) for i, a in enumerate(said)], 2) for said in ("77", "7", "8")
    )
    assert "more votes: 1 of 2 before, 2 of 2 after" in change(
        one, two
    ) and "fewer votes" in change(two, one)
    assert "Another answer wins" in change(one, other) and "same 1 of 2" in change(one, one)
    assert change(vote([], 2), one) == "One side has no answer."


def test_latex_in_a_sentence_is_set() -> None:
    s = scene(trace(0, "\\frac{1}{2}"), trace(1, "7"), total=2)
    bar = str(views.scene_vote(s, "zero_shot", "Vote", False))
    assert 'class="words tx">1 of 2 says \\(\\frac{1}{2}\\), 1 says 7.' in bar
    assert 'aria-label="Vote: 1 of 2 says \\frac' in bar
    assert views.formula("7") == "7" and views.formula(None) == "None"


def test_words_of_a_step() -> None:
    assert distillation.step_words(steps(1)[0]).startswith("Step 1 of 5: 1 of 1 fresh attempt")
    assert distillation.step_words(steps(6)[-1]).startswith("Final check")


# ---------- the same answer however it is written


def voted(*answers: str | None) -> Vote:
    return vote([trace(i, a) for i, a in enumerate(answers)])


def letters(html: str) -> list[str]:
    """The letter of each segment of each bar."""
    return re.findall(r'class="seg c\d"[^>]*>([A-Z]\d*)<', html)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("60", "\\$60", True),
        ("0.5", "\\frac{1}{2}", True),
        ("x=5", "5", True),
        ("60", "61", False),
        ("0.5", "50", False),
    ],
)
def test_the_same_answer_written_otherwise_is_no_other_answer(
    one: str, other: str, same: bool
) -> None:
    before, after = voted(one, one, "7"), voted(other, other, other)
    assert ("The same answer" in views_receipt.change_words(before, after)) is same
    [[_, beside]] = views_receipt.compare_columns([("without", before), ("with", after)])
    assert ("All give the same answer." in beside) is same and (
        "The answers differ." in beside
    ) is not same
    [[_, table]] = views_receipt.compare_table([("What?", before, after)])
    for html in (beside, table):
        assert letters(html) == (["A", "B", "A"] if same else ["A", "B", "C"])


def test_answers_of_one_vote_keep_colours_of_their_own() -> None:
    """50 and 0.5 are two answers, and 50% is the same as either."""
    assert views_receipt.same_colours([voted("50\\%"), voted("50", "50", "0.5")]) == [[0], [0, 1]]


def test_no_answer_is_not_the_same_answer() -> None:
    none, seven = voted(None, None), voted("7", "7")
    words = [
        views_receipt.compare_columns([("a", a), ("b", b)])[0][1]
        for a, b in ((none, none), (none, seven), (seven, seven))
    ]
    assert "No side has an answer." in words[0]
    assert "The answers differ." in words[1]
    assert "All give the same" in words[2]


@pytest.mark.parametrize(
    ("alone", "helped", "said"),
    [
        (
            "\\frac{1}{2}",
            "-\\frac{1}{2}",
            ("\\(\\frac{1}{2}\\) alone", "\\(-\\frac{1}{2}\\) with the memory"),
        ),
        (
            "-\\frac{1}{2}",
            "\\frac{1}{2}",
            ("\\(-\\frac{1}{2}\\) alone", "\\(\\frac{1}{2}\\) with the memory"),
        ),
        ("x^2", "x^2+y^2", ("\\(x^2\\) alone", "\\(x^2+y^2\\) with the memory")),
        ("2", "\\sqrt{2}", ("2 alone", "\\(\\sqrt{2}\\) with the memory")),
    ],
)
def test_the_reason_sets_an_answer_that_is_part_of_the_other(
    alone: str, helped: str, said: tuple[str, str]
) -> None:
    zero, memory = voted(alone, alone), voted(helped, helped)
    made: Route = route(zero, memory, {"zero_shot": 0.5, "memory": 0.75}, verifier="vote_share")
    r = receipt(zero_shot=zero, memory=memory, route=made)
    reason = views_receipt.reason(r)
    assert all(words in reason for words in said)
    assert reason.replace("\\(", "").replace("\\)", "") == made.reason, "nothing else is changed"
    assert reason.count("\\(") == sum(formula(a) != a for a in (alone, helped)), (
        "and nothing is set twice"
    )
    assert said[0] in Tags(str(views_receipt.receipt_card(r))).text
