"""Problems of a data set without duplicates, split once and for all into what is learnt from, tuned
on and confirmed on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from latentmem.evaluation.datasets import load, unique
from latentmem.records import LatentmemError, Problem

SPLITS = {
    "multiarith": {"train": 160, "dev": 60, "confirm": 360},
    "gsm8k_test": {"train": 160, "dev": 60, "confirm": 200},
}
SEED = 18


def split(folder: Path, name: str, part: str) -> list[Problem]:
    """One part of a data set; parts share no problem, and a part's order is random but always the
    same. Raises LatentmemError if the folder has no such set, or the set no such part."""
    problems = unique(load(str(folder / f"{name}.jsonl")).problems)
    order = np.random.Generator(np.random.Philox(SEED)).permutation(len(problems))
    start = 0
    for key, size in SPLITS.get(name, {}).items():
        if key == part:
            return [problems[i] for i in order[start : start + size]]
        start += size
    known = ", ".join(f"{n}:{key}" for n, sizes in SPLITS.items() for key in sizes)
    raise LatentmemError(f"There is no part {name}:{part}: use one of {known}.")
