"""A GGUF becomes a folder that loads: same numbers, same tokens, a turn that ends. The GGUF here is
tiny."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from latentmem.model.weights import gguf as conversion
from latentmem.model.weights import resolve
from latentmem.records import LatentmemError
from tests.weight_sources import no_network_and_no_process

SPECIALS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    *(f"<extra{i}>" for i in range(8)),
    "<jupyter_start>",
]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
HIDDEN, INNER, HEADS = 64, 64, 2


def write_gguf(path: Path, *, without: str = "") -> dict[str, np.ndarray]:
    """A random one-layer Llama with a byte-level vocabulary like SmolLM2's and tied embeddings;
    returns its tensors."""
    import gguf
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = list(bytes_to_unicode().values())
    space = bytes_to_unicode()[32]
    merged = [space * 2, space * 3, "</s>"]  # the last is ordinary text, as in Qwen's vocabulary
    tokens = [*SPECIALS, *letters, *merged]
    rng = np.random.default_rng(0)
    shapes = {"token_embd.weight": (len(tokens), HIDDEN), "output_norm.weight": (HIDDEN,)}
    block = {
        "attn_norm": (HIDDEN,),
        "ffn_norm": (HIDDEN,),
        "ffn_gate": (INNER, HIDDEN),
        "ffn_up": (INNER, HIDDEN),
        "ffn_down": (HIDDEN, INNER),
        **{f"attn_{part}": (HIDDEN, HIDDEN) for part in ("q", "k", "v", "output")},
    }
    shapes |= {f"blk.0.{name}.weight": shape for name, shape in block.items()}
    tensors = {
        name: rng.standard_normal(shape, dtype=np.float32)
        for name, shape in shapes.items()
        if name != without
    }

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types(
        [gguf.TokenType.CONTROL] * len(SPECIALS)
        + [gguf.TokenType.NORMAL] * (len(tokens) - len(SPECIALS))
    )
    writer.add_token_merges([f"{space} {space}", f"{space * 2} {space}"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template(TEMPLATE)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors


@pytest.fixture
def convert(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, Path], None]:
    """The conversion in this process, to save the imports; what it changes in the gguf package is
    put back."""
    import gguf

    for name in ("GGUFReader", "get_tensor_name_map"):
        monkeypatch.setattr(gguf, name, getattr(gguf, name))
    return conversion._main


def test_a_gguf_becomes_a_folder_that_loads(
    tmp_path: Path, convert: Callable[[Path, Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    import torch
    from safetensors import safe_open
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tensors = write_gguf(tmp_path / "tiny.gguf")
    convert(tmp_path / "tiny.gguf", tmp_path / "out")
    facts = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert len(facts["weights_sha256"]) == 64

    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as stored:
        names = set(stored.keys())
    assert "model.embed_tokens.weight" in names
    assert "lm_head.weight" not in names  # tied: stored once
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.bfloat16)
    expected = torch.from_numpy(tensors["token_embd.weight"]).to(torch.bfloat16)
    assert torch.equal(model.get_input_embeddings().weight, expected)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    # a turn's end, a text's end, and not the text '</s>'
    assert model.generation_config.eos_token_id == [2, 0]

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = tokenizer("<|im_start|>a12   34<|im_end|>", add_special_tokens=False).input_ids
    pieces = tokenizer.convert_ids_to_tokens(ids)
    assert pieces[0] == "<|im_start|>" and pieces[-1] == "<|im_end|>" and pieces.count("ĠĠĠ") == 1
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (2, 2)
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "1"}], tokenize=False, add_generation_prompt=True
    )
    assert chat == "<|im_start|>user\n1<|im_end|>\n<|im_start|>assistant\n"
    assert all(file.stat().st_mode & 0o444 == 0o444 for file in (tmp_path / "out").iterdir())


def test_a_gguf_that_lacks_weights_is_refused(
    tmp_path: Path, convert: Callable[[Path, Path], None]
) -> None:
    """transformers would fill the hole with random numbers and only warn."""
    write_gguf(tmp_path / "tiny.gguf", without="blk.0.ffn_up.weight")
    with pytest.raises(ValueError, match=r"the file lacks weights: .*up_proj"):
        convert(tmp_path / "tiny.gguf", tmp_path / "out")


@pytest.mark.parametrize(
    ("status", "output", "message"),
    [
        (
            1,
            "a warning\nValueError: it lacks weights: x",
            "could not be converted (ValueError: it lacks weights: x)",
        ),
        (-9, "", "it ran out of memory"),
    ],
)
def test_a_failed_conversion_is_one_sentence(
    status: int, output: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversion, "run_module", lambda *_, **__: (status, output))
    with pytest.raises(LatentmemError) as e:
        conversion.convert(tmp_path / "tiny.gguf", tmp_path / "out", "tiny", lambda status: None)
    assert message in str(e.value)
    monkeypatch.setattr(
        conversion,
        "run_module",
        lambda *_, **__: (1, "OSError: [Errno 28] No space left on device"),
    )
    with pytest.raises(OSError, match="No space left"):
        conversion.convert(tmp_path / "tiny.gguf", tmp_path / "out", "tiny", lambda status: None)


# ------------------------------------------------------------------ the models of the table
CHAT = [{"role": "user", "content": "What is the capital of France?"}]
# Token ids of the original repositories' tokenizers.
EXPECTED = {
    "smollm2-135m": {
        "Hello, world!": [19556, 28, 905, 17],
        "<|im_start|>user\n": [1, 4093, 198],
        "12345": [33, 34, 35, 36, 37],
        "x   3": [104, 333, 35],
    },
    "qwen2.5-coder-0.5b": {
        "Hello, world!": [9707, 11, 1879, 0],
        "<|im_start|>user\n": [151644, 872, 198],
        "12345": [16, 17, 18, 19, 20],
        "e\u0301": [963],
    },
}
ENDS = {"smollm2-135m": [2, 0], "qwen2.5-coder-0.5b": [151645, 151643]}


@pytest.mark.real
@pytest.mark.parametrize("name", EXPECTED)
def test_a_language_model_loads_quickly_and_offline(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    first, warm = resolve.ensure(name), resolve.ensure("smollm2-135m").path
    no_network_and_no_process(monkeypatch)
    assert resolve.ensure(name) == first
    # the library's own imports
    AutoModelForCausalLM.from_pretrained(warm, dtype=torch.bfloat16)
    begun = time.process_time()  # which a busy machine hardly lengthens
    model = AutoModelForCausalLM.from_pretrained(first.path, dtype=torch.bfloat16)
    assert time.process_time() - begun < 10
    tokenizer = AutoTokenizer.from_pretrained(first.path)
    assert model.dtype == torch.bfloat16 and model.generation_config.eos_token_id == ENDS[name]
    for text, ids in EXPECTED[name].items():
        assert tokenizer(text).input_ids == ids
    prompt = tokenizer.apply_chat_template(
        CHAT, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = model.generate(**prompt, max_new_tokens=48, do_sample=False)[
        0, prompt["input_ids"].shape[1] :
    ]
    assert "Paris" in tokenizer.decode(output) and output[-1] == ENDS[name][0]


@pytest.mark.real
def test_the_embedder_loads_in_sentence_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    from sentence_transformers import SentenceTransformer

    first = resolve.ensure("all-minilm-l6-v2")
    no_network_and_no_process(monkeypatch)
    model = SentenceTransformer(str(resolve.ensure("all-minilm-l6-v2").path), device="cpu")
    apples, pears, law = model.encode(
        ["Tom has 3 apples.", "Ann has 5 pears.", "The law of contracts."],
        normalize_embeddings=True,
    )
    assert apples.shape == (384,) and apples @ pears > apples @ law
    assert first.fingerprint == resolve.ensure("all-minilm-l6-v2").fingerprint


@pytest.mark.real
def test_the_conversion_gives_the_same_bytes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an own process and without network, from the download that the cache kept."""
    first = resolve.ensure("smollm2-135m")
    kept = resolve.cache_dir() / "gguf" / resolve.MODELS["smollm2-135m"].files[0].path
    if not kept.exists():
        pytest.skip("this cache does not keep its downloads (LATENTMEM_KEEP_GGUF=0)")
    (tmp_path / "gguf").mkdir()
    os.symlink(kept, tmp_path / "gguf" / kept.name)
    monkeypatch.setenv("LATENTMEM_CACHE", str(tmp_path))
    said: list[str] = []
    again = resolve.ensure("smollm2-135m", lambda status: said.append(status.text))
    stamps = [json.loads((made.path / "latentmem.json").read_text()) for made in (first, again)]
    assert stamps[0] == stamps[1] and again.path != first.path
    assert said[0].startswith("Checking") and all("Downloading" not in text for text in said)
    assert any("Converting smollm2-135m to bf16, once" in text for text in said)
