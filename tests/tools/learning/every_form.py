"""The gradients of all forms in one pass: at the model itself, where every one of them begins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from latentmem.method.grpo import RolloutGroup, policy_gradient
from latentmem.model.language_model import LanguageModel
from latentmem.records import Trace
from tests.tools.learning.forms import KeyValues, LayerVectors, Opening, PrefixModel
from tests.tools.learning.plan import Lesson
from tests.tools.learning.self_distillation import Distillation
from tests.tools.learning.train import drain, taught_states


class EveryForm:
    """Keys and values, layer vectors and the opening's embeddings, all in one model."""

    def __init__(self, base: LanguageModel) -> None:
        self.base = base
        self.forms = {
            "kv": KeyValues(base),
            "vectors": LayerVectors(base),
            "opening": Opening(base),
        }

    def model(self) -> LanguageModel:
        """One model with all of them; good for one gradient."""
        inner = self.forms["vectors"].model(self.base)
        computed = self.forms["opening"].prefix(inner)
        moved = self.forms["kv"].numbers * self.forms["kv"].scale  # [layers, 2, kv_heads, P - 1, D]
        prefix = [
            tuple(
                torch.cat((part[:, :1], part[:, 1:] + move), 1)
                for part, move in zip(pair, moves, strict=True)
            )
            for pair, moves in zip(computed, moved, strict=True)
        ]
        return PrefixModel(inner, self.forms["kv"].opening, prefix)

    def distilled(
        self, lesson: Lesson, source: Lesson, traces: Sequence[Trace]
    ) -> dict[str, np.ndarray]:
        """Of the mean divergence from a teacher that has seen a winner of `source`, the gradient of
        each form."""
        some = [t for t in traces if t.finished]
        states = taught_states(self.base, lesson, source, some)
        group = RolloutGroup(lesson.problem, None, some, torch.ones(len(some)))
        taught = Distillation([states], clip=0.5)
        loss = drain(policy_gradient(self.model(), [group], 0.8, loss=taught))
        return {**self._taken(), "loss": np.array(loss)}

    def _taken(self) -> dict[str, np.ndarray]:
        found = {}
        for name, form in self.forms.items():
            found[name] = form.numbers.grad.flatten().numpy().copy()
            form.numbers.grad = None
        return found

    def gradient(
        self, lesson: Lesson, traces: Sequence[Trace], winners: bool
    ) -> dict[str, np.ndarray] | None:
        """Of -sum of log-probabilities of the finished winners (or losers), for each form; None
        where there are none."""
        some = [t for t in traces if t.finished and lesson.agrees(t) == winners]
        if not some:
            return None
        # the sum, not the mean
        weights = torch.full((len(some),), float(sum(len(t.token_ids) for t in some)))
        drain(
            policy_gradient(self.model(), [RolloutGroup(lesson.problem, None, some, weights)], 0.8)
        )
        return {
            **self._taken(),
            "count": np.array([len(some), sum(len(t.token_ids) for t in some)]),
        }


def measure(
    load_model: Callable[[], LanguageModel], lessons: Sequence[Lesson], work: Path, halved: int
) -> None:
    """Gradients of each problem's winners and losers, of the first problems in two halves; kept in
    `work`."""
    every = None
    for i, lesson in enumerate(lessons):
        halves = [lesson.traces[:4], lesson.traces[4:]] if i < halved else [lesson.traces]
        for half, traces in enumerate(halves):
            for side in (True, False):
                path = (
                    work
                    / "every"
                    / f"{lesson.problem.id}-{half}-{'winners' if side else 'losers'}.npz"
                )
                if path.exists():
                    continue
                every = every or EveryForm(load_model())
                found = every.gradient(lesson, traces, side)
                path.parent.mkdir(parents=True, exist_ok=True)
                np.savez(path, **(found or {}))
        print(i + 1, lesson.problem.id, flush=True)


def measure_distilled(
    load_model: Callable[[], LanguageModel], lessons: Sequence[Lesson], work: Path, other: bool
) -> None:
    """The same for self-distillation: rows 0 to 3 of each problem, and of the first HALVED problems
    rows 4 to 7, too. `other`: the reference is the next problem's (a control)."""
    every, name = None, "distil_other" if other else "distil"
    for i, lesson in enumerate(lessons):
        for half in (0, 1) if i < HALVED else (0,):
            path = work / "every" / f"{lesson.problem.id}-{half}-{name}.npz"
            if path.exists():
                continue
            every = every or EveryForm(load_model())
            source = lessons[(i + 1) % len(lessons)] if other else lesson
            found = every.distilled(lesson, source, lesson.traces[4 * half : 4 * half + 4])
            np.savez(path, **found)
            print(i + 1, name, lesson.problem.id, half, float(found["loss"][0]), flush=True)


def load(work: Path, lesson: Lesson, half: int, side: str) -> dict[str, np.ndarray]:
    path = work / "every" / f"{lesson.problem.id}-{half}-{side}.npz"
    if not path.exists():
        return {}
    with np.load(path) as file:
        return dict(file)


HALVED = 4  # problems whose gradients `measure` takes in two halves
ALONE = ("distil", "distil_other", "critic")  # signals with a file of their own
SIGNALS = ("contrast", "winners", "losers", *ALONE)
FORMS = ("kv", "vectors", "opening")


def signal(parts: dict[str, dict[str, np.ndarray]], form: str, name: str) -> np.ndarray | None:
    """The gradient of one problem's loss; `contrast` is that of the advantages reward - mean
    (`grpo.advantages`, mean)."""
    if name in ALONE:
        return parts[name].get(form)
    won, lost = parts["winners"], parts["losers"]
    if name == "winners":
        return won[form] / won["count"][1] if won else None
    if name == "losers":
        return -lost[form] / lost["count"][1] if lost else None
    if not (won and lost):
        return None
    share = won["count"][0] / (won["count"][0] + lost["count"][0])
    return ((1 - share) * won[form] - share * lost[form]) / (won["count"][1] + lost["count"][1])


def gradients(
    work: Path, lessons: Sequence[Lesson], form: str, name: str, halved: int, half: int = -1
) -> list[np.ndarray]:
    """Each problem's gradient, the sum of its halves (one may be empty), or of one half."""
    found = []
    for lesson in lessons:
        # where there was one pass, the second part is empty
        halves = [half] if half >= 0 else [0, 1]
        sides = (name,) if name in ALONE else ("winners", "losers")
        parts = {side: _sum([load(work, lesson, h, side) for h in halves]) for side in sides}
        found.append(signal(parts, form, name))
    return found


def _sum(parts: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    parts = [p for p in parts if p]
    return {k: sum(p[k] for p in parts) for k in parts[0]} if parts else {}


def unit(x: np.ndarray) -> np.ndarray:
    return x / max(float(np.linalg.norm(x)), 1e-30)


def report(work: Path, lessons: Sequence[Lesson], halved: int) -> list[dict[str, object]]:
    """For each form and signal: cosines within a problem and across problems, and of what a half of
    the problems teaches with the contrast gradient of each problem of the other half (the
    first-order gain there)."""
    rows = []
    for form in FORMS:
        aims = gradients(work, lessons, form, "contrast", halved)
        for name in SIGNALS:
            found = gradients(work, lessons, form, name, halved)
            first, second = (
                gradients(work, lessons[:halved], form, name, halved, h) for h in (0, 1)
            )
            within = [
                float(unit(a) @ unit(b))
                for a, b in zip(first, second, strict=True)
                if a is not None and b is not None
            ]
            if sum(g is not None for g in found) < 2:
                continue
            matrix = np.stack([unit(g) for g in found if g is not None])
            across = (matrix @ matrix.T)[np.triu_indices(len(matrix), 1)]
            gains, signs = _transfer(found, aims)
            rows.append(
                {
                    "form": form,
                    "signal": name,
                    "problems": len(matrix),
                    "within": np.mean(within).item() if within else None,
                    "within_each": [round(c, 3) for c in within],
                    "across": across.mean().item(),
                    "across_positive": (across > 0).mean().item(),
                    "transfer": np.mean(gains).item(),
                    "transfer_error": (np.std(gains) / len(gains) ** 0.5).item(),
                    "transfer_positive": np.mean(np.array(gains) > 0).item(),
                    "transfer_sign": np.mean(signs).item(),
                    "transfer_sign_error": (np.std(signs) / len(signs) ** 0.5).item(),
                }
            )
    return rows


def _transfer(
    found: Sequence[np.ndarray | None], aims: Sequence[np.ndarray | None]
) -> tuple[list[float], list[float]]:
    """Cosines of the mean of one half, and of its sign, with each problem of the other half; both
    ways."""
    gains, signs = [], []
    for at in (0, 1):
        mean = np.mean([unit(g) for i, g in enumerate(found) if i % 2 == at and g is not None], 0)
        for i, aim in enumerate(aims):
            if i % 2 != at and aim is not None:
                gains.append(float(unit(mean) @ unit(aim)))
                signs.append(float(unit(np.sign(mean)) @ unit(aim)))
    return gains, signs
