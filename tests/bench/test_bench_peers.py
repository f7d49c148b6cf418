"""The peers do the work that they would do without us: no more, and with threads that wait in their
own way."""

from __future__ import annotations

from typing import Any

import pytest

from latentmem.bench import runner
from tests.tiny import tiny_hf


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
