"""The gap between the arithmetic of sampling, 8-bit integers, and that of training, bfloat16."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from torch import Tensor

from latentmem.method.grpo import Row, completion_states, token_log_probs
from latentmem.method.prompts import solve_messages
from latentmem.model.language_model import LanguageModel, Prompt
from latentmem.records import Trace
from tests.tools.learning.plan import Lesson
from tests.tools.learning.store import append


def gap(base: LanguageModel, lessons: Sequence[Lesson], results: Path) -> None:
    """Per-token log-probabilities of paid traces in the arithmetic of sampling and in that of
    training."""
    rows = []
    for lesson in lessons:
        for trace in lesson.traces[:2]:
            sampled, trained = (log_probs(base, lesson, trace, g) for g in (False, True))
            apart = (trained - sampled).double()
            rows.append(
                {
                    "problem": lesson.problem.id,
                    "row": trace.row,
                    "tokens": len(apart),
                    "sum": float(apart.sum()),
                    "mean_abs": float(apart.abs().mean()),
                    "rms": float(apart.square().mean().sqrt()),
                    "largest": float(apart.abs().max()),
                }
            )
    append(results / "arithmetic.jsonl", rows)
    ratios = np.exp(np.clip([r["sum"] for r in rows], -10, 10))
    each = ("mean_abs", "rms", "largest", "sum")
    mean = {name: fmean(r[name] for r in rows) for name in each}
    sd, largest = np.std([r["sum"] for r in rows]), max(r["largest"] for r in rows)
    print(len(rows), "traces; a token:", {k: round(v, 4) for k, v in mean.items()})
    print(f"largest {largest:.2f}; sd of a trace's sum {sd:.3f}")
    print(f"importance ratios {ratios.min():.2f} to {ratios.max():.2f}")


def log_probs(base: LanguageModel, lesson: Lesson, trace: Trace, exact: bool) -> Tensor:
    """Log-probabilities [tokens] at the sampling temperature, with or without rounded products."""
    with torch.set_grad_enabled(exact):
        filled = base.prefill([Prompt(base.render(solve_messages(lesson.problem.text)))])
        row = Row(0, 0, (), trace.token_ids, 0.0, 0.0, 0.0)
        hidden, targets, _ = completion_states(base.body, [row], filled)
        if exact:
            return token_log_probs(hidden, base.body.head.weight, targets, 0.8).detach()
        logits = torch.cat([base.body.head(h).float() for h in hidden.split(64)]) / 0.8
        return logits.log_softmax(-1).gather(1, targets[:, None]).squeeze(1)
