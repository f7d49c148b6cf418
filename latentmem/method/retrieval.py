"""Which memory is tried: keys that find it (unit vectors of text or KV activations, so that a dot
product is the similarity), and the choice among what is found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from ..bank.key_index import OtherKeys
from ..model.language_model import LanguageModel, first_line
from ..model.weights.cache import Weights
from ..records import Hit, KeyKind, LatentmemError, Memory, Problem
from .prompts import solve_messages

# cosine: far above what two embedders have in common, far below what rounding does to one of them
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
        except Exception as e:  # whatever the library raises about such a folder
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

    Each layer's keys and values are averaged over the problem's tokens and scaled to unit length.
    All parts have equal weight, so the dot product of two keys is the mean over layers of their
    cosine similarities (keys and values count half each).
    """
    parts = []
    for pair in model.problem_kv(text, solve_messages(text)):
        for x in pair:  # [kv_heads, n, head_dim]
            mean = x.float().mean(1).flatten()
            parts.append(torch.nn.functional.normalize(mean, dim=0))
    return (torch.cat(parts) / len(parts) ** 0.5).cpu().numpy()


def made_by(key: Callable[[Problem], np.ndarray], memory: Memory, kind: KeyKind) -> bool:
    """Whether `key` made a memory's key. If it did not, a similarity to it means nothing, though
    keys of two embedders may have the same length. `kv` keys are not checked, since a search finds
    memories of one model only."""
    return kind == "kv" or float(key(memory.problem) @ memory.keys[kind]) > SAME_KEY


class Searchable(Protocol):
    """What retrieval needs of a bank."""

    def get(self, memory_id: str) -> Memory: ...

    def search(self, key: np.ndarray, *, kind: KeyKind, k: int, model: str) -> tuple[Hit, ...]: ...


@dataclass(frozen=True)
class Search:
    """How a memory is looked for: which key, how many hits, how near it must be, and for which
    model, by its fingerprint. `embedder` names what makes `input` keys."""

    kind: KeyKind
    k: int
    min_similarity: float
    model: str
    embedder: str


@dataclass(frozen=True, eq=False)
class Choice:
    """What was found, and the memory to try: that of the first hit, or none and why."""

    hits: tuple[Hit, ...] = ()
    memory: Memory | None = None
    skip_reason: str = ""

    @property
    def used(self) -> Hit | None:
        return None if self.memory is None else self.hits[0]


def choose(
    bank: Searchable,
    key: Callable[[Problem], np.ndarray],
    problem: Problem,
    search: Search,
    memory: str = "auto",
) -> Choice:
    """The memory to try on a problem: the nearest that is near enough ("auto"), none ("off"), or
    the one with this id, however near it is. Raises LatentmemError for an id that the bank lacks.
    """
    if memory == "off":
        return Choice(skip_reason="Memories were switched off.")
    if memory != "auto":
        one, here = bank.get(memory), key(problem)
        there = one.keys.get(search.kind)
        comparable = there is not None and there.shape == here.shape
        similarity = float(here @ there) if comparable else 0.0
        return Choice((Hit(one.id, one.name, similarity, 1),), one)
    try:
        hits = bank.search(key(problem), kind=search.kind, k=search.k, model=search.model)
    except OtherKeys as e:
        return Choice(skip_reason=f"No memory is tried. {e}")
    if not hits:
        return Choice(skip_reason="The bank holds no memory that this model can use.")
    if hits[0].similarity < search.min_similarity:
        return Choice(
            hits,
            skip_reason=f"The nearest memory has similarity {hits[0].similarity:.2f}, below the "
            f"threshold {search.min_similarity:.2f}.",
        )
    one = bank.get(hits[0].memory_id)
    if not made_by(key, one, search.kind):
        return Choice(
            hits,
            skip_reason=f"The nearest memory's key was not made by {search.embedder}, so the "
            "similarity means nothing: choose the embedder that made it.",
        )
    return Choice(hits, one)
