"""The models of the table themselves, fetched if they are not in the cache yet."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from latentmem.model.weights import resolve
from tests.weight_sources import no_network_and_no_process

pytestmark = pytest.mark.real
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


@pytest.mark.parametrize("name", EXPECTED)
def test_a_language_model_loads_quickly_and_offline(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    first = resolve.ensure(name)
    no_network_and_no_process(monkeypatch)
    assert resolve.ensure(name) == first
    AutoModelForCausalLM.from_pretrained(
        first.path, dtype=torch.bfloat16
    )  # the library's own imports
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
