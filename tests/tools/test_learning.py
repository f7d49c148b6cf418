"""The parts of `measure_learning.py` on planted values, on small data and with a tiny random model."""

from __future__ import annotations

import json
import math
import re
from itertools import combinations

import numpy as np
import pytest
import torch

from latentmem.method.grpo import RolloutGroup, Row, advantages, policy_gradient
from latentmem.method.prompts import solve_messages
from latentmem.method.rollouts import Job, sample
from latentmem.model.language_model import Prompt
from latentmem.records import LatentmemError, Problem, Trace
from tests.method.test_grpo import traces
from tests.tiny import tiny_hf, tiny_model
from tests.tools import measure_learning
from tests.tools.learning import context, critic, families, family_prompts, gpu
from tests.tools.learning.adapters import LowRankForm
from tests.tools.learning.data import SPLITS, split
from tests.tools.learning.figures import outcomes, summary, vote_curve, voted
from tests.tools.learning.forms import KeyValues, LayerVectors, Opening, SoftPrompt
from tests.tools.learning.judge import holm, learning_curve, pick, report, valued, weighed
from tests.tools.learning.picture import picture
from tests.tools.learning.plan import Lesson, Plan, lessons, restore
from tests.tools.learning.self_distillation import (
    Distillation,
    divergence,
    reference_messages,
    teacher_states,
)
from tests.tools.learning.store import Store, append, read
from tests.tools.learning.train import Normal, Trainer, drain, run
from tests.tools.learning.value import Means, fit, running

# ---------- Forms of memory.

FORMS = {
    "soft": lambda m: SoftPrompt(m, "Think.", 4),
    "kv": KeyValues,
    "vectors": LayerVectors,
    "opening": Opening,
}


def loss_of(form, base, groups):
    return sum(drain(policy_gradient(form.model(base), groups, 0.8, budget=24)))


def groups_of(form):
    soft = form.soft()
    return [
        RolloutGroup(Problem(text), soft, traces(i, [5, 1, 9, 12]), advantages([1, 0, 0, 1 - i]))
        for i, text in enumerate(["What is 1+1?", "A longer question: what is twelve times nine?"])
    ]


@pytest.mark.parametrize("name", ["kv", "vectors", "opening"])
def test_untrained_it_is_the_model_itself(name):
    base = tiny_model()
    prompts = [
        Prompt(base.render(solve_messages(text)))
        for text in ("1+1?", "A longer question: 12 times 9?")
    ]
    plain, made = base.prefill(prompts), FORMS[name](base).model(base).prefill(prompts)
    assert torch.allclose(plain.hidden[:, -1], made.hidden[:, -1], atol=1e-5)
    assert plain.lengths.tolist() == made.lengths.tolist()


@pytest.mark.parametrize("name", list(FORMS))
def test_gradient_is_that_of_finite_differences(name):
    base = tiny_model()
    form = FORMS[name](base)
    with torch.no_grad():
        form.numbers.add_(
            torch.randn(form.numbers.shape, generator=torch.Generator().manual_seed(3)) * 0.1
        )
    loss_of(form, base, groups_of(form))
    grad = form.numbers.grad.clone()
    for seed in range(3):
        way = torch.randn(grad.shape, generator=torch.Generator().manual_seed(seed))
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                form.numbers.add_(sign * 1e-2 * way)
            ends.append(loss_of(form, base, groups_of(form)))
            with torch.no_grad():
                form.numbers.sub_(sign * 1e-2 * way)
        assert float((grad * way).sum()) == pytest.approx(
            (ends[0] - ends[1]) / 2e-2, rel=2e-2, abs=1e-4
        )


@pytest.mark.parametrize("name, still", [("soft", True), ("kv", True)])
def test_the_first_position_can_stay(name, still):
    base = tiny_model()
    form = SoftPrompt(base, "Think.", 4, freeze_first=still) if name == "soft" else KeyValues(base)
    before = form.soft() if name == "soft" else form.model(base).prefix[0][0]
    with torch.no_grad():
        form.numbers.add_(1.0)
    after = form.soft() if name == "soft" else form.model(base).prefix[0][0]
    first = (slice(0, 1),) if name == "soft" else (slice(None), slice(0, 1))
    assert torch.equal(before[first], after[first]) and not torch.allclose(before, after)


# ---------- Self-distillation.


def test_divergence_by_hand():
    """Two words, the output matrix the identity: p = (3/4, 1/4), q = (1/2, 1/2)."""
    student, teacher = torch.tensor([[math.log(3.0), 0.0]]), torch.zeros(1, 2)
    reverse = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    forward = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    assert float(divergence(student, teacher, torch.eye(2))) == pytest.approx(reverse, abs=1e-6)
    assert float(divergence(student, teacher, torch.eye(2), direction="forward")) == pytest.approx(
        forward, abs=1e-6
    )


@pytest.mark.parametrize("direction", ["reverse", "forward"])
def test_divergence_has_the_gradient_of_finite_differences(direction):
    draw = torch.Generator().manual_seed(0)
    student, teacher, head = (torch.randn(n, 6, generator=draw) for n in (5, 5, 11))
    student.requires_grad_()
    weights = torch.randn(5, generator=draw)
    (divergence(student, teacher, head, 0.8, direction, chunk=2) * weights).sum().backward()
    for place in [(0, 0), (2, 3), (4, 5)]:
        step = torch.zeros(5, 6)
        step[place] = 1e-2
        ends = [
            float(
                (
                    divergence(student.detach() + s * step, teacher, head, 0.8, direction) * weights
                ).sum()
            )
            for s in (1, -1)
        ]
        assert float(student.grad[place]) == pytest.approx(
            (ends[0] - ends[1]) / 2e-2, rel=5e-3, abs=1e-4
        )


def test_clip_limits_the_pull_of_a_distant_token():
    """Loss and gradient of a token at three times the clip are a third; a near one is left alone."""
    head, student = (
        torch.eye(2),
        torch.tensor([[math.log(3.0), 0.0], [0.1, 0.0]], requires_grad=True),
    )
    teacher, far = torch.zeros(2, 2), 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    row = Row(0, 0, (), (0, 1), 1.0, 0.0, 0.0)
    grads = []
    for clip in (math.inf, far / 3):
        student.grad = None
        loss = Distillation([[teacher]], clip=clip)(
            student, head, torch.tensor([0, 1]), [row], torch.tensor([0, 0]), 1.0
        )
        loss.sum().backward()
        grads.append(student.grad.clone())
    assert loss[0].item() == pytest.approx(far / 3, rel=1e-5)
    assert torch.allclose(grads[1][0], grads[0][0] / 3) and torch.equal(grads[1][1], grads[0][1])


@pytest.mark.parametrize("budget", [1, 24, 10_000])
def test_gradient_equals_the_plain_one(budget):
    model, hf, problem = tiny_model(), tiny_hf(), Problem("What is 1+1?")
    group, chat = traces(0, [5, 1, 9]), reference_messages(problem.text, "1+1 is 2.")
    soft = torch.nn.Parameter(torch.randn(4, 32, generator=torch.Generator().manual_seed(1)) * 0.3)
    loss = Distillation([teacher_states(model, problem, chat, group)])
    drain(
        policy_gradient(
            model,
            [RolloutGroup(problem, soft, group, torch.ones(3))],
            0.8,
            budget=budget,
            loss=loss,
        )
    )
    plain, total = soft.detach().clone().requires_grad_(), 0.0
    asked, told = model.render(solve_messages(problem.text)), model.render(chat)
    for t in group:
        embedded = hf.model.embed_tokens(torch.tensor(asked + t.token_ids))
        log_p = (
            hf(inputs_embeds=torch.cat((plain, embedded))[None]).logits[0, 4 + len(asked) - 1 : -1]
            / 0.8
        ).log_softmax(-1)
        log_q = (
            hf(torch.tensor([told + t.token_ids])).logits[0, len(told) - 1 : -1] / 0.8
        ).log_softmax(-1)
        total = total + (log_p.exp() * (log_p - log_q.detach())).sum() / 15
    (grad,) = torch.autograd.grad(total, plain)
    assert grad.abs().max() > 1e-4
    assert torch.allclose(soft.grad, grad, atol=1e-5, rtol=1e-3)


def test_a_teacher_that_sees_nothing_more_has_nothing_to_teach():
    model, problem = tiny_model(), Problem("What is 1+1?")
    group = traces(0, [5, 1, 9])
    soft = torch.nn.Parameter(torch.zeros(0, 32))
    states = teacher_states(model, problem, solve_messages(problem.text), group)
    work = policy_gradient(
        model,
        [RolloutGroup(problem, soft, group, torch.ones(3))],
        0.8,
        loss=Distillation([states]),
    )
    assert drain(work) == pytest.approx([0.0], abs=1e-6)


# ---------- The critic.


def planted(problems: int, offset: float) -> list:
    """Of each problem six traces; winners have a 1 in the first place, problems differ by an offset
    in the second."""
    rng, groups = np.random.default_rng(0), []
    for i in range(problems):
        rewards = np.array([1.0, 0, 1, 0, 0, 1])
        states = [rng.normal(0, 0.3, (9, 5)) + np.array([r, offset * i, 0, 0, 0]) for r in rewards]
        groups.append((states, rewards))
    return groups


def test_the_critic_finds_what_winners_have_in_common():
    weights = fit(planted(20, 0.0), ridge=0.01)
    assert weights[0] > 5 * np.abs(weights[1:]).max()


def test_how_problems_differ_teaches_nothing():
    assert np.allclose(
        fit(planted(20, 0.0), ridge=0.0), fit(planted(20, 3.0), ridge=0.0), atol=1e-9
    )


def test_a_long_trace_counts_as_much_as_a_short_one():
    short = [(np.ones((3, 1)), np.zeros((3, 1)))]
    long = [(np.ones((90, 1)), np.zeros((3, 1)))]
    rewards = np.array([1.0, 0.0])
    assert np.allclose(fit([(short[0], rewards)], 0.1), fit([(long[0], rewards)], 0.1))


def test_running_means_by_hand():
    assert running(np.array([[2.0], [4.0], [0.0]])).tolist() == [[2.0], [3.0], [2.0]]


def test_advantages_by_hand():
    """Rises of 1 and -2 with a decay of one half: 1 + 0.5 * -2, then -2, then nothing."""
    assert critic.advantages(np.array([0.0, 1.0, -1.0]), 0.5).tolist() == [0.0, -2.0, 0.0]


def test_the_means_are_those_of_the_states_that_predicted_the_tokens():
    model, problem = tiny_model(), Problem("1+1?")
    model.ends = frozenset(range(30))  # rows end early and leave the batch
    means = Means(4, 32, every=2)
    traces = [
        r
        for _, r in sample(
            model, [Job(problem, 4)], seed=0, temperature=1.0, max_new_tokens=12, watch=means
        )
        if isinstance(r, Trace)
    ]
    for t in traces:
        asked = model.render(solve_messages(problem.text))
        hidden = model.prefill([Prompt(asked + t.token_ids)]).hidden[0, len(asked) - 1 : -1]
        assert len(hidden) == t.tokens == int(means.counts[t.row])
        assert torch.allclose(means.ends[t.row], hidden.mean(0), atol=1e-4)
        assert [m.shape for m in means.marks[t.row]] == [(32,)] * (t.tokens // 2)


def test_credit_of_its_tokens_is_the_sum_of_their_gradients():
    """Factors 1 for some tokens and 0 for the others, and the reverse: together the gradient
    without factors."""
    model, group = tiny_model(), traces(0, [5, 9])
    soft = torch.randn(2, 32, generator=torch.Generator().manual_seed(0)) * 0.3
    some = [torch.tensor([1.0, 0, 0, 1, 0]), (torch.arange(9) % 2).float()]
    grads = []
    for credit in ([torch.ones(5), torch.ones(9)], some, [1 - c for c in some]):
        own = torch.nn.Parameter(soft.clone())
        rollouts = RolloutGroup(Problem("2+2?"), own, group, torch.tensor([1.0, -1.0]))
        loss = critic.Credited([credit])
        drain(policy_gradient(model, [rollouts], 0.8, budget=10, loss=loss))
        grads.append(own.grad)
    assert torch.allclose(grads[0], grads[1] + grads[2], atol=1e-6)
    assert not torch.allclose(grads[0], grads[1], atol=1e-4)


def judged(*triples):
    return [{"cluster": c, "right": r, "value": v, "tokens": 5} for c, r, v in triples]


def test_picks_and_weighed_votes_by_hand():
    some = judged((0, False, 0.0), (1, True, 1.0), (0, False, 0.2), (-1, False, 9.0))
    assert pick(some, lambda r: r["value"]) == 1.0, "what has no answer is not picked"
    assert weighed(some, None) == 0.0 and weighed(some, 0.5) == 1.0, "e^2 against e^0 + e^0.4"
    assert weighed(some[:2], None) == 0.0, "a tie goes to the earliest"
    assert weighed(some[3:], None) == 0.0


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_the_report_sees_what_the_critic_learnt_and_draws_it():
    """Planted states: the critic picks the right trace of two, a shuffled one does not."""
    rng, groups = np.random.default_rng(1), planted(30, 0.0)
    outcomes, means = {}, {}
    for i in range(20):
        rights = [True, False, False, True]
        outcomes[f"p{i}"] = [
            {"answer": "1" if r else str(9 + j), "right": r, "finished": True, "tokens": 5}
            | {"entropy": 0.1, "certainty": 1.0, "row": j}
            for j, r in enumerate(rights)
        ]
        means[f"p{i}"] = np.array([[float(r), 0, 0, 0, 0] for r in rights]) + rng.normal(
            0, 0.1, (4, 5)
        )
    told = report(groups, outcomes, means, "planted")
    assert [one["auc"] for one in told] == [1.0] * 3
    first = told[0]["contrasts"][0]
    assert (first["system"], first["against"], first["metric"]) == ("critic", "vote", "accuracy@2")
    assert first["low"] > 0 and first["holm_p"] < 0.05
    rows = {p: valued(group, means[p], np.zeros(5)) for p, group in outcomes.items()}
    learning = learning_curve(groups, rows, [1, 30])
    assert learning[1]["auc"] == 1.0 and learning[1]["votes"] == 30
    drawn = picture({"ends": told, "learning": learning})
    assert drawn.startswith("<svg") and "votes learnt from" in drawn


# ---------- Rollouts, lessons and training.


def test_parts_share_no_problem_and_one_that_comes_twice_counts_once(tmp_path, monkeypatch):
    monkeypatch.setitem(SPLITS, "small", {"train": 4, "dev": 3})
    texts = ["What is  1?", "what is 1?", *(f"What is {i}?" for i in range(2, 8))]
    append(
        tmp_path / "small.jsonl",
        [{"id": str(i), "problem": text, "answer": "1"} for i, text in enumerate(texts)],
    )
    train, dev = ({p.id for p in split(tmp_path, "small", part)} for part in ("train", "dev"))
    assert len(train) == 4 and len(dev) == 3 and train | dev == set("0234567")
    with pytest.raises(LatentmemError, match=r"no part small:test: use one of .*small:dev"):
        split(tmp_path, "small", "test")


def test_a_line_that_a_kill_cut_short_is_left_out(tmp_path):
    path = tmp_path / "log.jsonl"
    append(path, [{"a": 1}])
    path.write_text(path.read_text() + '{"a": 2')
    assert read(path) == [{"a": 1}]


def test_what_was_sampled_is_not_sampled_again(tmp_path, monkeypatch):
    store, problems = (
        Store(tmp_path / "w", tmp_path / "r"),
        [Problem("1+1?", answer="2"), Problem("1+2?", answer="3")],
    )
    how = {"rows": 4, "seed": 0, "temperature": 1.0, "limit": 6}
    first = store.sample("alone", tiny_model(), None, problems[:1], 2, **how)
    monkeypatch.setattr("tests.tools.learning.store.sample", lambda *_, **__: iter(()))
    assert store.sample("alone", None, None, problems[:1], 2, **how) == first
    assert summary(outcomes(tmp_path / "r", "alone", problems))["traces"] == 2


def rows(*answers, right="4"):
    return [
        {
            "answer": a,
            "right": a == right,
            "finished": a is not None,
            "tokens": 9,
            "entropy": 0.1,
            "row": i,
        }
        for i, a in enumerate(answers)
    ]


def test_the_vote_by_hand():
    assert voted(rows("4", "4", "5")) == 1.0
    assert voted(rows("4", "5", None)) == 0.5, "a tie counts by the share of the right"
    assert voted(rows(None, None)) == 0.0
    assert vote_curve({"p": rows("4", "4", "4")}) == [1.0, 1.0, 1.0]


def test_lessons_pass_the_gate():
    group = [Trace(i, "", a, True, 3) for i, a in enumerate("44444567")]
    problems = [Problem("a?", "a"), Problem("b?", "b"), Problem("not sampled?", "c")]
    split = [Trace(i, "", a, True, 3) for i, a in enumerate("44455566")]
    found = lessons(problems, {"a": group, "b": split}, 4, 7)
    assert [(one.problem.id, one.label) for one in found] == [("a", "4")]


def taught():
    return [
        Lesson(
            Problem(f"{i}+1?", f"p{i}"),
            "1",
            [
                Trace(t.row, "so", "1" if t.row % 2 else "2", True, t.tokens, token_ids=t.token_ids)
                for t in traces(i, [5, 3, 9, 4])
            ],
        )
        for i in range(3)
    ]


@pytest.mark.parametrize(
    ("form", "loss"),
    [
        *(("soft", loss) for loss in ("winners", "losers", "contrast", "distil", "distil_other")),
        *((form, "contrast") for form in ("kv", "vectors", "lora")),
    ],
)
def test_a_step_moves_every_form_and_under_every_loss(form, loss):
    trainer = Trainer(tiny_model(), Plan(form=form, loss=loss, batch=2, warm_up=0), taught())
    before = trainer.form.numbers.detach().clone()
    log = trainer.step()
    assert log["norm"] > 0 and log["shift"] > 0 and not torch.equal(before, trainer.form.numbers)


def test_normal_steps_have_their_length_and_follow_the_mean_gradient():
    w = torch.nn.Parameter(torch.zeros(2))
    optimizer = Normal(w, 0.5)
    optimizer.param_groups[0]["lr"] = 0.1
    for grad in ([3.0, 4.0], [0.0, 2.0]):  # means (3, 4), (1.5, 4): lengths 5 and 4.272
        w.grad = torch.tensor(grad)
        optimizer.step()
    assert w.tolist() == pytest.approx(
        [-0.06 - 0.1 * 1.5 / 4.272, -0.08 - 0.1 * 4 / 4.272], abs=1e-5
    )


@pytest.mark.parametrize("optimizer", ["normal", "adamw"])
def test_a_killed_run_ends_with_the_same_memory(tmp_path, optimizer):
    plan = Plan(form="kv", steps=4, batch=2, optimizer=optimizer, learning_rate=0.01)
    whole = Trainer(tiny_model(), plan, taught())
    run(whole, "whole", tmp_path, tmp_path)
    cut = Trainer(tiny_model(), plan, taught())
    monkey = iter(range(2))
    step = cut.step
    cut.step = (
        lambda: step()
        if next(monkey, None) is not None
        else (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        run(cut, "cut", tmp_path, tmp_path)
    again = Trainer(tiny_model(), plan, taught())
    run(again, "cut", tmp_path, tmp_path)
    assert torch.allclose(whole.form.numbers, again.form.numbers, atol=1e-6)
    kept = restore(tiny_model(), tmp_path / "memories" / "cut-4.safetensors")
    assert torch.equal(kept.numbers, again.form.numbers.bfloat16().float())
    assert [
        json.loads(line)["step"]
        for line in (tmp_path / "training" / "cut.jsonl").read_text().splitlines()
    ] == [1, 2, 3, 4]


def test_an_untrained_adapter_is_the_model_itself():
    base = tiny_model()
    prompt = [Prompt(base.render(solve_messages("1+1?")))]
    assert torch.allclose(
        base.prefill(prompt).hidden, LowRankForm(base).model(base).prefill(prompt).hidden, atol=1e-5
    )


def test_every_command_explains_itself(capsys):
    with pytest.raises(SystemExit):
        measure_learning.parser().parse_args(["--help"])
    said = capsys.readouterr().out
    assert all(name in said for name in ("sample", "every", "judge", "same"))


# ---------- Families, and a memory distilled from a context of own attempts.


def test_families_are_disjoint_and_their_answers_are_right():
    parts = {part: families.problems(part) for part in families.PARTS}
    sizes = {
        "learn": 64,
        "ask": 64,
        "confirm": 158,
        "repeat": 160,
        "many_learn": 253,
        "many_ask": 630,
    }
    assert {part: len(ps) for part, ps in parts.items()} == sizes
    for one, other in combinations(parts, 2):
        assert not {p.text for p in parts[one]} & {p.text for p in parts[other]}
    for p in parts["confirm"]:
        a, b, c = [*map(int, re.findall(r"\d+", p.text)), 0, 0][:3]
        worked = {
            "expr": a - b * c,
            "more": 2 * a + b,
            "half": a // 2 + b,
            "digits": sum(map(int, str(a))),
        }
        assert int(p.answer) == worked.get(families.family(p), int(p.answer)), p.text
    albums = next(p for p in parts["learn"] if p.id == "groups-learn-0")
    cards, lost, each = map(int, re.findall(r"\d+", albums.text))
    assert int(albums.answer) * each == cards - lost


def test_attempts_agree_write_no_code_and_are_never_a_problem_s_own():
    problems = [Problem(f"What is {i}?", f"x-learn-{i}", None) for i in range(5)]
    paid = {
        p.id: [
            Trace(
                r,
                "```" if r == 0 else f"It is {r}.",
                "7" if r < 8 - i else str(100 + r),
                True,
                1,
                token_ids=(1,),
                entropy=float(r),
            )
            for r in range(8)
        ]
        for i, p in enumerate(problems)
    }
    shown = context.attempts(problems, paid)
    assert [(one.problem.id, one.traces[0].row) for one in shown] == [
        (p.id, 1) for p in problems[:3]
    ]
    chat = context.in_context(shown)
    assert [m["content"] for m in chat(problems[0])[1::2]] == ["It is 1."] * 2
    assert len(chat(problems[4])) == 7


def test_a_memory_comes_nearer_to_the_model_that_has_attempts_in_context():
    base = tiny_model()
    problems = [Problem(f"What is {i} + {i}?", f"x-learn-{i}", None) for i in range(8)]
    turns = [*solve_messages("What is 1?"), {"role": "assistant", "content": "It is \\boxed{1}."}]
    given = []
    for p in problems:
        told = [
            Trace(r, "", "4", True, 4, token_ids=(5, 1 + r, 9, 12), entropy=0.0) for r in range(4)
        ]
        given += context.items(base, p, turns + solve_messages(p.text), told[:3], told[3:])
    learnt, watched = context.halves(given)
    assert {i.problem.id for i in learnt}.isdisjoint(i.problem.id for i in watched)
    form = LayerVectors(base)
    before = context.apart(base, form, watched, 0.8)
    logs = list(context.train(base, form, learnt, rate=0.02, steps=12, batch=6))
    assert context.apart(base, form, watched, 0.8) < 0.85 * before
    assert [log["step"] for log in logs] == list(range(1, 13))


def test_a_familys_prompt_its_start_and_the_deranged_one(tmp_path):
    base = tiny_model()
    for i, name in enumerate(family_prompts.LEARNT):
        form = SoftPrompt(base, "a start", 3)
        form.numbers.data.fill_(float(i + 1))
        family_prompts.keep(form, tmp_path / "memories" / f"family-{name}.safetensors")
    first, second, _ = family_prompts.LEARNT
    start = family_prompts.prompt(tmp_path, "untrained", first)
    own = family_prompts.prompt(tmp_path, "own", first)
    assert torch.equal(start, form.start.bfloat16().float())
    assert torch.allclose(own - start, torch.tensor(form.scale), rtol=0.1)
    deranged = family_prompts.prompt(tmp_path, "deranged", first)
    assert torch.equal(deranged, family_prompts.prompt(tmp_path, "own", second))
    assert not torch.equal(deranged, own)


def test_the_contrasts_and_the_exchange_rate_of_what_was_sampled(tmp_path):
    def rows(right):
        found = []
        for p in asked:
            for i, r in enumerate(right(p)):
                kept = {"problem": p.id, "row": i, "answer": "1", "right": r, "finished": True}
                found.append({**kept, "tokens": 9, "entropy": 0.1})
        return found

    asked = families.problems(gpu.ASK)[:6]
    folder = tmp_path / "outcomes"
    append(folder / "gpu-alone.jsonl", rows(lambda p: [p is asked[0]] * 3))
    append(folder / "gpu-own-0.jsonl", rows(lambda p: [True, True, p is asked[0]]))
    append(folder / "gpu-untrained-0.jsonl", rows(lambda _: [True, False, False]))
    told = gpu.confirmation(tmp_path, "tiny", [0])
    found = {line["against"]: line for line in told["contrasts"]}
    assert set(found) == {"zero_shot", "untrained"}
    assert found["zero_shot"]["estimate"] == pytest.approx((0 + 5 * 2 / 3) / 6)
    assert found["untrained"]["estimate"] == pytest.approx((2 / 3 + 5 / 3) / 6)
    assert all(line["n"] == 6 and 0 < line["holm_p"] <= 1 for line in told["contrasts"])
    assert told["exchange_rate"] is None  # no vote of the model alone reaches it
    assert gpu.exchange_rate(outcomes(tmp_path, "gpu-alone", asked), {"p": 1 / 6}) == 1
