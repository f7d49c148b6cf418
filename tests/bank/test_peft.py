"""A soft prompt as a PEFT adapter: what we write PEFT loads, and what is no soft prompt is
refused."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from safetensors.numpy import load_file, save_file

from latentmem.bank import Bank
from latentmem.bank import peft as peft_module
from latentmem.bank.peft import adapter_folder, load_peft, save_peft
from latentmem.records import LatentmemError
from tests.bank_samples import make_memory
from tests.tiny import tiny_hf

prompts = arrays(
    np.float32,
    array_shapes(min_dims=2, max_dims=2, max_side=6),
    elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
)


@given(prompts, st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_what_is_saved_is_loaded_to_the_last_bit(
    tmp_path: Path, prompt: np.ndarray, init_text: str
) -> None:
    save_peft(
        tmp_path / "a",
        prompt,
        base_model="some/model",
        model_fingerprint="f" * 64,
        init_text=init_text,
    )
    loaded, meta = load_peft(tmp_path / "a")
    assert loaded.tobytes() == prompt.tobytes()
    assert loaded.dtype == np.float32
    assert loaded.shape == prompt.shape
    assert meta == {
        "base_model": "some/model",
        "model_fingerprint": "f" * 64,
        "init_text": init_text,
        "problem": "",
    }


def test_the_folder_is_a_standard_adapter(tmp_path: Path) -> None:
    strided = np.arange(24, dtype=np.float32).reshape(6, 4).T
    save_peft(tmp_path, strided, base_model="some/model", model_fingerprint="f")
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    stored = load_file(tmp_path / "adapter_model.safetensors")
    assert list(stored) == ["prompt_embeddings"] and np.array_equal(
        stored["prompt_embeddings"], strided
    )
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["peft_type"], config["task_type"], config["inference_mode"]) == (
        "PROMPT_TUNING",
        "CAUSAL_LM",
        True,
    )
    assert (config["num_virtual_tokens"], config["token_dim"]) == (4, 6)


@pytest.mark.parametrize("family", ["Qwen2", "Llama"])
def test_peft_loads_it_and_computes_the_same(
    tmp_path: Path, family: str, recwarn: pytest.WarningsRecorder
) -> None:
    """From the bank's export through `PeftModel.from_pretrained`, against the prompt put in front
    by hand."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from peft import PeftModel

    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
    )
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    with Bank() as bank:
        memory = make_memory(3, tokens=5, hidden=16)
        bank.export_peft(bank.put(memory)[:8], tmp_path / "adapter", base_model=str(tmp_path))
    assert load_peft(tmp_path / "adapter")[1] == {
        "base_model": str(tmp_path),
        "model_fingerprint": memory.model,
        "init_text": "Think.",
        "problem": memory.problem.text,
    }
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    with torch.no_grad():
        rows = torch.cat(
            [torch.from_numpy(memory.soft_prompt)[None], model.get_input_embeddings()(ids)], 1
        )
        expected = model(inputs_embeds=rows).logits
        adapted = PeftModel.from_pretrained(model, tmp_path / "adapter")
        logits = adapted(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        said = adapted.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=6,
            do_sample=False,
            use_cache=False,
        )  # with its cache PEFT 0.21 inserts the prompt again at every token
        for n in range(len(ids[0]), said.shape[1]):
            known = said[:, :n]
            rows = torch.cat(
                [torch.from_numpy(memory.soft_prompt)[None], model.get_input_embeddings()(known)], 1
            )
            assert model(inputs_embeds=rows).logits[0, -1].argmax() == said[0, n]
    assert adapted.active_peft_config.num_virtual_tokens == 5
    assert torch.equal(adapted.get_prompt(1)[0], torch.from_numpy(memory.soft_prompt))
    assert (logits - expected).abs().max() < 1e-5
    assert not [w for w in recwarn if "nexpected keyword" in str(w.message)]


def edit(**changes: object) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return apply


def tensors(**arrays: np.ndarray) -> Callable[[Path], None]:
    return lambda folder: save_file(arrays, folder / "adapter_model.safetensors")


def pickled(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (edit(peft_type="LORA"), "of type 'LORA'"),
        (edit(task_type="SEQ_CLS"), "for 'SEQ_CLS'"),
        (edit(num_virtual_tokens=3), r"has shape \(2, 4\) but adapter_config.json says \(3, 4\)"),
        (lambda f: (f / "adapter_config.json").write_text("{"), "is not JSON"),
        (lambda f: (f / "adapter_config.json").write_text("[]"), "is not a JSON object"),
        (lambda f: (f / "adapter_config.json").write_bytes(b" " * (2 << 20)), "is larger than"),
        (lambda f: (f / "adapter_config.json").unlink(), "cannot be read"),
        (
            lambda f: (f / "adapter_model.safetensors").write_bytes(b"x" * 99),
            "is not a safetensors file",
        ),
        (
            lambda f: (f / "adapter_model.safetensors").unlink(),
            "has no adapter_model.safetensors: copy it there",
        ),
        (pickled, "only a pickle, which is not opened"),
        (tensors(lora_A=np.zeros((2, 4), np.float32)), "holds lora_A"),
        (tensors(prompt_embeddings=np.zeros((2, 4), np.int32)), "holds I32 numbers"),
        (tensors(prompt_embeddings=np.full((2, 4), np.nan, np.float32)), "holds NaN"),
    ],
)
def test_foreign_and_damaged_adapters_are_refused(
    tmp_path: Path, harm: Callable[[Path], None], told: str
) -> None:
    save_peft(tmp_path, np.ones((2, 4), np.float32), base_model="m", model_fingerprint="f")
    harm(tmp_path)
    with pytest.raises(LatentmemError, match=told) as error:
        load_peft(tmp_path)
    assert "\n" not in str(error.value)


def test_bad_prompts_and_places_are_refused(tmp_path: Path) -> None:
    for bad in (np.ones(3), np.ones((0, 3)), np.full((1, 1), np.inf)):
        with pytest.raises(LatentmemError, match="must be a finite matrix"):
            save_peft(tmp_path, bad, base_model="m", model_fingerprint="f")
    (tmp_path / "file").touch()
    with pytest.raises(LatentmemError, match="could not be written"):
        save_peft(tmp_path / "file", np.ones((1, 1)), base_model="m", model_fingerprint="f")


def lora(folder: Path) -> None:
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 8}))
    save_file({"lora_A": np.zeros((2, 4), np.float32)}, folder / "adapter_model.safetensors")


def foreign_prompt(folder: Path) -> None:
    """Somebody's own prompt tuning: the same kind, but not ours."""
    save_peft(folder, np.ones((2, 4), np.float32), base_model="theirs", model_fingerprint="f")
    tensors(prompt_embeddings=np.ones((2, 4), np.float32))(folder)


def foreign_pickle(folder: Path) -> None:
    save_peft(folder, np.ones((2, 4), np.float32), base_model="theirs", model_fingerprint="f")
    pickled(folder)


@pytest.mark.parametrize(
    ("adapter", "file"),
    [
        (lora, "adapter_config.json"),
        (foreign_prompt, "adapter_model.safetensors"),
        (foreign_pickle, "adapter_model.bin"),
        (lambda f: (f / "adapter_config.json").write_text("{"), "adapter_config.json"),
        (
            lambda f: (f / "adapter_model.safetensors").write_bytes(b"x" * 99),
            "adapter_model.safetensors",
        ),
    ],
)
def test_an_adapter_that_is_not_ours_is_not_overwritten(
    tmp_path: Path, adapter: Callable[[Path], None], file: str
) -> None:
    adapter(tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(
        LatentmemError,
        match=f"{file} belongs to an adapter that latentmem did not write, so nothing",
    ) as error:
        save_peft(tmp_path, np.ones((3, 4), np.float32), base_model="m", model_fingerprint="f")
    assert "\n" not in str(error.value)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_an_adapter_of_ours_is_replaced(tmp_path: Path) -> None:
    for tokens in (2, 3):
        save_peft(tmp_path, np.ones((tokens, 4), np.float32), base_model="m", model_fingerprint="")
    assert load_peft(tmp_path)[0].shape == (3, 4)
    (tmp_path / "adapter_config.json").unlink()  # what a kill between the two files leaves
    save_peft(tmp_path, np.ones((4, 4), np.float32), base_model="m", model_fingerprint="")
    assert load_peft(tmp_path)[0].shape == (4, 4)


def test_a_foreign_adapter_in_half_precision_is_read(tmp_path: Path) -> None:
    save_peft(tmp_path, np.ones((2, 4), np.float32), base_model="m", model_fingerprint="f")
    tensors(prompt_embeddings=np.full((2, 4), 0.5, np.float16))(tmp_path)
    prompt, meta = load_peft(tmp_path)
    assert prompt.dtype == np.float32 and (prompt == 0.5).all() and meta["model_fingerprint"] == ""


def test_an_adapter_in_bfloat16_is_read(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file as save_torch

    save_peft(tmp_path, np.ones((2, 3), np.float32), base_model="m", model_fingerprint="f")
    given = torch.tensor([[0.5, -1.25, 3e-38], [1e30, 0.0, -0.1]], dtype=torch.bfloat16)
    save_torch({"prompt_embeddings": given}, tmp_path / "adapter_model.safetensors")
    prompt, _ = load_peft(tmp_path)
    assert prompt.dtype == np.float32 and (prompt == given.float().numpy()).all()


def test_an_adapter_is_found_in_a_folder_and_in_a_zip(tmp_path: Path) -> None:
    home = tmp_path / "home"
    save_peft(
        home, np.ones((2, 3), np.float32), base_model="m", model_fingerprint="f", problem="1 + 1?"
    )
    packed = shutil.make_archive(str(tmp_path / "a"), "zip", tmp_path, "home")
    for place in (home, packed):
        with adapter_folder(place) as folder:
            assert folder is not None and load_peft(folder)[1]["problem"] == "1 + 1?"
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("no zip")
    bank = zipfile.ZipFile(tmp_path / "bank.zip", "w")
    bank.writestr("manifest.json", "{}")
    bank.close()
    for place in ("empty", "text", "nowhere", "bank.zip"):
        with adapter_folder(tmp_path / place) as folder:
            assert folder is None


def test_an_adapter_in_a_zip_that_is_too_large_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peft_module, "MAX_ADAPTER_BYTES", 100)
    save_peft(tmp_path / "a", np.ones((9, 9), np.float32), base_model="m", model_fingerprint="f")
    packed = shutil.make_archive(str(tmp_path / "a"), "zip", tmp_path / "a")
    with (
        pytest.raises(LatentmemError, match="has more than 0 MB: it is no soft prompt"),
        adapter_folder(packed),
    ):
        pass


def test_an_adapter_finds_its_base_by_itself(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    base = tiny_hf()
    base.save_pretrained(tmp_path / "base")
    save_peft(
        tmp_path / "a",
        np.ones((2, base.config.hidden_size), np.float32),
        base_model=str(tmp_path / "base"),
        model_fingerprint="f",
    )
    model = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "a")
    assert model.active_peft_config.num_virtual_tokens == 2
