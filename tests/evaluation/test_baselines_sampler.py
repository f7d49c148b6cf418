"""The sampler of the comparison: what is sampled once, what decides a rollout, and what a kill
leaves behind."""

from __future__ import annotations

import errno
from types import SimpleNamespace

import pytest
import torch

from latentmem.evaluation.baselines.sampler import Ask, Sampler, default_rows, rows_in
from latentmem.evaluation.results import ONE, VOTE, AnswerMode
from latentmem.files import Log, read_json, write_json
from latentmem.method.rollouts import Job, sample
from latentmem.records import LatentmemError, Problem
from tests.baseline_samples import (  # noqa: F401
    QUICK,
    bare,
    engine,
    make_factory,
    model,
    one_thread,
    problems,
    tiny_engine,
)
from tests.tiny import tiny_model

VOTE6 = AnswerMode("vote", 6, 1.2)


@pytest.fixture
def factory(engine):
    return make_factory(engine)


def test_sampler_gives_the_plain_samples(factory, model):
    """What the sampler batches is what one job alone gives."""
    asks = [Ask(p) for p in problems(5)]
    for ask, sampled in zip(asks, factory.sampler.sample(asks, VOTE6), strict=True):
        alone = {
            r.row: r
            for _, r in sample(
                model,
                [Job(ask.problem, 6)],
                seed=0,
                temperature=1.2,
                max_new_tokens=QUICK["max_new_tokens"],
            )
            if hasattr(r, "token_ids")
        }
        assert [t.token_ids for t in sampled.traces] == [alone[i].token_ids for i in range(6)]
        assert [t.answer for t in sampled.traces] == [alone[i].answer for i in range(6)]
        assert sampled.cost.tokens == sum(len(t.token_ids) for t in sampled.traces)
        assert sampled.cost.read == len(factory.sampler.prompt(ask)) and sampled.vote.total == 6


def test_batches_hold_no_more_rows_than_allowed(engine, monkeypatch):
    sizes = []
    from latentmem.evaluation.baselines import sampler as module

    def counted(model, jobs, **how):
        sizes.append(sum(j.rollouts for j in jobs))
        return sample(model, jobs, **how)

    monkeypatch.setattr(module, "sample", counted)
    Sampler(engine.model, max_new_tokens=4, rows=8).sample([Ask(p) for p in problems(4)], VOTE6)
    assert sizes == [8, 8, 8]


def test_a_hit_costs_what_the_miss_cost(engine, tmp_path):
    """Whether remembered in the process or on disk, replies and costs are equal, seconds
    included."""
    first = make_factory(engine, tmp_path)
    a = list(first.make("zero_shot").reply(problems(3), VOTE6))
    size = (tmp_path / "rollouts.jsonl").stat().st_size
    assert list(first.make("zero_shot").reply(problems(3), VOTE6)) == a
    assert list(make_factory(engine, tmp_path).make("zero_shot").reply(problems(3), VOTE6)) == a
    assert (tmp_path / "rollouts.jsonl").stat().st_size == size
    assert a[0].cost.seconds > 0


def test_rows_share_rollouts(factory):
    """vote_n's first traces are zero_shot's, and elm's own side is zero_shot."""
    # whatever the recipe's temperature: a vote is the same for all rows
    vote6 = AnswerMode("vote", 6, VOTE.temperature)
    assert factory.recipe.temperature != VOTE.temperature
    six = [r.traces for r in factory.make("zero_shot").reply(problems(3), vote6)]
    nine = [r.traces for r in factory.make("vote_n").reply(problems(3), ONE)]
    assert [t[:6] for t in nine] == six and all(len(t) == 9 for t in nine)
    elm = factory.make("elm")
    list(elm.learn(problems(6)))
    replies = elm.reply(problems(3), vote6)
    assert [tuple(t for t in r.traces if t.side == "zero_shot") for r in replies] == six


@pytest.mark.parametrize("change", [{"seed": 1}, {"max_new_tokens": 11}, {"top_p": 0.5}])
def test_other_conditions_are_other_keys(engine, change):
    how = {"seed": 0, "max_new_tokens": 12, "top_p": 1.0}
    keys = [
        {r.key for r in Sampler(engine.model, **h)._rows(0, Ask(problems(1)[0]), VOTE6)}
        for h in (how, {**how, **change})
    ]
    assert len(keys[0]) == 6 and not keys[0] & keys[1]


def test_soft_prompt_and_chat_and_model_decide_the_key(engine):
    p, sampler = problems(1)[0], Sampler(engine.model, max_new_tokens=12)
    soft = engine.model.text_prompt("Solve it.", 4)
    asks = [
        Ask(p),
        Ask(p, soft),
        Ask(p, soft + 1e-3),
        Ask(p, messages=({"role": "user", "content": "Hi"},)),
    ]
    keys = [next(iter(sampler._rows(0, a, ONE))).key for a in asks]
    keys.append(next(iter(sampler.of(tiny_model(seed=6))._rows(0, asks[0], ONE))).key)
    assert len(set(keys)) == 5
    assert next(iter(sampler._rows(0, Ask(p, soft.clone()), ONE))).key == keys[1]


def test_a_half_written_line_is_dropped(tmp_path):
    log = Log(tmp_path / "a.jsonl")
    log.append({"a": 1})
    log.append({"b": 2})
    with open(tmp_path / "a.jsonl", "ab") as file:
        file.write(b'{"c": ')
    again = Log(tmp_path / "a.jsonl")
    assert again.read() == [{"a": 1}, {"b": 2}]
    again.append({"c": 3})
    assert Log(tmp_path / "a.jsonl").read() == [{"a": 1}, {"b": 2}, {"c": 3}]
    (tmp_path / "a.jsonl").write_text('{"a": 1}\nrubbish\n')
    with pytest.raises(LatentmemError, match="line 2 is damaged"):
        Log(tmp_path / "a.jsonl").read()


def test_a_killed_sampling_goes_on_with_the_same_batches(engine, tmp_path):
    """Cut the file at every place a kill could: the replies of the resumed run are those of the
    whole one."""
    whole = make_factory(engine, tmp_path / "whole")
    want = [bare(r) for r in whole.make("zero_shot").reply(problems(5), VOTE6)]
    data = (tmp_path / "whole" / "rollouts.jsonl").read_bytes()
    ends = [i + 1 for i, byte in enumerate(data) if byte == 10]
    assert len(ends) == 3  # 30 rows in batches of 12
    for cut in (0, 7, ends[0] - 1, ends[0], ends[1] + 5, ends[2] - 1):
        folder = tmp_path / str(cut)
        folder.mkdir()
        (folder / "rollouts.jsonl").write_bytes(data[:cut])
        assert [
            bare(r)
            for r in make_factory(engine, folder).make("zero_shot").reply(problems(5), VOTE6)
        ] == want
        assert (folder / "rollouts.jsonl").read_bytes().count(b"\n") == 3


def test_what_the_disk_refuses_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(
        LatentmemError,
        match=r"a.jsonl cannot be opened \(File exists\): make room or give another folder",
    ):
        Log(tmp_path / "file" / "a.jsonl")
    with pytest.raises(LatentmemError, match=r"x.json cannot be read"):
        read_json(tmp_path / "file" / "x.json")
    log, full = Log(tmp_path / "a.jsonl"), OSError(errno.ENOSPC, "No space left on device")

    def no_room(_):
        raise full

    monkeypatch.setattr("os.fsync", no_room)
    with pytest.raises(
        LatentmemError, match=r"a.jsonl cannot be written \(No space left on device\)"
    ):
        log.append({})
    with pytest.raises(
        LatentmemError, match=r"x.json cannot be written \(No space left on device\)"
    ):
        write_json(tmp_path / "x.json", {})
    assert read_json(tmp_path / "x.json") is None
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(LatentmemError, match=r"x.json is damaged"):
        read_json(tmp_path / "x.json")
    (tmp_path / "a.jsonl").write_bytes(b"\xff\n")
    with pytest.raises(LatentmemError, match=r"a.jsonl, line 1 is damaged"):
        Log(tmp_path / "a.jsonl").read()


def test_a_problem_that_the_model_cannot_read_is_named(monkeypatch):
    factory = make_factory(
        tiny_engine(monkeypatch, tiny_model(seed=5, max_position_embeddings=260))
    )
    with pytest.raises(
        LatentmemError,
        match=r"Problem long makes a prompt of \d+ tokens and the model reads and writes 260",
    ):
        factory.sampler.sample([Ask(Problem("word " * 300, "long"))], ONE)


@pytest.mark.parametrize(
    "free, position, length, rows",
    [
        (68_000_000_000, 131_072, 2560, 96),  # Llama-3.1-8B on 80 GiB: 34e9 / 335.5e6 = 101
        (70_000_000_000, 57_344, 2560, 232),  # Qwen2.5-Math-7B: 35e9 / 146.8e6 = 238
        (80_000_000_000, 12_288, 832, 256),  # a small model has room for more than is of use
        (
            68_000_000_000,
            131_072,
            3584,
            72,
        ),  # with the paper's 3072 new tokens: 34e9 / 469.8e6 = 72.4
        (8_000_000_000, 131_072, 2560, 8),
        (-5, 131_072, 2560, 8),
    ],
)
def test_a_batch_is_as_large_as_a_gpus_memory_allows(
    free: int, position: int, length: int, rows: int
) -> None:
    assert rows_in(free, position, length) == rows


def test_a_gpu_has_fewer_rows_together_where_prompts_are_long() -> None:
    """Eight rows are reckoned with prompts of 512 tokens, twice, and 976 new ones: 16,000
    positions. Of 1,012 tokens there is room for five (3,000 each), of 512 for eight; a CPU takes
    its rows whatever they are."""
    model = SimpleNamespace(body=SimpleNamespace(device=torch.device("cuda")))
    sampler, row = Sampler(model, max_new_tokens=976, rows=8), SimpleNamespace
    queue = [row(length=512)] * 8 + [row(length=1012)] * 7 + [row(length=90_000)] * 2
    assert [len(batch) for batch in sampler._cut(queue)] == [8, 5, 2, 1, 1]
    model.body.device = torch.device("cpu")
    assert [len(batch) for batch in sampler._cut(queue)] == [8, 8, 1]


def test_the_rows_are_the_models_unless_they_are_given() -> None:
    body = SimpleNamespace(device=torch.device("cuda"), spare=68_000_000_000, cached=131_072)
    model = SimpleNamespace(body=body)
    assert default_rows(model, 3072) == Sampler(model, max_new_tokens=3072).rows == 72
    assert Sampler(model, max_new_tokens=3072, rows=100).rows == 100
    body.device = torch.device("cpu")
    assert Sampler(model, max_new_tokens=3072).rows == 32
