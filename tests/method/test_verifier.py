"""The verifiers over a tiny random model: what is asked, whatever the length of what is judged."""

from __future__ import annotations

from latentmem.method.prompts import judge_messages
from latentmem.method.routing import _judging, judge
from latentmem.model.language_model import LanguageModel
from latentmem.records import Problem
from tests.tiny import tiny_model


def test_a_solution_that_does_not_fit_is_judged_by_its_end():
    """The judging chat of a long trace may exceed the context that the trace itself was written in."""
    model = tiny_model(seed=5, num_hidden_layers=2)
    short = LanguageModel(
        model.body, model.tokenizer, name="short", fingerprint="s", ends=model.ends, context=260
    )
    end = "so it is 7"
    assert len(model.render(judge_messages("How many?", "first " * 200 + end))) > 260
    assert 0 <= judge(short, Problem("How many?"), ["first " * 200 + end]) <= 1
    assert len(_judging(short, "How many?", "first " * 200 + end)) <= 260
    assert (
        model.tokenizer.decode(_judging(short, "How many?", "first " * 200 + end)).count(
            "so it is 7"
        )
        == 1
    )
    assert _judging(short, "How many?", end) == model.render(judge_messages("How many?", end))
