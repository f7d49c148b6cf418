"""Which memory is tried: keys that find it (unit vectors of text or KV activations, so that a dot
product is the similarity), and the choice among what is found."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch

from ..bank.key_index import OtherKeys
from ..model.language_model import LanguageModel, first_line
from ..model.weights.cache import Weights
from ..records import Hit, KeyKind, LatentmemError, Memory, Problem
from .prompts import solve_messages

MakeKey = Callable[[Problem, KeyKind], np.ndarray]
# Two keys of one problem have at least this cosine: honest ones reach .9999, whatever arithmetic
# (int8, bfloat16, float32) and batch made them (assets/results/reliability.md).
SAME_KEY = 0.999
MOST_PASSED = 100  # memories that one search passes over


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


def made_by(key: MakeKey, memory: Memory, kind: KeyKind) -> bool:
    """Whether `key` made a memory's key of this kind, which it makes again to see. If it did not, a
    similarity to it means nothing: it was forged, or another embedder made it."""
    here, there = key(memory.problem, kind), memory.keys[kind]
    if here.shape != there.shape:
        return False
    lengths = np.linalg.norm(here) * np.linalg.norm(there)  # each off by up to 1e-3
    return float(here @ there) >= SAME_KEY * float(lengths)


class Searchable(Protocol):
    """What retrieval needs of a bank."""

    def get(self, memory_id: str) -> Memory: ...

    def search(
        self,
        key: np.ndarray,
        *,
        kind: KeyKind,
        k: int,
        model: str,
        exclude: Collection[str] = (),
    ) -> tuple[Hit, ...]: ...


@dataclass(frozen=True)
class Search:
    """How a memory is looked for: which key, how many hits, how near it must be, and for which
    model, by its fingerprint. `maker` names what makes such keys."""

    kind: KeyKind
    k: int
    min_similarity: float
    model: str
    maker: str


@dataclass(frozen=True, eq=False)
class Choice:
    """What was found, and the hit whose memory is tried; or none and why."""

    hits: tuple[Hit, ...] = ()
    memory: Memory | None = None
    skip_reason: str = ""
    used: Hit | None = None


def choose(
    bank: Searchable,
    key: MakeKey,
    problem: Problem,
    search: Search,
    memory: str = "auto",
    outdone: Callable[[np.ndarray, Memory, Hit], str] = lambda *_: "",
) -> Choice:
    """The memory to try on a problem: the nearest whose key is what it should be, if it is near
    enough ("auto"), none ("off"), or the one with this id, however near it is. `outdone` may say
    why a nearest memory makes room. Raises LatentmemError for an id that the bank lacks."""
    if memory == "off":
        return Choice(skip_reason="Memories were switched off.")
    here = key(problem, search.kind)
    if memory != "auto":
        one = bank.get(memory)
        there = one.keys.get(search.kind)
        comparable = there is not None and there.shape == here.shape
        similarity = float(here @ there) if comparable else 0.0
        hit = Hit(one.id, one.name, similarity, 1)
        return Choice((hit,), one, used=hit)
    passed: tuple[Hit, ...] = ()
    while len(passed) < MOST_PASSED:
        try:
            found = bank.search(
                here,
                kind=search.kind,
                k=search.k,
                model=search.model,
                exclude=[h.memory_id for h in passed],
            )
        except OtherKeys as e:
            return Choice(skip_reason=f"No memory is tried. {e}")
        found = tuple(replace(h, rank=h.rank + len(passed)) for h in found)
        if not found or found[0].similarity < search.min_similarity:
            return Choice((*passed, *found), skip_reason=_why_none(passed, found, search))
        try:
            one = bank.get(found[0].memory_id)
            if made_by(key, one, search.kind):
                wrong = outdone(here, one, found[0])
            else:
                wrong = f"its key was not made by {search.maker}"
        except LatentmemError as e:  # a damaged one
            wrong = str(e)
        if not wrong:
            return Choice((*passed, *found), one, used=found[0])
        passed += (replace(found[0], passed_over=wrong),)
    return Choice(passed, skip_reason=_why_none(passed, (), search))


def _why_none(passed: tuple[Hit, ...], found: tuple[Hit, ...], search: Search) -> str:
    """Why no memory is tried."""
    over = ""
    if passed:
        count = "1 memory was" if len(passed) == 1 else f"{len(passed)} memories were"
        first = ", the first" if len(passed) > 1 else ","
        why = passed[0].passed_over.removesuffix(".")
        over = (
            f"{count} passed over{first} since {why}: choose the embedder that made it, or delete "
            "it."
        )
    if found:
        far = (
            f"The nearest memory has similarity {found[0].similarity:.2f}, below the threshold "
            f"{search.min_similarity:.2f}."
        )
        return f"{far} {over}".strip()
    if passed:
        return f"No memory is tried. {over}"
    return "The bank holds no memory that this model can use."
