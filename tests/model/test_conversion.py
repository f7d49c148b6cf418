"""A GGUF becomes a folder that loads: same numbers, same tokens, a turn that ends. The GGUF here is
tiny."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from latentmem.model.weights import gguf as conversion
from latentmem.records import LatentmemError

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
    assert (
        "model.embed_tokens.weight" in names and "lm_head.weight" not in names
    )  # tied: stored once
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.bfloat16)
    expected = torch.from_numpy(tensors["token_embd.weight"]).to(torch.bfloat16)
    assert torch.equal(model.get_input_embeddings().weight, expected)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert model.generation_config.eos_token_id == [
        2,
        0,
    ]  # a turn's end, a text's end, and not the text '</s>'

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
    monkeypatch.setattr(conversion, "run_watched", lambda *_: (status, output))
    with pytest.raises(LatentmemError) as e:
        conversion.convert(tmp_path / "tiny.gguf", tmp_path / "out", "tiny", lambda status: None)
    assert message in str(e.value)
    monkeypatch.setattr(
        conversion, "run_watched", lambda *_: (1, "OSError: [Errno 28] No space left on device")
    )
    with pytest.raises(OSError, match="No space left"):
        conversion.convert(tmp_path / "tiny.gguf", tmp_path / "out", "tiny", lambda status: None)
