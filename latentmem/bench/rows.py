"""The table of rows: what is measured, against whom, and what must be reached. Data."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Literal

from ..records import LatentmemError
from .report import Better, Target
from .work import Prepare


@dataclass(frozen=True)
class RowSpec:
    """One row. `ours` and `peer` name the functions that prepare a side: a module of this package and a function."""

    name: str
    what: str
    unit: str
    better: Better
    target: Target
    ours: str
    peer: str = ""
    peer_name: str = ""
    fresh: bool = False  # every run in a process of its own, because the figure is one of the whole process
    # What decides the dtype of the peer: the time of a short probe, or ("both") the row itself, measured in both dtypes.
    probe: Literal["", "decode", "train", "both"] = ""
    packages: tuple[str, ...] = ()  # of the peer, beside those that every row depends on


LLAMA, TRL = ("llama-cpp-python",), ("trl", "peft", "datasets")
ROWS: dict[str, RowSpec] = {row.name: row for row in (
    RowSpec("rollouts-8", "rollouts of one problem", "tokens/s", "higher", Target(ratio=3), "rollouts:one_problem",
            "peers.hf:one_problem", "transformers generate", probe="decode"),
    RowSpec("rollouts-32", "rollouts of 4 problems with 4 soft prompts", "tokens/s", "higher", Target(ratio=5),
            "rollouts:four_problems", "peers.hf:four_problems", "transformers generate, four calls", probe="decode"),
    RowSpec("llama-8", "rollouts of one problem, against llama.cpp", "tokens/s", "higher", Target(ratio=1.2),
            "rollouts:one_problem", "peers.llama:one_problem", "llama.cpp, shared prompt", packages=LLAMA),
    RowSpec("llama-32", "rollouts of 4 problems, against llama.cpp", "tokens/s", "higher", Target(ratio=1.5),
            "rollouts:four_problems", "peers.llama:four_problems", "llama.cpp, shared prompts", packages=LLAMA),
    RowSpec("memory", "one memory", "s", "lower", Target(ratio=8), "distillation:one_memory", "peers.trl:one_memory",
            "TRL GRPOTrainer, PEFT prompt tuning", probe="train", packages=TRL),
    RowSpec("together", "eight memories together", "s", "lower", Target(ratio=2.5), "distillation:together",
            "distillation:one_after_another", "ours, one after another"),
    RowSpec("peak", "peak memory of distillation", "GB", "lower", Target(ratio=2), "distillation:peak_memory",
            "peers.trl:peak_memory", "TRL GRPOTrainer, PEFT prompt tuning", fresh=True, probe="both", packages=TRL),
    RowSpec("search", "search in a large bank, input keys, p95", "ms", "lower", Target(ratio=3, limit=25), "search:ours",
            "peers.qdrant:search", "qdrant-client, local mode", packages=("qdrant-client",)),
    RowSpec("map", "opening a bank and drawing its map", "s", "lower", Target(limit=2), "startup:bank_map"),
    RowSpec("map-browser", "the same in a browser: from opening the page to the first picture", "s", "lower",
            Target(limit=2), "browser:first_picture"),
    RowSpec("import", "import latentmem", "s", "lower", Target(limit=0.3), "startup:importing"),
    RowSpec("help", "latentmem --help", "s", "lower", Target(limit=0.3), "startup:help_text"),
)}


def chosen(names: list[str]) -> list[RowSpec]:
    """The rows of these names, all when there are none. Raises LatentmemError for an unknown one."""
    for name in names:
        if name not in ROWS:
            raise LatentmemError(f"There is no row {name!r}: choose from {', '.join(ROWS)}.")
    return [row for row in ROWS.values() if not names or row.name in names]


def prepare(spec: str) -> Prepare:
    """The function that a row names."""
    module, _, function = spec.partition(":")
    return getattr(import_module(f"{__package__}.{module}"), function)
