"""Records as untrusted JSON: every member checked, one sentence for what is wrong."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentmem.records import (
    Cluster,
    LatentmemError,
    Problem,
    Step,
    Trace,
    Vote,
    digest,
    from_json,
    to_json,
)

traces = st.builds(
    Trace,
    row=st.integers(0, 99),
    text=st.text(),
    answer=st.none() | st.text(),
    finished=st.booleans(),
    tokens=st.integers(0, 9999),
    side=st.sampled_from(["zero_shot", "memory"]),
    token_ids=st.lists(st.integers(0, 200_000), max_size=5).map(tuple),
    entropy=st.none() | st.floats(allow_nan=False, allow_infinity=False),
)


@given(traces)
def test_traces_survive_json(trace):
    assert from_json(Trace, to_json(trace)) == trace


def test_nested_records_survive_json():
    vote = Vote((Cluster("1/2", (0, 3)), Cluster("7", (1,))), 4, 3, decided=False, side="memory")
    assert from_json(Vote, to_json(vote)) == vote
    step = Step(
        1, 10, "7", 0.5, (1.0, 0.0), -0.1, 0.2, 0.01, 1.0, 80.5, 0.3, 161, 1.5, 2.5, "p", ""
    )
    assert from_json(Step, to_json(step)) == step


@pytest.mark.parametrize(
    "text, match",
    [
        ("", "Trace is not valid JSON"),
        ("[]", "Trace"),
        ("{", "Trace is not valid JSON"),
        ("null", "Trace"),
        ('{"row": 1}', "Trace: text"),
        ('{"row": "x", "text": "", "answer": null, "finished": true, "tokens": 1}', "Trace: row"),
        (
            '{"row": 1, "text": "", "answer": null, "finished": true, "tokens": 1, "side": "left"}',
            "Trace: side",
        ),
        (
            '{"row": 1, "text": "", "answer": null, "finished": true, "tokens": 1, "entropy": NaN}',
            "NaN",
        ),
        (
            '{"row": 1, "text": "", "answer": null, "finished": true, "tokens": 1, "entropy": '
            "Infinity}",
            "Infinity",
        ),
        (
            '{"row": 1, "text": "", "answer": null, "finished": true, "tokens": 1, "entropy": '
            "1e999}",
            "1e999",
        ),
        ("9" * 5000, "Trace is not valid JSON"),
        ("[" * 100_000, "Trace is not valid JSON"),
    ],
)
def test_bad_json_gets_one_sentence(text, match):
    with pytest.raises(LatentmemError, match=match) as e:
        from_json(Trace, text)
    assert "\n" not in str(e.value)


def test_not_a_number_is_never_written():
    with pytest.raises(ValueError, match=r"(?i)not JSON compliant"):
        to_json(Trace(0, "", None, True, 1, entropy=float("nan")))


def test_problem_ids_are_of_the_text():
    assert Problem("2+2?").id == Problem(" 2+2? ", answer="4").id != Problem("2+3?").id
    assert Problem("2+2?", "mine").id == "mine"
    assert "answer" in json.loads(to_json(Problem("2+2?", answer="4").unlabelled()))
    assert Problem("2+2?", answer="4").unlabelled().answer is None


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"id": 5}, "id is 5: give a string"),
        ({"text": 5}, "text is 5"),
        ({"source": ["x"]}, "source is"),
        ({"text": None}, "text is None"),
        ({"text": " "}, "is empty"),
    ],
)
def test_a_problem_is_made_of_strings(given, words):
    with pytest.raises(LatentmemError, match=words):
        Problem(**({"text": "2+2?"} | given))


def test_digest_separates_its_parts():
    assert digest("ab", "c") != digest("a", "bc") != digest("abc")


def test_vote_numbers():
    vote = Vote((Cluster("7", (0, 1, 4)), Cluster("8", (2,))), 8, 4)
    assert (vote.label, vote.majority_ratio, vote.margin, vote.abstained) == ("7", 0.375, 2, False)
    nobody = Vote((), 8, 0)
    assert (nobody.label, nobody.majority_ratio, nobody.margin, nobody.abstained) == (
        None,
        0.0,
        0,
        True,
    )
