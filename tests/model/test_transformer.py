"""The forward pass: the configs it follows, the gradients of norm and activation, what it keeps."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from latentmem.method.grpo import token_bytes
from latentmem.model.kv_cache import Prefix
from latentmem.model.language_model import LanguageModel, Prompt, check_template
from latentmem.model.transformer import aligned, causal_mask, forward, gated, norm
from latentmem.model.weights.cache import Weights
from latentmem.records import LatentmemError
from tests.tiny import tiny_hf, tiny_model, tiny_tokenizer

# ---------- Every accepted config gives transformers' own logits; every other is refused by name.


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


# ---------- The norm and the gated activation: gradients as autograd's, and less kept for them.


def plain_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return F.rms_norm(x.float(), weight.shape, weight.float(), eps).to(x.dtype)


def plain_gated(gate_up: Tensor) -> Tensor:
    gate, up = gate_up.chunk(2, -1)
    return F.silu(gate) * up


def kept(f: Callable[[], Tensor], given: Tensor) -> int:
    """Bytes that the graph keeps beside what was given."""
    found: dict[int, int] = {}

    def keep(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() != given.untyped_storage().data_ptr():
            found[storage.data_ptr()] = storage.nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        f()
    return sum(found.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("trained", [False, True])
def test_the_norm_has_autograds_gradient(dtype: torch.dtype, trained: bool) -> None:
    torch.manual_seed(3)
    x, grad = (torch.randn(2, 5, 48).mul(4).to(dtype) for _ in range(2))
    weight = torch.randn(48).to(dtype)
    found = []
    for f in (norm, plain_norm):
        a, w = x.clone().requires_grad_(), weight.clone().requires_grad_(trained)
        y = f(a, w, 1e-6)
        y.backward(grad)
        found.append((y.detach(), a.grad, w.grad))
    (y, a, w), (plain, a_plain, w_plain) = found
    close = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-2, "atol": 1e-2}
    assert torch.equal(y, plain)
    torch.testing.assert_close(a, a_plain, **close)
    if trained:
        torch.testing.assert_close(w, w_plain, rtol=close["rtol"], atol=20 * close["atol"])
    else:
        assert w is None and w_plain is None


def test_the_norm_of_a_frozen_input_trains_the_weight_alone() -> None:
    x, weight = torch.randn(3, 8), torch.ones(8, requires_grad=True)
    norm(x, weight, 1e-6).sum().backward()
    torch.testing.assert_close(weight.grad, F.rms_norm(x, (8,), None, 1e-6).sum(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gated_activation_has_autograds_gradient_exactly(dtype: torch.dtype) -> None:
    torch.manual_seed(4)
    x, grad = torch.randn(2, 5, 64).mul(3).to(dtype), torch.randn(2, 5, 32).to(dtype)
    found = []
    for f in (gated, plain_gated):
        a = x.clone().requires_grad_()
        y = f(a)
        y.backward(grad)
        found.append((y.detach(), a.grad))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])


def test_nothing_is_kept_beside_the_input() -> None:
    x, weight = (
        torch.randn(4, 256, dtype=torch.bfloat16).requires_grad_(),
        torch.randn(256, dtype=torch.bfloat16),
    )
    assert kept(lambda: norm(x, weight, 1e-6), x) == weight.nbytes
    assert kept(lambda: gated(x), x) == 0
    assert kept(lambda: plain_norm(x, weight, 1e-6), x) > 2 * x.nbytes
    assert kept(lambda: plain_gated(x), x) == x.nbytes // 2


def test_without_a_gradient_no_graph_is_made() -> None:
    x, weight = torch.randn(4, 8).requires_grad_(), torch.ones(8)
    with torch.no_grad():
        assert norm(x, weight, 1e-6).grad_fn is None and gated(x).grad_fn is None


def saved_by_a_pass(rows: int, length: int) -> tuple[int, list[int]]:
    """What three layers keep of rows of that length behind prompts as long, in float32: bytes a
    token without weights and masks, and the sizes of the masks."""
    body = tiny_model(hidden_size=64, intermediate_size=160).body
    prefix = [
        tuple(torch.randn(1, 2, length, 16).requires_grad_() for _ in range(2)) for _ in body.layers
    ]
    positions = torch.arange(length, 2 * length).expand(rows, -1)
    mask = causal_mask(torch.ones(rows, 2 * length, dtype=torch.bool), length, body.dtype)
    weights = {
        t.data_ptr()
        for w in body.layers
        for t in (w.norm1, w.norm2, *(m.weight for m in (w.qkv, w.out, w.gate_up, w.down)))
    } | {body.norm.data_ptr()}
    found: dict[int, Tensor] = {}

    def keep(t: Tensor) -> Tensor:
        found[t.untyped_storage().data_ptr()] = t
        return t

    x, past = torch.randn(rows, length, 64), Prefix(prefix, torch.zeros(rows, dtype=torch.long))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        out = forward(body, x, positions, mask, past)
    assert out.requires_grad
    masks = [
        t.untyped_storage().nbytes()
        for t in found.values()
        if t.shape[-2:] == (2 * length, 2 * length)
    ]
    rest = sum(
        t.untyped_storage().nbytes()
        for k, t in found.items()
        if k not in weights and t.shape[-2:] != (2 * length, 2 * length)
    )
    return rest // (rows * length), masks


def test_all_layers_keep_one_and_the_same_mask() -> None:
    """Two query heads share a key head: 2 * 24 queries by 48 keys, 5 rows, 4 bytes."""
    assert saved_by_a_pass(5, 24)[1] == [5 * 48 * 48 * 4]


def test_the_estimate_of_what_a_token_keeps() -> None:
    """Hand-computed: 3 layers of (2 * 64 + 10 * 16 + 320 + 8 * 16) numbers of 4 bytes and 4
    float32."""
    body = tiny_model(hidden_size=64, intermediate_size=160).body
    assert token_bytes(body) == 3 * (4 * 736 + 16) == 8880
    assert saved_by_a_pass(5, 24)[0] == pytest.approx(token_bytes(body), rel=0.1)


@pytest.mark.parametrize("size", [5, 8, 16, 21])
def test_a_masks_rows_begin_where_cuda_wants_them(size: int) -> None:
    for mask in (torch.randn(2, 1, 3, size), torch.randn(2, 1, 1, 30)[..., :size]):
        made = aligned(mask)
        assert torch.equal(made, mask)
        assert made.stride(-1) == 1
        assert all(s % 8 == 0 for s in made.stride()[:-1])
        assert (made is mask) == all(s % 8 == 0 for s in mask.stride()[:-1])
