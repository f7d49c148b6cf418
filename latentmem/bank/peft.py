"""Soft prompts [virtual tokens, hidden] as numpy arrays, and as folders that
`PeftModel.from_pretrained` loads."""

from __future__ import annotations

import json
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..files import replacing
from ..records import LatentmemError
from . import archive

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PICKLED = "adapter_model.bin"
MODEL = "latentmem.model.language_model"  # in the header of WEIGHTS; only our own adapters have it
TENSOR = "prompt_embeddings"
MAX_CONFIG_BYTES = 1 << 20
MAX_ADAPTER_BYTES = 64_000_000


def save_peft(
    folder: str | Path,
    array: np.ndarray,
    *,
    base_model: str,
    model_fingerprint: str,
    init_text: str = "",
    problem: str = "",
    digest: str = "",
) -> None:
    """Write the soft prompt [virtual tokens, hidden] as a standard PEFT prompt-tuning adapter,
    stored in float32.

    `base_model` goes where PEFT looks for the base model (a hub id or a folder). PEFT warns about
    configuration it does not know, so the fingerprint, the text the prompt started from, the
    problem it was made for and the memory's digest travel in the safetensors header. Raises
    LatentmemError when the array is not a finite matrix, when the folder holds an adapter that is
    not ours, or when it cannot be written.
    """
    prompt = _matrix(array)
    from safetensors.numpy import save

    tokens, hidden = prompt.shape
    config = {
        "peft_type": "PROMPT_TUNING",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        # Without inference_mode PEFT would re-initialise the prompt on load. RANDOM rather than
        # TEXT for the same reason: TEXT makes PEFT fetch a tokenizer when someone continues
        # training.
        "inference_mode": True,
        "prompt_tuning_init": "RANDOM",
        "num_virtual_tokens": tokens,
        "token_dim": hidden,
        "num_transformer_submodules": 1,
    }
    metadata = {"format": "pt", MODEL: model_fingerprint, "latentmem.init_text": init_text}
    metadata |= {"latentmem.problem": problem, "latentmem.digest": digest}
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if (foreign := _foreign(folder)) is not None:
            raise LatentmemError(
                f"{foreign} belongs to an adapter that latentmem did not write, so nothing was "
                "written: choose another folder."
            )
        for name, data in (
            (WEIGHTS, save({TENSOR: prompt}, metadata)),
            (CONFIG, json.dumps(config, indent=2).encode() + b"\n"),
        ):
            with replacing(folder / name) as part:
                part.write_bytes(data)
    except OSError as e:
        raise LatentmemError(
            f"The adapter could not be written to {folder} ({e.strerror or e}): "
            "choose another folder or free some space."
        ) from None


def _matrix(array: np.ndarray) -> np.ndarray:
    prompt = np.ascontiguousarray(array, dtype="<f4")
    if prompt.ndim == 3:
        raise LatentmemError(
            "This memory is a vector for each layer, which PEFT has no adapter for: export it with "
            "`latentmem export`, or distil with recipe=paper."
        )
    if prompt.ndim != 2 or 0 in prompt.shape or not np.isfinite(prompt).all():
        raise LatentmemError(
            f"A soft prompt of shape {prompt.shape} was not written: "
            "it must be a finite matrix [virtual tokens, hidden]."
        )
    return prompt


def load_peft(folder: str | Path) -> tuple[np.ndarray, dict[str, Any]]:
    """The soft prompt, float32 [virtual tokens, hidden], and what is known of it, from a PEFT
    prompt-tuning adapter.

    The second value holds `base_model`, `model_fingerprint`, `init_text` and `problem` ("" where
    the adapter does not say). Reads safetensors only, never a pickle and never the hub. Raises
    LatentmemError when the folder holds no prompt-tuning adapter, or one whose parts do not fit
    together.
    """
    folder = Path(folder)
    config = _config(folder / CONFIG)
    if config.get("peft_type") != "PROMPT_TUNING" or config.get("task_type") not in (
        "CAUSAL_LM",
        None,
    ):
        raise LatentmemError(
            f"{folder} holds a PEFT adapter of type {config.get('peft_type')!r} for "
            f"{config.get('task_type')!r}: only PROMPT_TUNING for CAUSAL_LM is a soft prompt."
        )
    path = folder / WEIGHTS
    if not path.is_file():
        pickled = (folder / PICKLED).exists()
        remedy = (
            "it has only a pickle, which is not opened, save it as safetensors"
            if pickled
            else "copy it there"
        )
        raise LatentmemError(f"{folder} has no {WEIGHTS}: {remedy}.")
    prompt, metadata = _tensor(path)
    expected = (config.get("num_virtual_tokens"), config.get("token_dim"))
    if prompt.shape != expected:
        raise LatentmemError(
            f"{path} has shape {prompt.shape} but {CONFIG} says {expected}: fetch the adapter "
            "again."
        )
    text = metadata.get("latentmem.init_text") or config.get("prompt_tuning_init_text")
    return prompt, {
        "base_model": str(config.get("base_model_name_or_path") or ""),
        "model_fingerprint": metadata.get(MODEL, ""),
        "init_text": str(text or ""),
        "problem": metadata.get("latentmem.problem", ""),
    }


@contextmanager
def adapter_folder(path: str | Path) -> Iterator[Path | None]:
    """The folder of the adapter that is at `path`: the folder itself, or a zip of one, unpacked for
    the time being. None if there is no adapter there. Raises LatentmemError for a zip that is
    damaged or too large."""
    path = Path(path)
    if path.is_dir():
        yield path if (path / CONFIG).exists() else None
        return
    if not zipfile.is_zipfile(path):
        yield None
        return
    with tempfile.TemporaryDirectory() as folder, archive.container(path) as (packed, _):
        found = {Path(i.filename).name: i for i in packed.infolist()}
        for name in (CONFIG, WEIGHTS) if CONFIG in found else ():
            if name in found:
                _extract(packed, found[name], Path(folder) / name)
        yield Path(folder) if CONFIG in found else None


def _extract(packed: zipfile.ZipFile, member: zipfile.ZipInfo, to: Path) -> None:
    try:
        with packed.open(member) as file:
            data = file.read(MAX_ADAPTER_BYTES + 1)
    except (zipfile.BadZipFile, OSError, EOFError, RuntimeError, NotImplementedError, zlib.error):
        raise LatentmemError(f"{member.filename} in the zip is damaged: fetch it again.") from None
    if len(data) > MAX_ADAPTER_BYTES:
        raise LatentmemError(
            f"{member.filename} has more than {MAX_ADAPTER_BYTES // 1_000_000} MB: it is no soft "
            "prompt."
        )
    to.write_bytes(data)


def _foreign(folder: Path) -> Path | None:
    """The file of an adapter that is not ours, such as a LoRA: it may be the only copy."""
    config, weights, pickled = folder / CONFIG, folder / WEIGHTS, folder / PICKLED
    try:
        if config.exists() and _config(config).get("peft_type") != "PROMPT_TUNING":
            return config
    except LatentmemError:
        return config
    try:
        if weights.exists() and MODEL not in _tensor(weights)[1]:
            return weights
    except LatentmemError:
        return weights
    return pickled if pickled.exists() else None


def _config(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise LatentmemError(
                f"{path} is larger than {MAX_CONFIG_BYTES} bytes: it is not an adapter "
                "configuration."
            )
        config = json.loads(path.read_bytes())
    except OSError as e:
        raise LatentmemError(
            f"{path} cannot be read ({e.strerror or e}): choose a folder that holds a PEFT adapter."
        ) from None
    except (ValueError, RecursionError) as e:
        if isinstance(e, LatentmemError):
            raise
        raise LatentmemError(f"{path} is not JSON ({e}): fetch the adapter again.") from None
    if not isinstance(config, dict):
        raise LatentmemError(
            f"{path} is not a JSON object: choose a folder that holds a PEFT adapter."
        )
    return config


def _bfloat16(path: Path) -> np.ndarray:
    """The tensor in float32: numpy has no bfloat16, which is the upper half of one."""
    from safetensors import deserialize

    ((_, tensor),) = deserialize(path.read_bytes())
    upper = np.frombuffer(tensor["data"], "<u2").astype("<u4")
    return (upper << 16).view("<f4").reshape(tensor["shape"])


def _tensor(path: Path) -> tuple[np.ndarray, dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            names, metadata = list(file.keys()), file.metadata() or {}
            if names != [TENSOR]:
                raise LatentmemError(
                    f"{path} holds {', '.join(sorted(names)[:3]) or 'nothing'}: "
                    f"a soft prompt is the one tensor {TENSOR}."
                )
            dtype = file.get_slice(TENSOR).get_dtype()
            if dtype not in ("BF16", "F16", "F32", "F64"):
                raise LatentmemError(
                    f"{path} holds {dtype} numbers: save the soft prompt as float32."
                )
            prompt = _bfloat16(path) if dtype == "BF16" else file.get_tensor(TENSOR).astype("<f4")
    except (SafetensorError, OSError) as e:
        raise LatentmemError(
            f"{path} is not a safetensors file ({e}): fetch the adapter again."
        ) from None
    if prompt.ndim != 2 or not np.isfinite(prompt).all():
        raise LatentmemError(f"{path} holds NaN, infinity or no matrix: fetch the adapter again.")
    return prompt, metadata
