"""Answers that are the same however they are written: in the receipt's reason and in votes beside
each other."""

from __future__ import annotations

import re

import pytest

from latentmem.method.routing import route
from latentmem.method.voting import vote
from latentmem.records import Route, Vote
from latentmem.ui.views import receipt as views_receipt
from latentmem.ui.views.html import formula
from tests.ui.test_views import Tags, receipt
from tests.ui_samples import trace


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
    assert (
        "No side has an answer." in words[0]
        and "The answers differ." in words[1]
        and "All give the same" in words[2]
    )


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
