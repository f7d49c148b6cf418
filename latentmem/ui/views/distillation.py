"""A distillation in words and curves. Pure functions; figures are plotly's JSON as plain dicts; no
gradio."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from markupsafe import Markup

from ...engine.run_state import Scene
from ...records import Distilled, Side, Status, Step
from .html import (
    Fragment,
    count,
    duration,
    fragments,
    join,
    number,
    percent,
    progress,
    roughly,
    table,
)
from .receipt import open_link, unfit, vote_result

BLUE, VERMILLION, GREEN = "theme:blue", "#D55E00", "#009E73"  # Okabe and Ito
SERIES = (
    ("Agreement", "agreement", BLUE),
    ("Loss", "loss", VERMILLION),
    ("Gradient norm", "grad_norm", GREEN),
)


def round_titles(scene: Scene) -> dict[Side, str]:
    """Headings of the two groups of rollouts of a distillation."""
    final = bool(scene.steps) and (scene.round > scene.steps[0].steps or _checking(scene))
    fresh = f"Fresh attempts of step {scene.round}"
    return {
        "memory": "Attempts of the final check" if final else fresh,
        "zero_shot": "The vote that gives the label",
    }


def _checking(scene: Scene) -> bool:
    """Whether the final check goes on; it comes early where training was told to stop."""
    return scene.status is not None and scene.status.text.startswith("Final check")


def _training(scene: Scene) -> bool:
    status = scene.status
    return status is not None and not scene.sampling and status.text.startswith("Training")


def line(name: str, x: Sequence[Any], y: Sequence[Any], colour: str, **more: Any) -> dict[str, Any]:
    """A curve with marks, as a plotly trace."""
    look = {"color": colour, "width": 2.5, **more.pop("line", {})}
    mark = {"size": 7, **more.pop("marker", {})}
    common = {"type": "scatter", "mode": "lines+markers", "name": name, "x": x, "y": y}
    return {**common, "line": look, "marker": mark, **more}


def caption(text: str, y: float = 1) -> dict[str, Any]:
    """A name over a curve, in ink: as text the line's colour is too pale."""
    place = {"x": 0, "xref": "paper", "xanchor": "left", "yref": "paper", "yanchor": "bottom"}
    return {"text": text, "y": y, **place, "showarrow": False, "font": {"size": 13}}


def curve_figure(steps: Sequence[Step], best: int | None = None) -> dict[str, Any]:
    """Agreement, loss and gradient norm by step, one under the other, as a plotly figure. Each step
    samples before it trains, so its agreement is that of the prompt after the step before; that of
    the prompt after step `best`, which was kept, is marked."""
    total = steps[0].steps
    data, layout = [], _frame(total)
    for i, (name, member, colour) in enumerate(SERIES, start=1):
        x, y = _curve(steps, member)
        words = f"after %{{x}} of {total} steps" if member == "agreement" else "step %{x}"
        shown = f"{words}<br>{name} %{{y:.3f}}<extra></extra>"
        axis = {"xaxis": "x", "yaxis": f"y{i if i > 1 else ''}"}
        data.append(line(name, x, y, colour, hovertemplate=shown, **axis))
    if best is not None:
        look = {"color": "#8a8f98", "width": 1.5, "dash": "dot"}
        place = {"xref": "x", "yref": "y domain", "x0": best, "x1": best, "y0": 0, "y1": 1}
        layout["shapes"] = [{"type": "line", **place, "line": look}]
        # Beside the line, at the foot of the agreement: above it stands the name of the curve, and
        # agreement is rarely 0.
        side = {"xanchor": "left" if best <= total / 2 else "right", "yanchor": "bottom"}
        words = f"kept: after step {best}" if best else "kept: the start"
        kept = {"text": words, "x": best, "y": 0, "xref": "x", "yref": "y"}
        layout["annotations"].append({**kept, **side, "showarrow": False, "font": {"size": 12}})
    return {"data": data, "layout": layout}


def _value(s: Step, member: str) -> float | None:
    """The final check has an agreement, but no loss and no gradient."""
    return None if s.final and member != "agreement" else getattr(s, member)


def _curve(steps: Sequence[Step], member: str) -> tuple[list[int], list[float]]:
    """(steps taken, value) of a curve: an agreement is of the prompt before its step."""
    known = [(s.step - (member == "agreement"), _value(s, member)) for s in steps]
    return [x for x, y in known if y is not None], [y for _, y in known if y is not None]


def _known(s: Step, member: str) -> str:
    value = _value(s, member)
    return "–" if value is None else f"{value:.3f}"


def _frame(total: int) -> dict[str, Any]:
    """The axes of so many steps."""
    layout: dict[str, Any] = {
        "showlegend": False,
        "height": 400,
        "margin": {"l": 52, "r": 16, "t": 26, "b": 40},
        "annotations": [],
        "xaxis": {
            "title": {"text": "gradient steps taken", "font": {"size": 13}},
            "range": [-0.5, total + 0.5],
            "dtick": max(1, total // 10),
            "anchor": "y3",
            "fixedrange": True,
        },
    }
    scales = ({"range": [-0.04, 1.06], "tickformat": ".0%"}, {}, {"rangemode": "tozero"})
    for i, ((name, *_), scale) in enumerate(zip(SERIES, scales, strict=True)):
        top = 1 - i * 0.345
        axis = {"domain": [max(0.0, top - 0.27), top], "anchor": "x", "nticks": 4}
        layout[f"yaxis{i + 1 if i else ''}"] = {**axis, "fixedrange": True, **scale}
        layout["annotations"].append(caption(name, top))
    return layout


def time_left(scene: Scene) -> float | None:
    """Seconds until the end, by the mean of the last three steps; None before the first has ended.

    The final check writes traces but trains nothing.
    """
    if not scene.steps:
        return None
    recent, last = scene.steps[-3:], scene.steps[-1]
    step = fmean(s.seconds for s in recent)
    check = fmean(s.seconds_rollout for s in recent)
    if not check:  # the recipe samples only at the end: as long as the first vote
        check = max((r.trace.seconds for r in scene.side("zero_shot") if r.trace), default=0.0)
    if last.final:
        return 0.0
    if last.step == last.steps:
        return check * (1 - _within(scene))
    return max(0.0, step * (last.steps - last.step - _within(scene)) + check)


def _within(scene: Scene) -> float:
    """How much of the present step is done: half of it is writing, half is training."""
    rows = list(scene.side("memory"))
    if scene.sampling and rows:
        return 0.5 * sum(r.trace is not None for r in rows) / len(rows)
    if _training(scene) and scene.status is not None and scene.status.total > 0:
        return 0.5 + 0.5 * min(1.0, scene.status.done / scene.status.total)
    return 0.0


def share_done(scene: Scene, steps: int) -> float:
    """0..1 of the whole distillation: the first vote, the steps and the final check count alike."""
    total = max(scene.total, len(list(scene.side("zero_shot"))), 1)
    first = scene.finished("zero_shot") / total
    begun = first >= 1 or bool(scene.steps)
    done = 1 + len(scene.steps) + _within(scene) if begun else first
    return min(1.0, done / (steps + 2))


def phase_words(scene: Scene, steps: int) -> tuple[str, str]:
    """(what is happening, why), for somebody who has not read the paper."""
    n = len(scene.steps) + 1
    if not scene.rows:
        return (scene.status.text if scene.status is not None else "Starting…"), ""
    if not any(scene.side("memory")) and not scene.steps and not _training(scene):
        return _written(scene, "zero_shot", "First vote"), (
            "The model solves the problem on its own. The majority's answer becomes the label; no "
            "correct answer is given."
        )
    if n > steps or _checking(scene):
        why = "Does the model still give the majority's answer with this memory?"
        return _written(scene, "memory", "Final check"), why
    if scene.sampling:
        return _written(scene, "memory", f"Step {n} of {steps}"), (
            "Fresh attempts with the memory as it is now. Those that give the majority's answer "
            "are rewarded."
        )
    return (scene.status.text if scene.status is not None else "Training"), (
        "The memory moves a little towards the attempts that gave the majority's answer. The "
        "model's own weights stay as they are."
    )


def _written(scene: Scene, side: Side, what: str) -> str:
    total = max(len(list(scene.side(side))), scene.total)
    return f"{what}: {scene.finished(side)} of {count(total, 'attempt')} finished"


def distil_status(scene: Scene, steps: int) -> Markup:
    """What happens now, how far it is, and how long it still takes."""
    what, why = phase_words(scene, steps)
    if not scene.rows:
        return progress(scene.status or Status(what))
    left = time_left(scene)
    time_ = "" if left is None else f" {roughly(left).capitalize()} left."
    hint = Markup('<p class="hint">{}{}</p>').format(why, time_)
    return progress(Status(what, share_done(scene, steps), 1)) + hint


def step_words(s: Step) -> str:
    """What a gradient step did, for somebody who has not read the paper."""
    who = f"training on attempts that won the vote, loss {s.loss:.3f}"
    if s.rewards:
        rewarded, fresh = sum(r > 0 for r in s.rewards), count(len(s.rewards), "fresh attempt")
        who = f"{rewarded} of {fresh} gave the majority's answer"
    if s.final:
        return f"Final check of the memory: {who}."
    if s.note:
        return f"{s.title.capitalize()}: {who}; {s.note}."
    if not s.rewards:
        return f"{s.title.capitalize()}: {who}."
    return (
        f"{s.title.capitalize()}: {who} and were rewarded; the soft prompt moved by "
        f"{percent(s.shift)} of its size."
    )


def distil_words(scene: Scene) -> Markup:
    """The line under the curve: what the last step did."""
    if not scene.steps:
        return Markup("")
    return Markup('<p class="words">{}</p>').format(step_words(scene.steps[-1]))


def outcome(d: Distilled) -> Markup:
    """The end: a memory to keep or to discard, or in plain words why there is none."""
    if d.memory is None:
        return unfit(d.reason)
    m = d.memory
    tokens, *_, hidden = m.soft_prompt.shape
    size = f"{tokens} virtual tokens" if m.soft_prompt.ndim == 2 else f"{tokens} layer vectors"
    css, title, link = "open", "A memory, not yet kept", Markup("")
    if d.kept:
        css, title = "kept", "Kept in the bank"
        link = Markup("<p>{}</p>").format(open_link(m.id, "See it on the map"))
    return Markup(
        '<section class="outcome {}"><h3>{}</h3><p>“{}”: the majority answered {}. It was kept as '
        'it is after step {}: {} × {} = {} numbers.</p><p class="hint">{}</p>{}'
        "</section>"
    ).format(
        css,
        title,
        m.name,
        vote_result(m.vote, "nothing"),
        m.best_step,
        size,
        hidden,
        number(tokens * hidden),
        d.reason,
        link,
    )


def steps_table(steps: Sequence[Step]) -> list[Fragment]:
    """The curve as a table: the way without the picture."""
    if not steps:
        return []
    heads = "step,agreement,loss,gradient,finished,tokens,moved by,entropy (nats),time,note"
    rows = [
        (
            "check" if s.final else s.step,
            "–" if s.agreement is None else percent(s.agreement),
            _known(s, "loss"),
            _known(s, "grad_norm"),
            percent(s.finished),
            f"{s.length:.0f}",
            percent(s.shift),
            f"{s.entropy:.2f}",
            duration(s.seconds),
            s.note,
        )
        for s in steps
    ]
    fold = Markup('<details class="steps"><summary>The steps as a table</summary>{}</details>')
    return fragments(("steps", fold.format(table("Steps", heads.split(","), rows))))


def sparklines(steps: Sequence[Step], best: int | None = None) -> Markup:
    """The curve of a stored memory, small: three inline SVG lines."""
    if not steps:
        return Markup('<p class="hint">No curve was stored with this memory.</p>')
    curves = [(i, name, *_curve(steps, member)) for i, (name, member, _) in enumerate(SERIES)]
    lines = join(_spark(i, name, x, y, best) for i, name, x, y in curves if y)
    return Markup('<div class="sparks">{}</div>').format(lines)


def _spark(
    index: int, name: str, at: Sequence[int], values: Sequence[float], marked: int | None
) -> Markup:
    lo, hi = (0.0, 1.0) if index == 0 else (min(values), max(values))
    span, width = (hi - lo) or 1.0, max(len(values) - 1, 1)
    points = [(4 + 152 * i / width, 40 - 34 * (v - lo) / span) for i, v in enumerate(values)]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dot = Markup("")
    if marked in at:
        dot = Markup('<circle cx="{:.1f}" cy="{:.1f}" r="4"/>').format(*points[at.index(marked)])
    last = percent(values[-1]) if index == 0 else f"{values[-1]:.2f}"
    return Markup(
        '<figure class="spark s{}"><svg viewBox="0 0 160 46" role="img" aria-label="{} by step, '
        'last {}"><polyline points="{}"/>{}</svg><figcaption>{} <b>{}</b></figcaption></figure>'
    ).format(index, name, last, line, dot, name, last)
