"""Convert a verified GGUF, once, to a folder that loads in seconds: bf16 safetensors, tokenizer,
config.

transformers reads a GGUF in about a minute and several GB of memory; the folder is memory-mapped in
two seconds. The work runs in a child process (`python -m latentmem.model.weights.gguf`), which
gives its memory back and can be stopped.
"""

from __future__ import annotations

import errno
import functools
import json
import sys
import time
from pathlib import Path
from typing import Any

from ...records import LatentmemError, Status
from .cache import file_sha256
from .child import Progress, disk_full, last_line, run_module

END_TOKENS = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "</s>")


def convert(gguf: Path, folder: Path, what: str, say: Progress) -> dict[str, Any]:
    """Writes the folder (which must not exist) and returns {'weights_sha256', 'tensors'}.

    Raises LatentmemError when the file cannot be converted, OSError when the disk is full.
    """
    begun, said = time.monotonic(), -1

    def tick() -> None:
        nonlocal said
        took = int(time.monotonic() - begun)
        if took > said:
            said, left = took, "(it takes a minute or two)"
            say(Status(f"Converting {what} to bf16, once: {took} s {left}", took))

    env = {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "TOKENIZERS_PARALLELISM": "false"}
    status, output = run_module("gguf", [str(gguf), str(folder)], tick, **env)
    lines = output.strip().splitlines() or [""]
    if status == 0:
        return json.loads(lines[-1])
    if disk_full(output):
        raise OSError(errno.ENOSPC, "No space left on device", str(folder))
    reason = "it ran out of memory" if status in (-9, 137) else lines[-1][:300]
    raise LatentmemError(
        f"{gguf.name} could not be converted ({reason}): close other programs if memory is short, "
        f"else check the installed versions of transformers and gguf with `latentmem doctor`."
    )


def _main(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GgufConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    _read_once()
    model, info = AutoModelForCausalLM.from_pretrained(
        str(gguf.parent),
        gguf_file=gguf.name,
        dtype=torch.bfloat16,
        trust_remote_code=False,
        quantization_config=GgufConfig(dequantize=True),
        output_loading_info=True,
    )
    # transformers would fill missing weights with random numbers and only warn.
    if missing := info.get("missing_keys"):
        raise ValueError(f"the file lacks weights: {', '.join(sorted(missing))[:200]}")
    if not all(torch.isfinite(p).all() for p in model.parameters()):
        raise ValueError("a weight is not finite")
    tokenizer = AutoTokenizer.from_pretrained(
        str(gguf.parent), gguf_file=gguf.name, trust_remote_code=False
    )
    ends = _mend(tokenizer)
    if hasattr(model.config, "_model_name_or_path"):
        # A label inside the GGUF, which would later look like a path.
        del model.config._model_name_or_path
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=ends, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _check(folder, tokenizer, ends)
    for file in folder.iterdir():
        file.chmod(0o644)  # transformers writes weights for the owner only; a cache may be shared
    sha256, tensors = file_sha256(folder / "model.safetensors"), len(model.state_dict())
    print(json.dumps({"weights_sha256": sha256, "tensors": tensors}))


def _read_once() -> None:
    """Cache what transformers asks of gguf several times: half of the wait is parsing again."""
    import gguf

    gguf.GGUFReader = functools.lru_cache(gguf.GGUFReader)
    gguf.get_tensor_name_map = functools.lru_cache(gguf.get_tensor_name_map)


def _mend(tokenizer: Any) -> list[int]:
    """Add what the GGUF conversion of transformers leaves out of the tokenizer. Returns the end
    tokens.

    Qwen2 normalises to NFC; SmolLM2 splits digits before anything else (else '   3' is cut
    differently); a pad token must exist; every token that ends a turn or a text must stop the
    sampling.
    """
    from tokenizers import normalizers, pre_tokenizers

    inner = tokenizer.backend_tokenizer
    if type(tokenizer).__name__.startswith("Qwen2"):
        inner.normalizer = normalizers.NFC()
    elif tokenizer.convert_tokens_to_ids("<jupyter_start>") == 11:  # SmolLM2's vocabulary
        digits = pre_tokenizers.Digits(individual_digits=True)
        rest = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        inner.pre_tokenizer = pre_tokenizers.Sequence([digits, rest])
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if not tokenizer.chat_template or tokenizer.eos_token_id is None:
        raise ValueError("the file has no chat template or no end token")
    # Only special tokens: Qwen's vocabulary also has '</s>', as ordinary text.
    added = tokenizer.added_tokens_decoder.items()
    special = {token.content: i for i, token in added if token.special}
    ends = [special[mark] for mark in END_TOKENS if mark in special]
    return list(dict.fromkeys([tokenizer.eos_token_id, *ends]))


def _check(folder: Path, tokenizer: Any, ends: list[int]) -> None:
    """Raise ValueError unless the saved tokenizer gives the same tokens and whole end tokens."""
    from transformers import AutoTokenizer

    again = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    probe = "<|im_start|>user\n12 x   34.5 = \\boxed{414}<|im_end|>\n"
    marks = [again.convert_ids_to_tokens(i) for i in ends]
    single = [again(mark, add_special_tokens=False).input_ids for mark in marks]
    same = again(probe).input_ids == tokenizer(probe).input_ids
    if single != [[i] for i in ends] or not same or not again.chat_template:
        raise ValueError("the saved tokenizer differs from the one in the file")


if __name__ == "__main__":
    try:
        _main(Path(sys.argv[1]), Path(sys.argv[2]))
    except Exception as error:
        sys.exit(last_line(error))
