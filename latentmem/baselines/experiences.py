"""What the rows without a bank remember: past problems with a text each, found by the similarity of their keys."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..records import Hit, KeyKind, Problem
from .base import Cost
from .log import read_json, write_json
from .row import Key


@dataclass(frozen=True, eq=False)
class Experience:
    """A past problem, what is kept of it, and its key [d]."""

    problem: Problem
    text: str
    key: np.ndarray

    @property
    def name(self) -> str:
        words = " ".join(self.problem.text.split())
        return words if len(words) <= 48 else words[:47].rsplit(" ", 1)[0] + "…"


class Experiences:
    """A list of experiences, the nearest of which is looked up by cosine similarity; of equals the earliest."""

    def __init__(self, key: Key, kind: KeyKind = "input", min_similarity: float = 0.25) -> None:
        self._key, self.kind, self.min_similarity = key, kind, min_similarity
        self.all: list[Experience] = []

    def add(self, problem: Problem, text: str) -> None:
        self.all.append(Experience(problem, text, self._key(problem, self.kind)))

    def nearest(self, problem: Problem) -> tuple[Hit, Experience] | None:
        """The most similar experience; None if there is none as similar as the threshold asks."""
        if not self.all:
            return None
        similarities = np.stack([e.key for e in self.all]) @ self._key(problem, self.kind)
        order = np.argsort(-similarities, kind="stable")
        best, similarity = self.all[order[0]], float(similarities[order[0]])
        if similarity < self.min_similarity:
            return None
        margin = similarity - float(similarities[order[1]]) if len(order) > 1 else None
        return Hit(best.problem.id, best.name, similarity, 1, margin), best

    def save(self, folder: Path, spent: Cost, **more: Any) -> None:
        """Replace what the folder holds."""
        write_json(folder / "experiences.json", {
            "spent": asdict(spent), **more,
            "experiences": [{"id": e.problem.id, "text": e.problem.text, "source": e.problem.source, "kept": e.text,
                             "key": e.key.tolist()} for e in self.all]})

    def load(self, folder: Path) -> Cost:
        """Take what the folder holds in the place of what is here; returns what learning it had cost."""
        data = read_json(folder / "experiences.json") or {"spent": {}, "experiences": []}
        self.all = [Experience(Problem(e["text"], e["id"], None, e["source"]), e["kept"],
                               np.array(e["key"], np.float32)) for e in data["experiences"]]
        return Cost(**data["spent"])
