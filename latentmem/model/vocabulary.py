"""The words of the vocabulary nearest to a soft prompt's virtual tokens, and the size of a model.

A virtual token is a free vector. No word need lie near it, and a near word need not be what it does
(Khashabi et al., arXiv 2112.08348, found prompts whose nearest words say the opposite). These are
neighbours, not a translation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..records import LatentmemError, Memory

if TYPE_CHECKING:
    from torch import Tensor

    from .language_model import LanguageModel

CHUNK = 16_384  # words compared at a time: 59 MB of float32 at 896 numbers a word


@dataclass(frozen=True, slots=True)
class Word:
    """A word of the vocabulary beside a virtual token. `cosine` is in -1..1."""

    token: int
    text: str
    cosine: float


def nearest_words(
    embedding: Tensor, tokenizer: Any, prompt: np.ndarray, k: int = 5
) -> list[list[Word]]:
    """For each virtual token of prompt [T, hidden], the k words of embedding [V, hidden] with the
    highest cosine, best first.

    Leaves out words that were never trained (rows of zeros). Computes in float32, CHUNK words at a
    time. Raises LatentmemError if the widths differ.
    """
    import torch
    from torch.nn.functional import normalize

    if prompt.ndim != 2 or prompt.shape[1] != embedding.shape[1]:
        raise LatentmemError(
            f"The soft prompt has {prompt.shape[-1]} numbers a token and the model's words have "
            f"{embedding.shape[1]}: choose the model that made it."
        )
    best_values, best_ids = [], []
    with torch.no_grad():
        soft = torch.from_numpy(np.ascontiguousarray(prompt, np.float32))
        tokens = normalize(soft.to(embedding.device), dim=1)  # [T, hidden]
        for start in range(0, len(embedding), CHUNK):
            words = embedding[start : start + CHUNK].float()
            norms = words.norm(dim=1)
            cosines = (tokens @ words.T) / norms.clamp_min(1e-12)  # [T, words]
            cosines[:, norms < 1e-9] = -torch.inf
            values, ids = cosines.topk(min(k, len(words)), dim=1)
            best_values.append(values)
            best_ids.append(ids + start)
        values, where = torch.cat(best_values, 1).sort(dim=1, descending=True, stable=True)
        ids = torch.cat(best_ids, 1).gather(1, where)
    found = []
    for row in zip(ids.tolist(), values.tolist(), strict=True):
        best = [(i, c) for i, c in zip(*row, strict=True) if c > -float("inf")][:k]
        found.append([Word(i, tokenizer.decode([i]), max(-1.0, min(1.0, c))) for i, c in best])
    return found


def memory_words(model: LanguageModel, memory: Memory, k: int = 5) -> list[list[Word]]:
    """The nearest words of a memory's virtual tokens; none of layer vectors. Raises LatentmemError
    for another model's."""
    if memory.model != model.fingerprint:
        raise LatentmemError(
            f"Memory {memory.id} was made by {memory.model_name} and the model in use is "
            f"{model.name}: choose that model."
        )
    if memory.soft_prompt.ndim == 3:
        return []
    return nearest_words(model.body.embedding, model.tokenizer, memory.soft_prompt, k)


def parameters(model: LanguageModel) -> int:
    """How many parameters the model has; an embedding that is also the head counts once."""
    body = model.body
    linears = [] if body.head.weight is body.embedding else [body.head]
    tensors = [body.embedding, body.norm]
    for layer in body.layers:
        linears += [layer.qkv, layer.out, layer.gate_up, layer.down]
        tensors += [layer.norm1, layer.norm2, *(layer.qk_norm or ())]
    return sum(t.numel() for t in tensors) + sum(
        x.weight.numel() + (0 if x.bias is None else x.bias.numel()) for x in linears
    )
