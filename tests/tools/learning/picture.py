"""`critic-alone.json` as one picture: a memory of judgement learns, and what it is worth."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

WIDTH, HEIGHT, LEFT, TOP = 300, 190, 52, 44
COLOURS = {"critic": "#0072B2", "weighted": "#009E73", "vote": "#555555", "entropy": "#D55E00"}
Line = tuple[str, str, Sequence[float], bool]  # name, colour, values, dashed


def panel(at: int, title: str, below: str, ticks: Sequence[str], lines: Sequence[Line]) -> str:
    """One plot whose values, shares from 0.55 to 0.85, stand at equal distances."""
    step = (WIDTH - 60) / (len(ticks) - 1)

    def height(value: float) -> float:
        return TOP + HEIGHT * (0.85 - value) / 0.3

    parts = [f'<text x="{at + LEFT}" y="24" font-weight="bold">{title}</text>']
    for mark in (0.6, 0.7, 0.8):
        y = height(mark)
        parts.append(
            f'<path d="M{at + LEFT} {y:.1f}h{WIDTH - 60}" stroke="#ddd"/>'
            f'<text x="{at + LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{mark:.0%}</text>'
        )
    for i, tick in enumerate(ticks):
        x = at + LEFT + i * step
        parts.append(
            f'<text x="{x:.1f}" y="{TOP + HEIGHT + 18}" text-anchor="middle">{tick}</text>'
        )
    middle = at + LEFT + (WIDTH - 60) / 2
    parts.append(f'<text x="{middle}" y="{TOP + HEIGHT + 38}" text-anchor="middle">{below}</text>')
    for name, colour, values, dashed in lines:
        points = [f"{at + LEFT + i * step:.1f},{height(v):.1f}" for i, v in enumerate(values)]
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        parts.append(
            f'<polyline points="{" ".join(points)}" fill="none" stroke="{colour}" '
            f'stroke-width="2"{dash}/><text x="{at + LEFT + WIDTH - 54}" '
            f'y="{height(values[-1]) + 4:.1f}" fill="{colour}">{name}</text>'
        )
    return "".join(parts)


def picture(told: dict[str, Any]) -> str:
    """The SVG of what `judge` wrote."""
    arms = told["ends"]
    curves = {
        name: [fmean(values) for values in zip(*(one["curves"][name] for one in arms), strict=True)]
        for name in ("critic", "weighted", "vote", "entropy")
    }
    learnt = [row["critic@2"] for row in told["learning"]]
    flat = len(learnt)
    left = panel(
        0, "Right with two traces", "votes learnt from",
        [str(row["votes"]) for row in told["learning"]],
        [("critic", COLOURS["critic"], learnt, False),
         ("vote", COLOURS["vote"], [curves["vote"][1]] * flat, True),
         ("entropy", COLOURS["entropy"], [curves["entropy"][1]] * flat, True)],
    )  # fmt: skip
    right = panel(
        WIDTH + 90, "Right with k traces", "traces", ["1", "2", "3", "4"],
        [("weighted", COLOURS["weighted"], curves["weighted"], False),
         ("vote", COLOURS["vote"], curves["vote"], True),
         ("entropy", COLOURS["entropy"], curves["entropy"], True)],
    )  # fmt: skip
    size = f'width="{2 * WIDTH + 200}" height="{TOP + HEIGHT + 52}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">'
        f'<rect width="100%" height="100%" fill="white"/>{left}{right}</svg>\n'
    )


def draw(path: Path) -> None:
    """Beside the JSON, the same name with .svg."""
    path.with_suffix(".svg").write_text(picture(json.loads(path.read_text())), encoding="utf-8")
