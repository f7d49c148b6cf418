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


def panel(
    at: int,
    title: str,
    below: str,
    ticks: Sequence[str],
    lines: Sequence[Line],
    marks: Sequence[float] = (0.6, 0.7, 0.8),
    form: str = ".0%",
) -> str:
    """One plot whose values stand at equal distances; half a mark's distance above and below the
    marks is shown."""
    step, apart = (WIDTH - 60) / (len(ticks) - 1), marks[1] - marks[0]
    low, high = marks[0] - apart / 2, marks[-1] + apart / 2

    def height(value: float) -> float:
        return TOP + HEIGHT * (high - value) / (high - low)

    parts = [f'<text x="{at + LEFT}" y="24" font-weight="bold">{title}</text>']
    for mark in marks:
        y = height(mark)
        parts.append(
            f'<path d="M{at + LEFT} {y:.1f}h{WIDTH - 60}" stroke="#ddd"/>'
            f'<text x="{at + LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{mark:{form}}</text>'
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
    return svg(left, right)


def families_picture(told: dict[str, Any]) -> str:
    """The SVG of what `families_report` wrote: a memory comes nearer to its teacher on problems that
    it has not seen, and what its traces are worth."""
    steps, watched = zip(*told["watched"], strict=True)
    colours = {told["memory"]: "#0072B2", "alone": "#555555", "no_code": "#D55E00"}
    names = {told["memory"]: "memory", "alone": "alone", "no_code": "no code"}
    colours = {name: colour for name, colour in colours.items() if name in told["systems"]}
    curves = {name: told["systems"][name]["vote_curve"] for name in colours}
    left = panel(
        0, "Divergence from the teacher, held out", "steps", list(map(str, steps)),
        [("memory", "#0072B2", watched, False), ("", "#555555", [watched[0]] * len(steps), True)],
        (0.11, 0.13, 0.15, 0.17), ".2f",
    )  # fmt: skip
    right = panel(
        WIDTH + 90, "Right with the vote of k traces, fresh problems", "traces",
        [str(k + 1) for k in range(len(curves["alone"]))],
        [(names[n], c, curves[n], n != told["memory"]) for n, c in colours.items()],
        (0.55, 0.65, 0.75, 0.85),
    )  # fmt: skip
    return svg(left, right)


def svg(*panels: str) -> str:
    size = f'width="{2 * WIDTH + 200}" height="{TOP + HEIGHT + 52}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">'
        f'<rect width="100%" height="100%" fill="white"/>{"".join(panels)}</svg>\n'
    )


def draw(path: Path) -> None:
    """Beside the JSON, the same name with .svg."""
    path.with_suffix(".svg").write_text(picture(json.loads(path.read_text())), encoding="utf-8")
