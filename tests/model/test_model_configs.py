"""Every variation of a config that is accepted gives transformers' own logits; every other is
refused by its name."""

from __future__ import annotations

import json

import pytest
import torch

from latentmem.model.language_model import LanguageModel, Prompt, check_template
from latentmem.model.weights.cache import Weights
from latentmem.records import LatentmemError
from tests.tiny import tiny_hf, tiny_tokenizer

ROPE = {"rope_theta": 10000.0, "factor": 4.0}
VARIATIONS = [
    {},
    {"tie_word_embeddings": True},
    {"hidden_act": "swish"},
    {"num_key_value_heads": 4},
    {"num_key_value_heads": 1},
    {"head_dim": 16},
    {"rms_norm_eps": 0.1},
    {"attention_dropout": 0.5},
    {"logit_scale": 1.0},
    {"rope_parameters": ROPE | {"rope_type": "default"}},
    {"rope_parameters": ROPE | {"rope_type": "linear"}},
    {"rope_scaling": {"type": "linear", "factor": 3.0}},
    {"rope_parameters": ROPE | {"rope_type": "yarn", "original_max_position_embeddings": 64}},
    {
        "rope_parameters": ROPE
        | {
            "rope_type": "llama3",
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        }
    },
]
OF_LLAMA = [
    {"attention_bias": True},
    {"mlp_bias": True},
    {"mlp_bias": True, "attention_bias": True},
]
OF_QWEN3 = [{"attention_bias": True}, {"use_sliding_window": False, "sliding_window": 8}]
OF_QWEN2 = [{"use_sliding_window": False, "sliding_window": 8}, {"max_window_layers": 1}]


@pytest.mark.parametrize(
    "changes",
    [
        {"family": family, **c}
        for family, own in (("llama", OF_LLAMA), ("qwen2", OF_QWEN2), ("qwen3", OF_QWEN3))
        for c in VARIATIONS + own
    ],
    ids=str,
)
def test_logits_equal_those_of_transformers(changes):
    hf = tiny_hf(**changes)
    for p in hf.parameters():  # biases start as zeros and norms as ones, which would show nothing
        if p.dim() == 1:
            p.data += 0.2 * torch.randn(p.shape, generator=torch.Generator().manual_seed(2))
    ids = torch.randint(0, 256, (40,), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        want = hf(ids[None]).logits[0]
        model = LanguageModel.of(hf, tiny_tokenizer(), name="t", fingerprint="t")
        ours = model.body.head(model.prefill([Prompt(tuple(ids.tolist()))]).hidden)[0]
    assert (ours - want).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("family", "changes", "named"),
    [
        ("llama", {"hidden_act": "gelu"}, "hidden_act=gelu"),
        ("qwen2", {"hidden_act": "relu"}, "hidden_act=relu"),
        (
            "qwen2",
            {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
            "window",
        ),
        (
            "qwen2",
            {"layer_types": ["full_attention", "sliding_attention", "full_attention"]},
            "layer_types=sliding_attention",
        ),
        ("llama", {"sliding_window": 8}, "sliding_window=8"),
        ("llama", {"is_causal": False}, "is_causal=False"),
        ("llama", {"logit_scale": 0.5}, "logit_scale=0.5"),
        ("llama", {"attention_multiplier": 2.0}, "attention_multiplier=2.0"),
        ("llama", {"final_logit_softcapping": 30.0}, "final_logit_softcapping=30.0"),
        ("llama", {"use_qk_norm": True}, "use_qk_norm"),
        ("llama", {"rope_parameters": ROPE | {"rope_type": "dynamic"}}, "rope_type=dynamic"),
        ("qwen2", {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "rope_type=dynamic"),
        (
            "qwen2",
            {
                "rope_parameters": ROPE
                | {
                    "rope_type": "longrope",
                    "short_factor": [1.0] * 4,
                    "long_factor": [2.0] * 4,
                    "original_max_position_embeddings": 64,
                }
            },
            "rope_type=longrope",
        ),
        (
            "llama",
            {"rope_parameters": ROPE | {"rope_type": "default", "partial_rotary_factor": 0.5}},
            "partial_rotary_factor=0.5",
        ),
    ],
)
def test_what_the_forward_pass_does_not_follow_is_refused_by_its_name(family, changes, named):
    with pytest.raises(LatentmemError, match=f"config has .*{named}"):
        LanguageModel.of(tiny_hf(family, **changes), tiny_tokenizer(), name="t", fingerprint="t")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_attention_heads": 0}, "division"),
        ({"vocab_size": -3}, "must be within"),
        ({"hidden_size": 33}, "its weights have other shapes than its config says"),
        ({"hidden_act": 5}, "field 'hidden_act': TypeError: Field 'hidden_act' expected str"),
        ({"hidden_act": "nonsense"}, "there is no 'nonsense'"),
        ({"max_position_embeddings": None}, "Field 'max_position_embeddings' expected int"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "Missing required keys"),
        ({"layer_types": ["full_attention"]}, "must be equal to the number of `layer_types`"),
    ],
)
def test_a_config_that_makes_no_model_is_one_sentence(changes, words, tmp_path):
    tiny_tokenizer().save_pretrained(tmp_path)
    tiny_hf().save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(LatentmemError) as raised:
        LanguageModel.load(Weights("mine", tmp_path, "f" * 64, "mine"), device="cpu")
    said = str(raised.value)
    assert said.startswith("mine cannot be used (") and words in said and "\n" not in said


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (
            "{% if messages[0]['role'] != 'system' %}{{ raise_exception('No system!') }}{% endif %}"
            "{% for m in messages %}{{ m['content'] }}{% endfor %}",
            "its chat template demands a system message",
        ),
        ("{% for %}", "its chat template fails: Expected an expression"),
        ("{{ foo.bar }}", "its chat template fails: 'foo' is undefined"),
        ("{{ raise_exception('Only tools') }}", "its chat template fails: Only tools"),
        ("Hello.", "its chat template leaves the question out"),
        (None, "it has no chat template"),
    ],
)
def test_a_chat_template_that_takes_no_question_is_refused_by_what_it_is(template, words):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(ValueError, match=words):
        check_template(tokenizer)


def test_a_model_that_could_think_first_is_asked_to_answer_at_once():
    """Qwen3 begins with an empty thought then, which is part of the prompt."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['content'] }}{% endfor %}"
        "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
    )
    model = LanguageModel.of(tiny_hf("qwen3"), tokenizer, name="t", fingerprint="t")
    ids = model.render([{"role": "user", "content": "Hi"}])
    assert tokenizer.decode(ids) == "Hi<think></think>"
