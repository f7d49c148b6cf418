"""The model against transformers itself, and the promise that a row does not depend on its batch.
Tiny random weights."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from latentmem.method.prompts import solve_messages
from latentmem.method.retrieval import Embedder
from latentmem.model.kv_cache import KVCache
from latentmem.model.language_model import (
    LanguageModel,
    Prompt,
    arithmetic_named,
    native_arithmetic,
    native_number,
)
from latentmem.model.linear import Linear
from latentmem.model.weights.cache import Weights
from latentmem.records import LatentmemError
from tests.tiny import tiny_hf, tiny_model, tiny_tokenizer


def logits(model, prompt):
    with torch.no_grad():
        filled = model.prefill([prompt])
        return model.body.head(filled.hidden)[0]


def sample(model, prompts, seeds, **how):
    """Token ids per row."""
    out = {}
    for drawn in model.generate(
        prompts, seeds, **{"temperature": 0.8, "max_new_tokens": 12, **how}
    ):
        for d in drawn:
            out.setdefault(d.row, []).append(d.token)
    return [out[i] for i in sorted(out)]


@pytest.fixture(scope="module", params=["qwen2", "llama", "qwen3"])
def model(request):
    return tiny_model(request.param)


def test_soft_prompt_is_what_inputs_embeds_are_to_transformers():
    hf, soft = tiny_hf(), torch.randn(5, 32, generator=torch.Generator().manual_seed(2))
    ids = torch.arange(20)
    with torch.no_grad():
        want = hf(inputs_embeds=torch.cat((soft, hf.model.embed_tokens(ids)))[None]).logits[0]
    ours = logits(
        LanguageModel.of(hf, tiny_tokenizer(), name="t", fingerprint="t"),
        Prompt(tuple(range(20)), soft),
    )
    assert (ours - want).abs().max() < 1e-4


def test_greedy_rollouts_equal_those_of_transformers():
    hf = tiny_hf()
    ids = torch.arange(40, 60)[None]
    want = hf.generate(ids, do_sample=False, max_new_tokens=12, pad_token_id=257)[0, 20:].tolist()
    model = LanguageModel.of(hf, tiny_tokenizer(), name="t", fingerprint="t")
    assert sample(model, [Prompt(tuple(range(40, 60)))], [[0]], temperature=0)[0] == want


@pytest.mark.parametrize("shape", [(7, 32), (3, 1, 32)])
def test_a_row_does_not_depend_on_its_batch(model, shape):
    soft = torch.randn(*shape, generator=torch.Generator().manual_seed(3))
    mine, other, long = (
        Prompt(tuple(range(10, 25)), soft),
        Prompt(tuple(range(5)), torch.ones(3, 1, 32)),
        Prompt(tuple(range(100))),
    )
    for temperature in (0.0, 0.9):
        alone = sample(model, [mine], [[11]], temperature=temperature)[0]
        among = sample(
            model, [long, mine, other], [[1, 2], [7, 11, 8], [3]], temperature=temperature
        )[3]
        assert among == alone
    with torch.no_grad():
        padded = model.prefill([mine, long]).hidden[0, -1]
        single = model.prefill([mine]).hidden[0, -1]
    assert (model.body.head(padded[None]) - model.body.head(single[None])).abs().max() < 1e-4


def test_same_seed_same_tokens_and_another_seed_other_tokens(model):
    prompt = Prompt(tuple(range(30)))
    a, b, c = (sample(model, [prompt], [[s]], temperature=1.0)[0] for s in (1, 1, 2))
    assert a == b != c


def test_rows_leave_when_they_end(model, monkeypatch):
    """Every row stops at its own end of sequence, and the rows that go on are untouched by it."""
    monkeypatch.setattr(model, "ends", frozenset(range(40)))  # of 258 words: rows end early
    prompts = [Prompt(tuple(range(i, i + 9))) for i in range(5)]
    how = {"temperature": 1.4, "max_new_tokens": 16}
    together = sample(model, prompts, [[i] for i in range(5)], **how)
    assert len({len(ids) for ids in together}) > 2, "other seeds are needed"
    for i, ids in enumerate(together):
        assert sample(model, [prompts[i]], [[i]], **how)[0] == ids
        assert all(t not in model.ends for t in ids[:-1])


def test_closing_the_generator_stops_it(model):
    steps = model.generate([Prompt((1, 2, 3))], [[0]], temperature=1.0, max_new_tokens=400)
    next(steps)
    steps.close()
    assert torch.is_grad_enabled(), "the generator's no_grad must not leak into its consumer"


def test_grad_mode_of_the_consumer_between_tokens(model):
    for _ in model.generate([Prompt((1, 2, 3))], [[0]], temperature=1.0, max_new_tokens=3):
        assert torch.is_grad_enabled()


def test_a_memory_of_another_shape_is_refused(model):
    with pytest.raises(LatentmemError, match="width 16 and the model 32"):
        model.prefill([Prompt((1, 2), torch.zeros(3, 16))])
    with pytest.raises(LatentmemError, match="vectors for 4 layers and the model has 3"):
        model.prefill([Prompt((1, 2), torch.zeros(4, 1, 32))])


def test_prompt_beyond_the_context_is_refused(model):
    with pytest.raises(LatentmemError, match="600 tokens and the model reads 512"):
        model.prefill([Prompt((1,) * 600)])


def test_text_prompt_repeats_and_cuts(model):
    soft = model.text_prompt("abc", 5)
    assert torch.equal(soft, model.embed(model.tokenizer("abcab")["input_ids"]))
    assert model.text_prompt("abcdef", 2).shape == (2, 32)


def test_problem_kv_covers_the_problem_alone(model):
    kv = model.problem_kv(" What is 2+3? ", solve_messages(" What is 2+3? "))
    assert len(kv) == 3 and kv[0][0].shape == (2, len("What is 2+3?"), 8)


def test_other_families_are_refused():
    from transformers import AutoModelForCausalLM, GPT2Config

    gpt2 = AutoModelForCausalLM.from_config(
        GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=258)
    )
    with pytest.raises(LatentmemError, match="'gpt2' are not supported"):
        LanguageModel.of(gpt2, tiny_tokenizer(), name="g", fingerprint="g")


def test_packed_matrix_computes_the_same():
    torch.manual_seed(0)
    weight, bias = torch.randn(300, 64).bfloat16().float(), torch.randn(300)
    plain, packed = Linear(weight, bias), Linear(weight, bias)
    packed.pack()
    for rows in (1, 7, 64):
        x = torch.randn(rows, 64)
        with torch.no_grad():
            assert (plain(x) - packed(x)).abs().max() < 1e-4
    x.requires_grad_()
    packed(x).sum().backward()  # under autograd the plain form is used
    assert torch.allclose(x.grad, weight.sum(0).expand(64, -1), atol=1e-4)


def test_matrix_that_float16_cannot_hold_is_not_packed():
    odd = Linear(torch.randn(8, 8) * (1 + 2**-15))
    odd.pack()
    assert odd._packed is None


def test_eight_bits_are_refused_where_the_chip_has_none(monkeypatch):
    monkeypatch.setattr("latentmem.model.language_model.has_int8", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert native_arithmetic(torch.device("cpu")) == "float32"
    with pytest.raises(LatentmemError, match="8-bit integers"):
        arithmetic_named("int8", torch.device("cpu"))
    monkeypatch.setattr("latentmem.model.language_model.has_int8", lambda: True)
    for bfloat16 in (False, True):  # integers come first: their weights are half as much to read
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda known=bfloat16: known)
        assert (
            native_arithmetic(torch.device("cpu"))
            == arithmetic_named("auto", torch.device("cpu"))
            == "int8"
        )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("template", "it has no chat template"),
        ("kind", "cannot be used"),
        ("torn", "cannot be used"),
        ("cut", "cannot be used"),
        ("head", "it lacks lm_head.weight"),
        ("layer", "it lacks model.layers.1.mlp.down_proj.weight"),
        ("size", "cannot be used"),
        ("more", "its config does not mention model.layers.1.mlp.down_proj.bias"),
    ],
)
def test_a_model_that_cannot_be_used_is_said_in_one_sentence(change, words, tmp_path):
    tokenizer = tiny_tokenizer()
    if change == "template":
        tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    tiny_hf().save_pretrained(tmp_path)
    if change == "kind":
        config = tmp_path / "config.json"
        config.write_text(config.read_text().replace('"qwen2"', '"marvin"'))
    file = tmp_path / "model.safetensors"
    if change == "torn":
        file.unlink()
    if change == "cut":
        file.write_bytes(file.read_bytes()[:-1000])
    gone = {"head": "lm_head.weight", "layer": "model.layers.1.mlp.down_proj.weight"}.get(change)
    if gone or change in ("size", "more"):
        weights = {k: v for k, v in load_file(file).items() if k != gone}
        if change == "size":
            weights["lm_head.weight"] = weights["lm_head.weight"][:-1].clone()
        if change == "more":
            weights["model.layers.1.mlp.down_proj.bias"] = weights["model.norm.weight"].clone()
        save_file(weights, file, {"format": "pt"})
    with pytest.raises(
        LatentmemError, match=f"(?s)^(?=.*{words})mine cannot be used.*choose an instruct model"
    ) as raised:
        LanguageModel.load(
            Weights("mine", path=tmp_path, fingerprint="f" * 64, label="mine"), device="cpu"
        )
    assert "\n" not in str(raised.value)


def test_an_embedder_that_cannot_be_used_is_said_in_one_sentence(tmp_path):
    (tmp_path / "modules.json").write_text("[{]")
    with pytest.raises(
        LatentmemError,
        match=r"mine cannot be used as an embedder .*: choose a sentence-transformers model",
    ):
        Embedder.load(Weights("mine", path=tmp_path, fingerprint="f" * 64, label="mine"))


def test_a_soft_prompt_that_breaks_the_arithmetic_is_said_and_no_token_is_drawn():
    model = tiny_model()
    broken = torch.full((2, 32), float("nan"))
    with pytest.raises(
        LatentmemError, match="computed NaN or infinity: use dtype float32, or delete the memory"
    ):
        sample(model, [Prompt((1, 2, 3), broken)], [[1]])


def test_a_template_that_writes_a_date_writes_the_same_one_every_day():
    model = tiny_model()
    model.tokenizer.chat_template = (
        "{{ date_string or strftime_now('%d %b %Y') }}" + model.tokenizer.chat_template
    )
    text = model.tokenizer.decode(model.render([{"role": "user", "content": "1"}]))
    assert text.startswith("26 Jul 2024<|im_start|>")


def test_a_prompt_that_fills_the_context_is_refused():
    model = tiny_model()
    with pytest.raises(LatentmemError, match="The prompt fills all 512 tokens"):
        sample(model, [Prompt(tuple([5] * 512))], [[1]])


def test_a_long_prompt_takes_no_room_from_the_rows_beside_it():
    """Context 100: a prompt of 10 tokens may write 80 alone, and as many beside one of 60, which
    may write 40."""
    whole = tiny_model("qwen2")
    model = LanguageModel(
        whole.body, whole.tokenizer, name="t", fingerprint="t", ends=frozenset(), context=100
    )
    short, long = Prompt(tuple(range(5, 15))), Prompt(tuple(range(5, 65)))
    alone = sample(model, [short], [[1]], max_new_tokens=80)
    both = sample(model, [short, long], [[1], [2, 3]], max_new_tokens=80)
    assert [len(r) for r in both] == [80, 40, 40] and both[0] == alone[0]
    assert len(sample(model, [short], [[1]], max_new_tokens=200)[0]) == 90
    with pytest.raises(LatentmemError, match="fills all 100 tokens"):
        sample(model, [short, Prompt(tuple(range(100)))], [[1], [2]])


@pytest.mark.parametrize("native, number", [(True, torch.bfloat16), (False, torch.float32)])
def test_a_gpu_that_only_emulates_bfloat16_gets_float32(monkeypatch, native, number):
    monkeypatch.setattr(
        "torch.cuda.is_bf16_supported",
        lambda including_emulation=True: native or including_emulation,
    )
    assert native_number(torch.device("cuda")) is number


def test_a_cache_is_compacted_layer_by_layer():
    """In its own list of layers, so that what a layer held can go before the next one is copied:
    two whole caches may not fit."""
    cache = KVCache(
        [(torch.randn(2, 1, 3, 4), torch.randn(2, 1, 3, 4)) for _ in range(3)],
        torch.tensor([0, 0, 1]),
        2,
    )
    for pair in cache.layers:
        for t in pair:
            t[:, :, 3:] = (
                0  # the room for what comes is not written to yet, and may hold anything, NaN too
            )
    layers, want = cache.layers, [t[[0, 2]] for pair in cache.layers for t in pair]
    cache.keep(torch.tensor([0, 2]))
    assert cache.layers is layers and all(
        torch.equal(*both) for both in zip((t for p in layers for t in p), want, strict=True)
    )


@pytest.mark.parametrize("tied", [False, True])
def test_what_a_gpu_has_beside_the_weights(monkeypatch, tied):
    """3 layers of (4 + 2 * 2) * 8 x 32 + 32 x 32 + 96 x 32 + 32 x 48 numbers, 258 x 32 words; 2 * 3
    * 2 * 8 a position."""
    body = tiny_model(tie_word_embeddings=tied).body
    # free at the moment, and in all
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda _: (123, 10_000_000))
    assert body.spare == 10_000_000 - 4 * (
        3 * (2048 + 1024 + 3072 + 1536) + 8256 * (1 if tied else 2)
    )
    assert body.cached == 4 * 96
