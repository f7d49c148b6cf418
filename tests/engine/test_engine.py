"""The engine end to end on a tiny random model: streams, cancellation, determinism, what is stored
and what is not.

A random model boxes nothing, so its traces get answers from their own text by a stand-in extractor:
the loop is real, the mathematics is not. The same journeys with real weights are in test_real.py.
"""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest

from latentmem.bank import Bank
from latentmem.bank.key_index import OtherKeys
from latentmem.bank.peft import save_peft
from latentmem.engine import engine as engine_module
from latentmem.engine.loader import Place
from latentmem.method.routing import chosen
from latentmem.method.voting import gate
from latentmem.records import (
    Delta,
    Distilled,
    Event,
    LatentmemError,
    Problem,
    Receipt,
    Retrieval,
    Trace,
    Vote,
)
from latentmem.settings import Settings
from tests.baseline_samples import embed, tiny_engine
from tests.tiny import tiny_model

QUICK = {"max_new_tokens": 10, "steps": 3, "init_text": Settings.model_fields["init_text"].default}


@pytest.fixture(scope="module")
def models():
    return {
        name: tiny_model(seed=s, num_hidden_layers=2) for name, s in (("tiny", 5), ("other", 6))
    }


def new_engine(models, monkeypatch):
    made = tiny_engine(monkeypatch, models["tiny"], **QUICK)
    made._shared.loader._models[Place("other", "cpu")] = models["other"]
    return made


@pytest.fixture
def engine(models, monkeypatch):
    return new_engine(models, monkeypatch)


def run(stream):
    return list(stream)


def of(kind, records):
    return [r for r in records if isinstance(r, kind)]


P = Problem("Tom has 3 apples and buys 4. How many?", answer="7")
Q = Problem("Ann has 5 pears and eats 2. How many?", answer="3")


def learn(engine, problem=P, **how):
    """A problem for which the random model's votes make a memory."""
    for i in range(30):
        done = of(Distilled, run(engine.distil(Problem(f"{problem.text} ({i})"), **how)))[-1]
        if done.memory:
            return done
    raise AssertionError("no random vote could be learnt from")


@pytest.fixture(scope="module")
def learnt(models):
    """What was learnt, for the tests of what comes afterwards: one for all, which put it into a
    bank of their own."""
    with pytest.MonkeyPatch.context() as patch:
        return learn(new_engine(models, patch), keep=False)


@pytest.fixture
def taught(engine, learnt):
    engine.keep(learnt)
    return engine


def test_think_streams_traces_and_votes(engine):
    records = run(engine.think(P))
    assert sorted(t.row for t in of(Trace, records)) == list(range(6))
    votes = of(Vote, records)
    assert len(votes) == 6 and votes[-1].total == 6 and isinstance(records[-1], Vote)
    for t in of(Trace, records):
        assert t.text.startswith("".join(d.text for d in of(Delta, records) if d.row == t.row)[:5])
        assert t.tokens == len(t.token_ids) and t.entropy > 0


def test_same_seed_same_tokens(engine):
    a, b = (of(Trace, run(engine.think(P))) for _ in range(2))
    assert [t.token_ids for t in a] == [t.token_ids for t in b]
    c = of(Trace, run(engine.changed(seed=1).think(P)))
    assert [t.token_ids for t in a] != [t.token_ids for t in c]


def test_distil_stores_a_memory_that_answers(engine):
    done = learn(engine)
    assert done.kept and done.memory.id in engine.bank
    stored = engine.bank.get(done.memory.id)
    assert stored.soft_prompt.shape == (4, 32) and np.isfinite(stored.soft_prompt).all()
    assert set(stored.keys) == {"input", "kv"} and stored.best_step >= 1
    assert stored.problem.answer is None, "ground truth never reaches a memory"
    records = run(engine.answer(Q))
    receipt = records[-1]
    assert isinstance(receipt, Receipt) and receipt.used.memory_id == done.memory.id
    assert {t.side for t in of(Trace, records)} == {"zero_shot", "memory"}
    assert of(Retrieval, records)[0].hits[0].memory_id == done.memory.id
    assert receipt.problem.answer is None
    assert engine.bank.info(done.memory.id).counters.used == 1


def test_steps_are_records_of_real_updates(engine):
    done = learn(engine)
    assert all(s.problem_id == done.memory.problem.id for s in done.steps)
    trained = [s for s in done.steps if s.grad_norm > 0]
    assert trained and trained[-1].shift > 0 and all(len(s.rewards) == 6 for s in done.steps)
    assert done.steps[-1].note


def test_both_sides_draw_the_same_numbers(taught):
    """Zero-shot traces do not change because a memory is sampled beside them."""
    off = run(taught.answer(Q, "off"))[-1]
    auto = run(taught.answer(Q))[-1]
    alone = [t.token_ids for t in auto.traces if t.side == "zero_shot"]
    assert alone == [t.token_ids for t in off.traces]
    assert off.used is None and off.memory is None and "switched off" in off.route.reason


def test_replay_gives_the_same_tokens_and_notices_others(taught):
    receipt = run(taught.answer(Q))[-1]
    assert run(taught.replay(receipt))[-1].token_digest == receipt.token_digest
    with pytest.raises(LatentmemError, match="other tokens"):
        run(taught.replay(replace(receipt, token_digest="0" * 64)))
    with pytest.raises(
        LatentmemError,
        match=r"the same tokens, but the answer .* in place of 999: the receipt was changed",
    ):
        run(taught.replay(replace(receipt, answer="999")))
    strange = {
        **receipt.settings,
        "bank": "/nowhere/bank.sqlite",
        "model": "someone/huge",
        "hosted": True,
    }
    assert (
        run(taught.replay(replace(receipt, settings=strange)))[-1].token_digest
        == receipt.token_digest
    )


def early_receipt(engine, **how):
    """The receipt of a problem whose random vote is decided before its end, and the whole one."""
    for i in range(40):
        asked = Problem(f"{Q.text} ({i})")
        records = run(engine.changed(stop_when_decided=True).answer(asked, **how))
        receipt = records[-1]
        if len(of(Trace, records)) < len({t.side for t in receipt.traces}) * 6:
            whole = run(engine.answer(asked, **how))[-1]
            if receipt.tokens < whole.tokens:  # the others may be as long as the one that decided
                return asked, receipt, whole
    raise AssertionError("no random vote was decided early")


# temperature 1.6: attempts of one length would all end with the same token
EARLY = {"rollouts": 6, "max_new_tokens": 300, "temperature": 1.6, "gate_votes": 2, "gate_lead": 1}


@pytest.mark.parametrize("memory", ["off", "auto"])
def test_a_stopped_answer_is_that_of_the_whole_vote(taught, memory):
    """Same answer, side and verdict of the gate; fewer tokens; every trace as in the whole vote."""
    engine = taught.changed(**EARLY)
    _, early, whole = early_receipt(engine, memory=memory)
    assert (early.answer, early.route.side) == (whole.answer, whole.route.side)
    verdicts = [gate(r.zero_shot, 2, 1) is None for r in (early, whole)]
    assert verdicts[0] == verdicts[1]
    written = {(t.side, t.row): t.token_ids for t in whole.traces}
    assert all(written[t.side, t.row] == t.token_ids for t in early.traces)
    assert early.tokens < whole.tokens == sum(t.tokens for t in whole.traces)
    n = max(t.tokens for t in early.traces)
    assert early.tokens == sum(min(len(ids), n) for ids in written.values())
    assert early.sampled("zero_shot") + early.sampled("memory") == len(early.traces)
    assert early.settings["stop_when_decided"] and not whole.settings["stop_when_decided"]


def test_a_replay_stops_where_its_receipt_did_and_an_older_one_nowhere(taught):
    engine = taught.changed(**EARLY)
    _, early, whole = early_receipt(engine)
    other = engine.changed(gate_votes=5)
    assert run(other.replay(early))[-1].token_digest == early.token_digest
    old = {k: v for k, v in whole.settings.items() if k not in ("stop_when_decided", "gate_votes")}
    stopping = engine.changed(stop_when_decided=True)
    again = run(stopping.replay(replace(whole, settings=old)))[-1]
    assert again.token_digest == whole.token_digest


def test_a_stopped_vote_is_no_whole_one(taught):
    """Distil after it begins with it if it stops, too; any other samples the vote in whole."""
    engine = taught.changed(**EARLY, steps=1)
    asked, early, _ = early_receipt(engine, memory="off")
    stopping = engine.changed(stop_when_decided=True)
    first = of(Vote, run(stopping.distil(asked)))[0]
    assert first == early.zero_shot and first.voters < first.total == 6
    sampled = run(engine.changed(temperature=1.6).think(asked))
    assert engine._vote_key(asked) != stopping._vote_key(asked)
    known = engine._shared.votes.get(engine._vote_key(asked))
    assert known is not None and len(known[0]) == len(of(Trace, sampled)) == 6


def test_a_replay_is_no_use_of_a_memory(taught):
    receipt = run(taught.answer(Q))[-1]
    before = taught.bank.events(), [r.id for r in taught.bank.receipts()]
    assert receipt.used and run(taught.replay(receipt))[-1].used
    assert (taught.bank.events(), [r.id for r in taught.bank.receipts()]) == before


def test_a_bank_that_cannot_be_written_costs_neither_answer_nor_memory(taught, monkeypatch):
    def full(*_):
        raise LatentmemError("The disk is full.")

    monkeypatch.setattr(taught.bank, "keep_receipt", full)
    monkeypatch.setattr(taught.bank, "put", full)
    seen = []
    with pytest.raises(LatentmemError, match="disk is full"):
        for record in taught.answer(Q):
            seen.append(record)
    assert isinstance(seen[-1], Receipt) and seen[-1].answer is not None
    seen.clear()
    with pytest.raises(LatentmemError, match="disk is full"):
        for record in taught.distil_many([Problem(f"{P.text} ({i})") for i in range(6)]):
            seen.append(record)
    done = of(Distilled, seen)
    assert len(done) == 6 and any(d.memory for d in done) and not any(d.kept for d in done)


@pytest.mark.parametrize("after", [1, 40, 150])
def test_cancel_leaves_no_half_memory(engine, after):
    stream = engine.distil(P)
    for _ in range(after):
        next(stream, None)
    stream.close()
    assert len(engine.bank) == 0 and engine.bank.verify().problems == []


def test_keep_false_stores_nothing_until_kept(engine):
    done = learn(engine, keep=False)
    assert len(engine.bank) == 0 and not done.kept
    assert engine.keep(done) == done.memory.id and len(engine.bank) == 1


def test_nothing_learnt_is_said_and_not_kept(engine):
    strict = engine.changed(gate_votes=7)
    done = run(strict.distil(P))[-1]
    assert isinstance(done, Distilled)
    assert done.memory is None
    assert done.reason
    assert len(engine.bank) == 0
    with pytest.raises(LatentmemError, match="no memory to keep"):
        engine.keep(done)


def test_many_together_equal_one_by_one(engine):
    problems = [Problem(f"{P.text} ({i})") for i in range(4)]
    together = of(Distilled, run(engine.changed(steps=2).distil_many(problems, keep=False)))
    assert len(together) == 4
    for problem, many in zip(
        sorted(problems, key=lambda p: p.id),
        sorted(together, key=lambda d: d.problem_id),
        strict=True,
    ):
        one = run(engine.changed(steps=2).distil(problem, keep=False))[-1]
        assert [s.rewards for s in one.steps] == [s.rewards for s in many.steps]
        if one.memory:
            assert np.abs(one.memory.soft_prompt - many.memory.soft_prompt).max() < 1e-3


def test_memory_of_another_model_is_refused(taught, learnt):
    with pytest.raises(LatentmemError, match="made by tiny and the model in use is"):
        run(taught.changed(model="other").think(P, memory_id=learnt.memory.id))
    for kind in ("input", "kv"):
        with pytest.raises(LatentmemError, match="made by tiny and the model in use is"):
            run(taught.changed(model="other", key=kind).answer(P, memory=learnt.memory.id))
    assert run(taught.changed(model="other").answer(Q))[-1].used is None, (
        "retrieval looks only at this model's memories"
    )


@pytest.mark.parametrize("name", ["vote_share", "self_certainty", "judge"])
def test_every_verifier_settles_a_disagreement(taught, name):
    for i in range(20):
        receipt = run(taught.changed(verifier=name).answer(Problem(f"{Q.text} {i}")))[-1]
        if receipt.route.scores:
            assert receipt.route.verifier == name and set(receipt.route.scores) == {
                "zero_shot",
                "memory",
            }
            return
    raise AssertionError("no disagreement in twenty problems")


def test_one_trace_a_side_is_judged_since_its_votes_always_tie():
    assert chosen("vote_share", 1) == "judge" and chosen("vote_share", 2) == "vote_share"
    assert chosen("self_certainty", 1) == "self_certainty"


def test_feedback_counts(taught):
    receipt = run(taught.answer(Q))[-1]
    taught.feedback(receipt, True)
    assert taught.bank.events(receipt.used.memory_id, kind="feedback")[0].detail == {
        "correct": True
    }
    before = taught.bank.info(receipt.used.memory_id).counters
    taught.feedback(receipt, True)
    assert taught.bank.info(receipt.used.memory_id).counters == before, "a verdict counts once"
    with pytest.raises(LatentmemError, match="judged right before, and the first verdict stays"):
        taught.feedback(receipt, False)


def test_a_verdict_is_taken_down_whole_or_not_at_all(taught, monkeypatch):
    receipt = run(taught.answer(Q))[-1]
    before, judged = taught.bank.events(), engine_module.judged
    monkeypatch.setattr(
        engine_module, "judged", lambda *a: [*judged(*a), Event("m0000gone", "helped")]
    )
    with pytest.raises(LatentmemError, match="m0000gone"):
        taught.feedback(receipt, True)
    assert taught.bank.events() == before
    monkeypatch.setattr(engine_module, "judged", judged)
    taught.feedback(receipt, True)
    assert [e.kind for e in taught.bank.events(receipt_id=receipt.id) if e not in before][
        -1
    ] == "feedback"


def test_votes_of_another_arithmetic_are_sampled_again(engine):
    run(engine.think(P))
    engine._shared.loader._models[Place("tiny", "cpu", "float32")] = engine.model
    assert engine._shared.votes.get(engine._vote_key(P)) is not None
    assert engine._shared.votes.get(engine.changed(dtype="float32")._vote_key(P)) is None


@pytest.mark.parametrize("text", ["", "   \n"])
def test_empty_problem(text):
    with pytest.raises(LatentmemError, match="empty"):
        Problem(text)


def test_problem_too_long(engine):
    with pytest.raises(LatentmemError, match="5000 characters and the limit is 4000"):
        run(engine.think(Problem("x" * 5000)))


@pytest.mark.parametrize(
    "field, value",
    [
        ("temperature", float("nan")),
        ("rollouts", 0),
        ("top_p", 0),
        ("steps", -1),
        ("verifier", "oracle"),
        ("nonsense", 1),
    ],
)
def test_bad_settings_name_the_field(engine, field, value):
    with pytest.raises(LatentmemError, match=field):
        engine.changed(**{field: value})


# ---------- Which memory an answer tries, and why none.


def test_threshold_keeps_far_memories_out(taught):
    receipt = run(taught.changed(min_similarity=1.0).answer(Q))[-1]
    assert receipt.used is None and "below the threshold" in receipt.route.reason and receipt.hits


def test_keys_of_another_embedder_are_not_trusted(taught):
    """Their length is the same, so only what it makes of the memory's own problem tells it."""
    taught._shared.loader._embedders["reversed"] = lambda text: embed(text)[::-1].copy()
    receipt = run(taught.changed(embedder="reversed").answer(Q))[-1]
    assert receipt.hits and receipt.used is None
    assert "was not made by reversed" in receipt.route.reason
    assert "choose the embedder" in receipt.route.reason
    assert run(taught.changed(embedder="reversed", key="kv").answer(Q))[-1].used, (
        "activations have no embedder"
    )
    assert run(taught.answer(Q))[-1].used


def test_keys_of_another_length_cost_no_answer(taught):
    """An embedder of other dimensions finds nothing it could compare; the problem is answered
    alone, and told why."""
    taught._shared.loader._embedders["short"] = lambda text: embed(text)[:5] / np.linalg.norm(
        embed(text)[:5]
    )
    other = taught.changed(embedder="short")
    with pytest.raises(OtherKeys, match="use the embedder or model that made them"):
        other.search(Q)
    receipt = run(other.answer(Q))[-1]
    assert receipt.hits == () and receipt.used is None and receipt.route.side == "zero_shot"
    assert receipt.route.reason.startswith(
        "No memory is tried. The search key has 5 numbers, but the input keys"
    )


def test_what_cannot_be_is_said_before_any_work(taught, tmp_path):
    (tmp_path / "file").write_text("")
    # a bank that is named takes the place of the one given
    other = taught.changed(bank=tmp_path / "file" / "b.sqlite")
    with pytest.raises(LatentmemError, match="cannot be opened"):
        next(other.distil(Q))
    assert taught.changed(bank=tmp_path / "b.sqlite").bank.path == str(tmp_path / "b.sqlite")
    assert taught.changed(rollouts=5).bank is taught.bank
    with pytest.raises(LatentmemError):
        taught.search(Q, k=0)
    with pytest.raises(LatentmemError):
        run(taught.think(Q, memory_id=""))


def test_empty_bank_is_a_result(engine):
    assert "holds no memory" in run(engine.answer(Q))[-1].route.reason


def test_kv_keys_find_the_same_problem(taught, learnt):
    found = taught.changed(key="kv").search(learnt.memory.problem)
    assert found.kind == "kv" and found.hits[0].similarity == pytest.approx(1, abs=1e-3)


def test_an_adapter_is_imported_as_a_memory_without_a_vote(engine, tmp_path):
    """Ours names its problem; another is found by the one that is given, or by its first text."""
    hidden = engine.model.hidden
    prompt = np.random.default_rng(0).normal(size=(3, hidden)).astype(np.float32)

    def adapter(name, array=prompt, **known):
        given = {"base_model": "owner/base", "model_fingerprint": "", **known}
        save_peft(tmp_path / name, array, **given)
        return tmp_path / name

    ident = engine.import_adapter(adapter("a"), " How many apples? ")
    memory = engine.bank.get(ident)
    assert memory.soft_prompt.tobytes() == prompt.tobytes() and memory.label is None
    assert memory.problem == Problem("How many apples?", memory.problem.id, source="imported")
    assert memory.settings == {"imported": "owner/base"} and not memory.traces
    assert engine.search(Problem("How many apples?")).hits[0].memory_id == ident
    assert of(Receipt, run(engine.answer(P, memory=ident)))[0].memory_id in (ident, None)
    ours = engine.import_adapter(
        adapter("b", model_fingerprint=engine.model.fingerprint, problem="1 + 1?")
    )
    assert engine.bank.get(ours).problem.text == "1 + 1?"
    for path, words in (
        (adapter("c"), "does not say what it is for"),
        (adapter("d", np.ones((2, hidden + 1), np.float32)), rf"width {hidden + 1}, and the model"),
        (adapter("e", model_fingerprint="f" * 64), "choose that model"),
        (tmp_path / "nothing", "holds no PEFT adapter"),
    ):
        with pytest.raises(LatentmemError, match=words):
            engine.import_adapter(path)


# ---------- A memory that came from an archive.


@pytest.fixture
def brought(engine, learnt):
    """An engine whose bank imported what another learnt."""
    file = io.BytesIO()
    with Bank() as elsewhere:
        elsewhere.put(learnt.memory)
        elsewhere.export_zip(file)
    engine.bank.import_zip(file)
    return engine


def test_an_imported_memory_is_tried_and_does_not_answer_until_it_has_agreed(brought):
    texts = [f"{Q.text} ({i})" for i in range(40)]
    slips = [run(brought.answer(Problem(t)))[-1] for t in texts[:12]]
    first = next(i for i, s in enumerate(slips) if not s.route.probation)
    for slip in slips[:first]:
        assert slip.used and slip.memory_id is None and slip.answer == slip.zero_shot.label
        assert "is on probation" in slip.sentence()
    assert sum(s.route.agreed for s in slips[:first]) == 3
    assert [e.kind for e in brought.bank.events(kind="trusted")] == ["trusted"]


def test_a_replay_routes_as_its_receipt_did(brought, learnt):
    """Whether the memory was on probation then is in the receipt, and not asked of the bank."""
    slip = run(brought.answer(Q))[-1]
    assert slip.route.probation
    brought.bank.record(Event(learnt.memory.id, "trusted"))
    assert run(brought.replay(slip))[-1].route == slip.route
    later = run(brought.answer(Q))[-1]
    assert later.token_digest == slip.token_digest and not later.route.probation
    assert run(brought.replay(later))[-1].route == later.route


def test_keys_are_made_again_before_they_are_trusted(brought, learnt):
    """A forged kv key, as near to the question as can be, is passed over and marked; the next
    memory is tried."""
    here = brought.key(Q, "kv")
    forged = replace(
        learnt.memory, problem=Problem("Something else"), keys={"kv": here, "input": embed(Q.text)}
    )
    brought.bank.put(forged)
    for kind, maker in (("kv", "tiny"), ("input", "tiny")):
        slip = run(brought.changed(key=kind).answer(Q))[-1]
        assert slip.hits[0].memory_id == forged.id and slip.hits[0].similarity > 0.999
        assert slip.hits[0].passed_over == f"its key was not made by {maker}"
        assert slip.used.memory_id == learnt.memory.id and slip.used.rank == 2
        marks = brought.bank.events(forged.id, kind="retrieved", receipt_id=slip.id)
        assert marks[0].detail["passed_over"] == slip.hits[0].passed_over
