"""Every measurer of our side runs on a tiny model; the peers do the work that they would do without
us; the sums of a report, and the series of --scale."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentmem.bench import report, runner, scale, workloads
from latentmem.bench.peers import package
from latentmem.bench.report import RowSpec
from latentmem.bench.runner import ROWS
from latentmem.bench.workloads import PeerMissing, Side, Workload
from latentmem.records import LatentmemError, Status, Step, Trace
from tests.tiny import tiny_hf, tiny_model

# ---------- The bench: every measurer of our side runs on a tiny model, the sums of the report,
# peers that are missing.


TINY = Workload(
    model="tiny",
    tokens=20,
    rollouts=4,
    steps=2,
    together=2,
    together_steps=1,
    memories=300,
    queries=5,
    virtual_tokens=4,
    init_text="Think.",
)


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model(num_hidden_layers=2, max_position_embeddings=1024)


@pytest.fixture
def tiny(model: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(workloads, "language_model", lambda _: model)
    return model


# ------------------------------------------------------------------ our side
@pytest.mark.parametrize(
    "prepare",
    [
        workloads.one_problem,
        workloads.four_problems,
        workloads.one_memory,
        workloads.together,
        workloads.one_after_another,
        workloads.peak_memory,
        workloads.search,
    ],
)
def test_every_measurer_of_ours_gives_a_positive_figure(tiny: Any, prepare: Any) -> None:
    side = prepare(TINY)
    assert isinstance(side, Side) and side.run() > 0 and side.run() > 0


def test_scripted_rollouts_have_one_length_and_a_vote_worth_learning(tiny: Any) -> None:
    from latentmem.method.rollouts import Job, sample
    from latentmem.method.voting import vote

    jobs = [Job(p, 8) for p in workloads.PROBLEMS[:2]]
    made = list(
        sample(workloads.scripted(tiny, 20, 8), jobs, seed=0, temperature=0.8, max_new_tokens=20)
    )
    for job in (0, 1):
        traces = [r for j, r in made if j == job and isinstance(r, Trace)]
        assert len(traces) == 8 and all(t.finished and t.tokens == 20 for t in traces)
        ballot = vote(traces, 8)
        assert (ballot.label, ballot.clusters[0].size, ballot.margin) == ("1", 5, 2)
    assert tiny.ends, "the model itself is as it was"


def test_the_first_vote_is_that_of_scripted_rollouts() -> None:
    traces, ballot = workloads.first_vote(replace(TINY, rollouts=8))
    assert len(traces) == 8 and (ballot.label, ballot.margin) == ("1", 2)


def test_every_step_has_a_gradient_or_the_figure_is_refused(tiny: Any) -> None:
    from latentmem.method.distillation import distil

    fixed = workloads.scripted(tiny, 20, 4)
    steps = [
        r
        for _, r in distil(
            fixed, workloads.PROBLEMS[:1], [workloads.first_vote(TINY)], workloads.recipe(TINY, 2)
        )
        if isinstance(r, Step)
    ]
    assert [s.grad_norm > 0 for s in steps] == [True, True, False]  # the last is the final check
    with pytest.raises(LatentmemError, match="at least 3 rollouts"):
        workloads.seconds(tiny, replace(TINY, rollouts=2), 1, 1)


def test_work_travels_as_json() -> None:
    assert Workload(**json.loads(json.dumps(asdict(TINY)))) == TINY


def test_banks_for_search_hold_what_was_asked() -> None:
    bank, keys = workloads.filled(50, 0), workloads.unit_keys(50, 0)
    assert len(bank) == 50 and bank.search(keys[7], k=1)[0].similarity == pytest.approx(1)
    workloads.extend(bank, workloads.unit_keys(10, 1), 50)
    assert len(bank) == 60


# ------------------------------------------------------------------ the report
SPEC = RowSpec("memory", "one memory", "s", "", peer_name="TRL")


def test_ratios_by_hand() -> None:
    rate = replace(SPEC, unit="tokens/s")
    assert rate.times(300, 100) == 3 and SPEC.times(20, 100) == 5
    assert rate.times(300, None) is None and SPEC.times(0, 5) is None


@given(st.floats(0.001, 1e6), st.floats(0.001, 1e6))
def test_better_either_way_is_a_ratio_above_one(a: float, b: float) -> None:
    assert (replace(SPEC, unit="tokens/s").times(a, b) > 1) == (a > b)
    assert (SPEC.times(a, b) > 1) == (a < b)


@pytest.mark.parametrize(
    ("target", "ours", "ratio", "met", "words"),
    [
        ({"ratio": 3}, 10, 3.0, True, "3 x"),
        ({"ratio": 3}, 10, 2.9, False, "3 x"),
        ({"ratio": 3}, 10, None, None, "3 x"),
        ({"limit": 0.3}, 0.29, None, True, "under 0.3 s"),
        ({"limit": 0.3}, 0.3, None, False, "under 0.3 s"),
        ({"ratio": 3, "limit": 25}, 26, 9.0, False, "3 x, under 25 s"),
        ({"ratio": 3, "limit": 25}, 24, 3.0, True, "3 x, under 25 s"),
    ],
)
def test_targets(
    target: dict[str, float], ours: float, ratio: float | None, met: bool | None, words: str
) -> None:
    spec = replace(SPEC, **target)
    assert spec.met(ours, ratio) is met and spec.target == words


def test_a_row_is_the_medians_and_their_ratio() -> None:
    spec = replace(SPEC, ratio=8)
    made = report.row(spec, [50.0, 90.0, 60.0], [540.0, 480.0, 600.0])
    assert (made.ours, made.peer, made.ratio, made.met) == (60, 540, 9, True)
    assert made.ours_runs == (50, 90, 60) and made.target == "8 x"
    alone = report.row(spec, [50.0, 70.0], [])
    assert (alone.ours, alone.peer, alone.ratio, alone.met) == (60, None, None, None)


# ------------------------------------------------------------------ rows, workers
def test_every_row_names_functions_that_are_there() -> None:
    for spec in ROWS.values():
        assert callable(runner.prepare(spec.ours)) and (
            not spec.peer or callable(runner.prepare(spec.peer))
        )
        assert spec.target
        foreign = spec.peer.startswith("peers:") and "transformers" not in spec.peer
        assert bool(spec.packages) == foreign and set(spec.packages) <= set(report.PACKAGES)
    assert runner.chosen([]) == list(ROWS.values())
    assert [s.name for s in runner.chosen(["peak", "memory"])] == ["memory", "peak"]
    with pytest.raises(LatentmemError, match="no row 'speed': choose from rollouts-8"):
        runner.chosen(["speed"])


def test_a_missing_package_is_one_sentence() -> None:
    with pytest.raises(
        PeerMissing, match=r'nothing-here is not installed .*pip install -e "\.\[bench\]"'
    ):
        package("nothing_here_at_all", "nothing-here")


def test_a_worker_measures_in_its_own_process() -> None:
    with runner.Worker("workloads:search", TINY) as one:
        assert 0 < one.measure() < 30 and 0 < one.measure() < 30
    with pytest.raises(LatentmemError, match="workloads:none failed: AttributeError"):
        runner.Worker("workloads:none", TINY)


# ------------------------------------------------------------------ scaling
def test_every_series_runs_and_is_drawn(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {
        "rollouts-batch": (4, 8),
        "rollouts-length": (16, 20),
        "distil-steps": (1,),
        "distil-tokens": (20,),
        "distil-memories": (1, 2),
        "search-size": (50, 100),
        "routing-k": (1, 4),
    }
    monkeypatch.setattr(scale, "SIZES", sizes)
    file = tmp_path / "scale.json"
    made = scale.run(scale.chosen([]), TINY, 1, file)
    series = [r for r in made if not isinstance(r, Status)]
    assert [s.name for s in series] == list(sizes)
    for s in series:
        assert s.x == sizes[s.name] and len(s.y) == len(s.x) and min(s.y) > 0
    page = report.growth(report.read(file, "scale"))
    assert page.html().count("data-figure=") == len(sizes)
    assert "| rows | tokens/s |" in page.markdown()
    again = [r.text for r in scale.run(["search-size"], TINY, 1, file, resume=True)]
    assert again == [f"search-size: already in {file}"]
    monkeypatch.setattr(report, "versions", lambda: {"torch": "another"})
    *_, made = scale.run(["search-size"], TINY, 1, file, resume=True)
    assert made.versions == {"torch": "another"}, "measured again"
    with pytest.raises(LatentmemError, match="no series 'x': choose from rollouts-batch"):
        scale.chosen(["x"])


# ---------- The peers do the work that they would do without us: no more, and with threads that
# wait in their own way.


def test_the_peer_with_a_soft_prompt_decodes_one_token_a_step() -> None:
    """Whatever PEFT makes of transformers' cache: else the peer would do many times the work, for
    other text."""
    import torch
    from peft import PromptTuningConfig, get_peft_model

    from latentmem.bench.peers import mend

    torch.manual_seed(0)
    tuned = get_peft_model(
        tiny_hf(), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=6)
    ).eval()
    asked, plain = (
        {"attention_mask": torch.ones(2, 5, dtype=torch.long)},
        {"do_sample": False, "max_new_tokens": 8},
    )
    ids = torch.tensor([[5, 6, 7, 8, 9], [9, 8, 7, 6, 5]])
    want = tuned.generate(input_ids=ids, **asked, **plain, use_cache=False)
    mend(tuned)
    passed, inner = [], tuned.base_model.model.forward

    def counted(*args: Any, **kwargs: Any) -> Any:
        given = kwargs.get("inputs_embeds")
        passed.append((given if given is not None else kwargs["input_ids"]).shape[1])
        return inner(*args, **kwargs)

    tuned.base_model.model.forward = counted
    assert torch.equal(tuned.generate(input_ids=ids, **asked, **plain), want)
    assert passed == [11] + [1] * (len(passed) - 1) and len(passed) > 2


@pytest.mark.parametrize(
    ("before", "torch_", "llama"),
    [
        ({"OMP_WAIT_POLICY": "passive", "LATENTMEM_WAITS": "1"}, {}, {}),
        (
            {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "20000"},
            {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "20000"},
            {},
        ),
        (
            {"OMP_WAIT_POLICY": "passive", "LATENTMEM_WAITS": "1", "GOMP_SPINCOUNT": "20000"},
            {"GOMP_SPINCOUNT": "20000"},
            {},
        ),
    ],
)
def test_a_peer_waits_as_without_us_or_as_a_person_set_it(
    before: dict[str, str], torch_: dict[str, str], llama: dict[str, str]
) -> None:
    for is_llama, after in ((False, torch_), (True, llama)):
        environ = dict(before)
        runner._as_at_home(environ, llama=is_llama)
        assert environ == after


# ---------- How a figure is drawn.


def test_what_spans_much_is_drawn_on_a_logarithmic_axis() -> None:
    plain = {"title": "t", "x_name": "x", "y_name": "y", "x": [1, 2]}
    for y, kind in (([1.0, 2.0], "linear"), ([1.0, 40.0], "log"), ([0.0, 40.0], "linear")):
        assert report.figure({**plain, "y": y})["layout"]["yaxis"]["type"] == kind
