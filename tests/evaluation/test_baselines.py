"""The systems of the comparison on a tiny random model: what is shared, what is resumed, what is
never seen, what those keep that put the past into the context."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from latentmem.evaluation.baselines.context import common, other_text, parse
from latentmem.evaluation.baselines.registry import SYSTEMS
from latentmem.evaluation.baselines.sampler import Ask, Sampled
from latentmem.evaluation.results import ONE, AnswerMode, Cost
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
from latentmem.records import Distilled, Problem, Trace
from tests.baseline_samples import (  # noqa: F401  # noqa: F401
    bare,
    engine,
    make_factory,
    model,
    one_thread,
    poisoned,
    problems,
    tiny_engine,
)
from tests.tiny import tiny_model

# ---------- The rows of the comparison on a tiny random model: what is shared, what is resumed,
# what is never seen.


VOTE6 = AnswerMode("vote", 6, 1.2)
ONLINE = [name for name, row in SYSTEMS.items() if row.learns == "online"]


@pytest.fixture(scope="module")
def factories(model):
    """By the least similarity. What was sampled and learnt once in this file is known from then
    on."""
    how = {"offline_steps": 2, "rates": {"full": 1e-3}}
    with pytest.MonkeyPatch.context() as patch:
        engine = tiny_engine(patch, model)
        yield {s: make_factory(engine.changed(min_similarity=s), **how) for s in (-1.0, 1.0)}


@pytest.fixture
def factory(factories):
    return factories[-1.0]


def taught(factory, name, n=6, start=0):
    system = factory.make(name)
    if SYSTEMS[name].learns == "offline":
        list(system.fit(problems(n, start)))
    list(system.learn(problems(n, start)))
    return system


# All rows
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in SYSTEMS if n != "offline_grpo"])
def test_the_truth_reaches_no_row(factory, name):
    """Every step of a row's life with problems whose truth raises when it is read."""
    system = factory.make(name)
    assert not system.needs_labels
    list(system.fit(poisoned(problems(4))))
    list(system.learn(poisoned(problems(4))))
    for mode in (ONE, VOTE6):
        asked = poisoned(problems(2, start=20))
        replies = list(system.reply(asked, mode))
        assert [r.problem_id for r in replies] == [p.id for p in asked]
        for reply in replies:
            assert reply.system == name
            assert reply.form == mode.name
            assert reply.cost.tokens > 0
            assert reply.cost.read > 0
            assert reply.votes and all(
                v.total == (9 if name == "vote_n" else mode.traces) for v in reply.votes.values()
            )


@pytest.mark.parametrize("name", [n for n, row in SYSTEMS.items() if row.learns])
def test_a_row_resumes_from_what_it_saved(factory, name, tmp_path):
    """Saved and loaded into a new process' objects, a row replies and goes on learning as if
    nothing had happened."""
    one = taught(factory, name, 3)
    one.save(tmp_path)
    two = factory.make(name)
    two.load(tmp_path)
    assert two.spent == one.spent and one.spent.tokens > 0
    for system in (one, two):
        list(system.learn(problems(2, start=10)))
    for mode in (ONE, VOTE6):
        a, b = ([bare(r) for r in s.reply(problems(3, start=20), mode)] for s in (one, two))
        assert a == b
        assert any(r.used for r in a) or name.startswith("offline")
    empty = factory.make(name)
    empty.load(tmp_path / "nothing")
    assert empty.spent == Cost()


@pytest.mark.parametrize("name", ONLINE)
def test_without_experience_a_row_is_the_model_alone(factory, name):
    alone = list(factory.make("zero_shot").reply(problems(3), VOTE6))
    for a, b in zip(alone, factory.make(name).reply(problems(3), VOTE6), strict=True):
        assert (b.answer, b.traces, b.cost, b.used, b.hit) == (
            a.answer,
            a.traces,
            a.cost,
            False,
            None,
        )


@pytest.mark.parametrize("name", ONLINE)
def test_a_distant_past_is_not_used(factories, name):
    system = taught(factories[1.0], name, 4)
    assert not any(r.used for r in system.reply(problems(3, start=30), ONE))


# Vote, context, memories
# ----------------------------------------------------------------------------------------


def test_the_past_stands_in_the_turn_before(factory):
    system = taught(factory, "icl_raw")
    new = problems(1, start=20)[0]
    hit, past = system.past.nearest(Problem(new.text))
    similarities = [
        float(factory.key(e.problem, "input") @ factory.key(new, "input")) for e in system.past.all
    ]
    assert hit.similarity == pytest.approx(max(similarities)) and hit.memory_id == past.problem.id
    assert hit.margin == pytest.approx(max(similarities) - sorted(similarities)[-2], abs=1e-6)
    chat = system.messages(past, new)
    assert [m["role"] for m in chat] == ["user", "assistant", "user"]
    assert past.problem.text in chat[0]["content"] and chat[1]["content"] == past.text.strip()
    assert chat[2]["content"].startswith(new.text)
    first = factory.sampler.sample([Ask(past.problem)], VOTE6)[0]
    winner = first.vote.clusters[0].rows[0]
    assert past.text == first.traces[winner].text


def test_a_past_too_long_for_the_context_is_left_out(monkeypatch):
    factory = make_factory(
        tiny_engine(monkeypatch, tiny_model(seed=5, max_position_embeddings=260))
    )
    system = taught(factory, "icl_raw")
    assert system.past.all
    replies = list(system.reply(problems(2, start=20), ONE))
    assert not any(r.used for r in replies)


def test_elm_routes_and_keeps_all_scores(factory):
    system = taught(factory, "elm")
    assert system.ids and len(system.bank) == len(system.ids)
    seen = 0
    for mode in (ONE, VOTE6):
        for reply in system.reply(problems(12, start=20), mode):
            assert reply.used
            assert set(reply.votes) == {"zero_shot", "memory"}
            assert reply.hit.memory_id in system.ids
            if not reply.scores:
                continue
            seen += 1
            assert set(reply.scores) == {"vote_share", "self_certainty", "judge"}
            by = "judge" if mode is ONE else "vote_share"
            scores = reply.scores[by]
            assert reply.route.verifier == by and reply.route.scores == scores
            side = "memory" if scores["memory"] > scores["zero_shot"] else "zero_shot"
            assert reply.route.side == side and reply.answer == reply.votes[side].label
    assert seen > 3


def test_elm_counts_what_it_spent(factory):
    """The first vote, every step's rollouts, and each prompt read once to sample and once more to
    train."""
    p = problems(6)
    system = factory.make("elm")
    done = [r for r in system.learn(p) if isinstance(r, Distilled)]
    assert sorted(d.problem_id for d in done) == sorted(q.id for q in p)
    first = {
        q.id: s
        for q, s in zip(p, factory.sampler.sample([Ask(q) for q in p], factory.mode), strict=True)
    }
    tokens = read = 0
    for d in done:
        prompt = first[d.problem_id].cost.read
        tokens += first[d.problem_id].cost.tokens + sum(s.tokens for s in d.steps)
        read += prompt + sum((prompt + 4) * (1 + (s.grad_norm > 0)) for s in d.steps)
    assert (system.spent.tokens, system.spent.read) == (tokens, read)


def test_memories_are_distilled_once(factory, monkeypatch):
    taught(factory, "elm")
    from latentmem.evaluation.baselines import teacher

    def never(*_, **__):
        raise AssertionError("distilled again")

    monkeypatch.setattr(teacher, "learn", never)
    for name in ("elm_kv", "elm_unrouted", "random_memory"):
        assert taught(factory, name).ids


def test_a_killed_teacher_goes_on(engine, tmp_path):
    """Stop in the middle of the second group: the memories of the resumed run are those of the
    whole one."""
    whole = taught(make_factory(engine, group=2), "elm")
    system = make_factory(engine, tmp_path, group=2).make("elm")
    stream, steps = system.learn(problems(6)), 0
    for record in stream:
        steps += type(record).__name__ == "Step"
        if steps == 8:  # two problems, two steps and the final check each: in the second group
            break
    stream.close()
    again = make_factory(engine, tmp_path, group=2)
    assert 0 < len(again.teacher._known) < 6
    system = again.make("elm")
    list(system.learn(problems(6)))
    assert len(system.ids) == len(whole.ids)
    for a, b in zip(system.ids, whole.ids, strict=True):
        one, other = system.bank.get(a), whole.bank.get(b)
        assert one.problem == other.problem and [s.rewards for s in one.steps] == [
            s.rewards for s in other.steps
        ]
        assert np.array_equal(one.soft_prompt, other.soft_prompt)


def test_a_lesson_is_found_by_the_keys_of_the_present_embedder(engine, tmp_path):
    taught(make_factory(engine, tmp_path), "elm")
    again = make_factory(engine, tmp_path)
    other, key = np.eye(7, dtype=np.float32)[3], again.key
    again.key = again.teacher._key = (
        lambda problem, kind: other if kind == "input" else key(problem, kind)
    )
    system = taught(again, "elm")
    assert system.ids and all(
        np.array_equal(system.bank.get(i).keys["input"], other) for i in system.ids
    )


def test_unrouted_takes_the_memory(factory):
    routed, unrouted = (
        list(taught(factory, n).reply(problems(8, start=20), ONE)) for n in ("elm", "elm_unrouted")
    )
    for a, b in zip(routed, unrouted, strict=True):
        assert b.answer == a.votes["memory"].label and set(b.votes) == {"memory"} and b.hit == a.hit
        assert b.cost.tokens == sum(t.tokens for t in a.traces if t.side == "memory")


def test_random_memory_is_the_nearest_no_more_than_by_chance(factory):
    near, far = taught(factory, "elm", 8), taught(factory, "random_memory", 8)
    n, asked = len(near.ids), problems(200, start=100)
    assert n >= 4
    picks = [far.find(p).memory_id for p in asked]
    same = sum(near.find(p).memory_id == pick for p, pick in zip(asked, picks, strict=True))
    assert same < 200 / n + 4 * (200 / n) ** 0.5
    counts = [picks.count(i) for i in far.ids]
    assert min(counts) > 0 and max(counts) < 200 / n + 4 * (200 / n) ** 0.5
    assert [far.find(p).memory_id for p in asked[:20]] == picks[:20]


def test_format_only_rewards_the_box_alone(engine):
    """Its steps' rewards are 1 where a trace finished with any boxed answer."""
    learnt = make_factory(engine).make("format_only").learn(problems(6))
    steps = [r for r in learnt if type(r).__name__ == "Step"]
    assert steps
    for step in steps:
        assert np.mean(step.rewards) == pytest.approx(step.finished)
    assert any(s.agreement < s.finished for s in steps), (
        "otherwise it would be the majority's reward"
    )


def test_untrained_prompt_is_the_text(factory, engine):
    reply = next(iter(factory.make("untrained_prompt").reply(problems(1), ONE)))
    soft = engine.model.text_prompt("Solve it.", 4)
    want = factory.sampler.sample([Ask(problems(1)[0], soft, side="memory")], ONE)[0]
    assert reply.traces == want.traces and not reply.used


def test_untrained_routed_routes_between_the_model_alone_and_the_text(factory):
    asked, mode = problems(6), AnswerMode("vote", 3, 0.8)
    rows = [
        list(factory.make(name).reply(asked, mode))
        for name in ("untrained_routed", "zero_shot", "untrained_prompt")
    ]
    for routed, alone, text in zip(*rows, strict=True):
        assert routed.traces == (*alone.traces, *text.traces)
        assert not routed.used and routed.hit is None
        assert routed.answer == routed.route.answer and routed.answer in (alone.answer, text.answer)
    assert any(r.route.scores for r in rows[0]), "otherwise nothing was routed"


def test_retrieval_compares_what_the_settings_say(engine):
    """With another key, every row that finds a past finds it by that key; elm_kv always by its
    own."""
    factory, usual = make_factory(engine.changed(key="kv")), make_factory(engine)
    kinds = {n: getattr(s, "kind", None) or s.past.kind for n in ONLINE if (s := factory.make(n))}
    assert set(kinds.values()) == {"kv"} and factory.make("untrained_routed").kind == "kv"
    assert {usual.make(n).kind for n in ("elm", "elm_unrouted", "untrained_routed")} == {"input"}
    assert usual.make("elm_kv").kind == "kv" and usual.make("icl_raw").past.kind == "input"
    elm, kv = taught(factory, "elm"), taught(usual, "elm_kv")
    asked = problems(3, start=20)
    assert [elm.find(p).similarity for p in asked] == pytest.approx(
        [kv.find(p).similarity for p in asked]
    )
    assert [elm.find(p).similarity for p in asked] != pytest.approx(
        [taught(usual, "elm").find(p).similarity for p in asked]
    )


# ---------- The rows that put the past into the context: what they keep, how it is shown, what
# reading it costs.


def test_the_lesson_is_what_the_model_wrote(factory):
    """icl_refined keeps the greedy continuation of its own reflection, pays for it, and shows it
    before the problem."""
    raw, refined = taught(factory, "icl_raw", 5), taught(factory, "icl_refined", 5)
    written = tokens = read = 0
    for old, new in zip(raw.past.all, refined.past.all, strict=True):
        ask = Ask(old.problem, messages=refine_messages(old.problem.text, old.text))
        lesson = factory.sampler.sample([ask], ONE)[0]
        assert new.text == lesson.traces[0].text.strip()
        written, tokens, read = written + 1, tokens + lesson.cost.tokens, read + lesson.cost.read
    assert written
    assert refined.spent.tokens == raw.spent.tokens + tokens
    assert refined.spent.read == raw.spent.read + read
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


def strategy(title: str, description: str, content: str) -> str:
    return f"Title: {title}\nDescription: {description}\nContent: {content}"


@pytest.mark.parametrize(
    "text, want",
    [
        (
            TWO,
            [
                strategy(
                    "Count first", "Count the things.", "Write down every number and add them up."
                ),
                strategy("Check", "", "Put the answer back."),
            ],
        ),
        ("Always check.", [strategy("What was learnt", "", "Always check.")]),
        ("Title: empty\nDescription: nothing", []),
        ("Content: a\nContent: b\nContent: c\nContent: d", [strategy("", "", x) for x in "abc"]),
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
    system = taught(factory, "reasoning_bank", 5)
    for past in system.past.all:
        assert past.text.startswith("Title: ")
        assert past.text in system.messages(past, past.problem)[0]["content"]
    assert system.spent.tokens > taught(factory, "icl_raw", 5).spent.tokens


def test_recalled_past_is_the_same_computation(factory, model):
    """lag: stored keys and values of the past, then the new tokens, against reading all of it as
    one chat."""
    lag = taught(factory, "lag", 5)
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
    raw, lag = taught(factory, "icl_raw", 5), taught(factory, "lag", 5)
    asked = problems(3, start=20)
    for problem, a, b in zip(asked, raw.reply(asked, VOTE6), lag.reply(asked, VOTE6), strict=True):
        assert a.traces == b.traces and a.cost.tokens == b.cost.tokens
        past = lag.past.nearest(problem)[1]
        assert a.cost.read - b.cost.read >= len(past.problem.text) + len(past.text)  # one id a byte
        alone = len(factory.sampler.prompt(Ask(problem)))
        assert b.cost.read <= alone


def test_common():
    assert common((1, 2, 3), (1, 2, 4)) == 2
    assert common((1, 2), (1, 2, 4)) == 2
    assert common((), (1,)) == 0
