"""Keys that find a memory again: text or KV activations -> unit vectors, so that a dot product is
the similarity."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ..model.language_model import UNUSABLE, LanguageModel, first_line
from ..model.weights.cache import Weights
from ..records import KeyKind, LatentmemError, Memory, Problem
from .prompts import solve_messages

# cosine: far above what two embedders have in common, far below what rounding costs one of them
SAME_KEY = 0.9


class Embedder:
    """A sentence embedder: the `input` key of a problem."""

    def __init__(self, encoder: Any) -> None:
        self.encoder = encoder

    @classmethod
    def load(cls, weights: Weights, device: str = "cpu") -> Embedder:
        from sentence_transformers import SentenceTransformer

        try:
            return cls(
                SentenceTransformer(
                    str(weights.path), device=device, trust_remote_code=False, local_files_only=True
                )
            )
        except UNUSABLE as e:
            raise LatentmemError(
                f"{weights.name} cannot be used as an embedder ({first_line(e)}): choose a "
                "sentence-transformers model."
            ) from None

    def __call__(self, text: str) -> np.ndarray:
        """Unit vector [d], float32."""
        return self.encoder.encode(
            [text.strip()], normalize_embeddings=True, show_progress_bar=False
        )[0].astype(np.float32)


def kv_key(model: LanguageModel, text: str) -> np.ndarray:
    """The `kv` key of a problem: unit vector [layers * 2 * kv_heads * head_dim], float32.

    Per layer, keys and values are averaged over the problem's tokens and each scaled to unit
    length; all parts are concatenated with equal weight, so the dot product of two keys is the mean
    over layers of their cosine similarities (keys and values count half each).
    """
    parts = []
    for pair in model.problem_kv(text, solve_messages(text)):
        for x in pair:  # [kv_heads, n, head_dim]
            mean = x.float().mean(1).flatten()
            parts.append(torch.nn.functional.normalize(mean, dim=0))
    return (torch.cat(parts) / len(parts) ** 0.5).cpu().numpy()


def made_by(key: Callable[[Problem], np.ndarray], memory: Memory, kind: KeyKind) -> bool:
    """Whether a memory's key is what `key` makes of its problem. If not, a similarity to it means
    nothing: keys of two embedders may have the same length. `kv` keys need no look, since a
    memory of another model is not found."""
    return kind == "kv" or float(key(memory.problem) @ memory.keys[kind]) > SAME_KEY
