"""The rows that put the past into the context: what they keep, how it is shown, what reading it
costs."""

from __future__ import annotations

import pytest
import torch

from latentmem.evaluation.baselines.context import Strategy, common, other_text, parse
from latentmem.evaluation.baselines.sampler import Ask, Sampled
from latentmem.evaluation.results import ONE, AnswerMode
from latentmem.method.prompts import (
    lesson_messages,
    refine_messages,
    strategies_messages,
    strategy_messages,
    turn_messages,
)
from latentmem.method.voting import vote
from latentmem.model.kv_cache import Prefix
from latentmem.model.language_model import Prompt
from latentmem.model.transformer import causal_mask, forward
from latentmem.records import Trace
from tests.baseline_samples import (  # noqa: F401
    one_thread,
    problems,
    shared_model,
    tiny_engine,
    workshop,
)

VOTE6 = AnswerMode("vote", 6, 1.2)


@pytest.fixture(scope="module")
def model():
    return shared_model()


@pytest.fixture
def factory(model, monkeypatch):
    return workshop(tiny_engine(monkeypatch, model))


def taught(factory, name):
    system = factory.make(name)
    list(system.learn(problems(5)))
    return system


def test_the_lesson_is_what_the_model_wrote(factory):
    """icl_refined keeps the greedy continuation of its own reflection, pays for it, and shows it
    before the problem."""
    raw, refined = taught(factory, "icl_raw"), taught(factory, "icl_refined")
    written = tokens = read = 0
    for old, new in zip(raw.past.all, refined.past.all, strict=True):
        ask = Ask(old.problem, messages=refine_messages(old.problem.text, old.text))
        lesson = factory.sampler.sample([ask], ONE)[0]
        assert new.text == lesson.traces[0].text.strip()
        written, tokens, read = written + 1, tokens + lesson.cost.tokens, read + lesson.cost.read
    assert (
        written
        and refined.spent.tokens == raw.spent.tokens + tokens
        and refined.spent.read == raw.spent.read + read
    )
    problem = problems(1, start=20)[0]
    (turn,) = refined.messages(refined.past.all[0], problem)
    want = (refined.past.all[0].problem.text, refined.past.all[0].text, problem.text)
    places = [turn["content"].index(part) for part in want]
    assert turn["role"] == "user" and places == sorted(places)


def test_templates_hold_what_they_are_given():
    assert [m["role"] for m in turn_messages("P", "T", "Q")] == ["user", "assistant", "user"]
    assert [m["role"] for m in refine_messages("P", "T")] == ["user", "assistant", "user"]
    assert (
        "wrong" not in strategy_messages("P", "T", None)[0]["content"].split("What strategies")[0]
    )
    assert "U" in strategy_messages("P", "T", "U")[0]["content"]
    for chat in (lesson_messages("P", "L", "Q {x}"), strategies_messages("S", "Q {x}")):
        assert chat[-1]["content"].endswith(
            "Q {x}\n\nPlease reason step by step, and put your final answer within \\boxed{}."
        )


TWO = """Here they are.
**Title:** Count first
Description: Count the things.
Content: Write down every number
and add them up.

2. Title: Check
Content: Put the answer back."""


@pytest.mark.parametrize(
    "text, want",
    [
        (
            TWO,
            [
                Strategy(
                    "Count first", "Count the things.", "Write down every number and add them up."
                ),
                Strategy("Check", "", "Put the answer back."),
            ],
        ),
        ("Always check.", [Strategy("What was learnt", "", "Always check.")]),
        ("Title: empty\nDescription: nothing", []),
        ("Content: a\nContent: b\nContent: c\nContent: d", [Strategy("", "", x) for x in "abc"]),
        ("  \n", []),
    ],
)
def test_strategies_are_read(text, want):
    assert parse(text) == want


def test_the_other_trace_is_one_that_disagrees():
    def trace(row, answer):
        return Trace(row, f"text {row}", answer, True, 1)

    group = tuple(trace(i, a) for i, a in enumerate([None, "7", "8", "7"]))
    assert other_text(Sampled(group, vote(group), None)) == "text 2"
    group = tuple(trace(i, a) for i, a in enumerate([None, "7"]))
    assert other_text(Sampled(group, vote(group), None)) == "text 0"
    group = tuple(trace(i, "7") for i in range(3))
    assert other_text(Sampled(group, vote(group), None)) is None


def test_reasoning_bank_shows_strategies(factory):
    system = taught(factory, "reasoning_bank")
    for past in system.past.all:
        assert (
            past.text.startswith("Title: ")
            and past.text in system.messages(past, past.problem)[0]["content"]
        )
    assert system.spent.tokens > taught(factory, "icl_raw").spent.tokens


def test_recalled_past_is_the_same_computation(factory, model):
    """lag: stored keys and values of the past, then the new tokens, against reading all of it as
    one chat."""
    lag = taught(factory, "lag")
    new = problems(1, start=20)[0]
    past = lag.past.nearest(new)[1]
    ask = lag.ask(past, new)
    ids, n = factory.sampler.prompt(ask), ask.recalled
    assert past.text.strip() in model.tokenizer.decode(
        ids[:n]
    ) and new.text in model.tokenizer.decode(ids[n:])
    with torch.no_grad():
        whole = model.prefill([Prompt(ids)])
        stored = model.prefill([Prompt(ids[:n])])
        rest = torch.tensor([ids[n:]])
        mask = causal_mask(
            torch.ones(1, len(ids), dtype=torch.bool), len(ids) - n, model.body.dtype
        )
        hidden = forward(
            model.body,
            model.body.embedding[rest],
            torch.arange(n, len(ids))[None],
            mask,
            Prefix(stored.layers, torch.zeros(1, dtype=torch.long)),
        )
    assert torch.allclose(hidden, whole.hidden[:, n:], atol=1e-4)
    logits = model.body.head(hidden[:, -1]), model.body.head(whole.hidden[:, -1])
    assert (logits[0] - logits[1]).abs().max() < 1e-3


def test_lag_reads_the_new_tokens_only(factory):
    """Same rollouts as icl_raw; the reading differs by the past, which is most of the prompt."""
    raw, lag = taught(factory, "icl_raw"), taught(factory, "lag")
    asked = problems(3, start=20)
    for problem, a, b in zip(asked, raw.reply(asked, VOTE6), lag.reply(asked, VOTE6), strict=True):
        assert a.traces == b.traces and a.cost.tokens == b.cost.tokens
        past = lag.past.nearest(problem)[1]
        assert a.cost.read - b.cost.read >= len(past.problem.text) + len(past.text)  # one id a byte
        alone = len(factory.sampler.prompt(Ask(problem)))
        assert b.cost.read <= alone


def test_common():
    assert (
        common((1, 2, 3), (1, 2, 4)) == 2
        and common((1, 2), (1, 2, 4)) == 2
        and common((), (1,)) == 0
    )
