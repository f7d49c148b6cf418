"""Small pieces that the panels share: live areas, figures, and the folded settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from ..records import Hit, Receipt
from ..settings import Settings
from .session import AppSession, attempt
from .views.html import Fragment
from .views.memory import choice_label


# Static templates: foreign text arrives as the value and is drawn by live.js, never through
# gradio's template engine.
def _calls(name: str, *more: str, triggers: str = "") -> str:
    """The script of an area: `window.latentmem.NAME`, once it is there. gradio offers those events
    that a script mentions."""
    given = ", ".join(["{element, props, trigger, watch}", *more])
    waits = f"window.latentmem?.{name} ? window.latentmem.{name}({given}) : setTimeout(go, 30);"
    return f"(function go() {{ {waits} }})(); /* triggers {triggers} */"


LIVE = _calls("live", triggers="'open_memory', 'open_receipt', 'act'")
TABLE = LIVE + _calls("rows")
FIGURE = _calls("figure")
MAP = _calls("map", triggers="'memory_click', 'want', 'explain', 'picked'")
GUIDE = _calls(
    "guide",
    triggers="'open_memory', 'open_receipt', 'solve_goes_on', 'distil_goes_on', 'build_goes_on', "
    "'stream_goes_on', 'solve_begins', 'distil_begins', 'build_begins', 'stream_begins'",
)


def area(
    elem_id: str, template: str, script: str, value: Any, label: str = "", css: str = ""
) -> gr.HTML:
    """An element that our scripts draw. `.open_memory(fn)` and the like listen to its events."""
    return gr.HTML(
        value,
        html_template=template,
        js_on_load=script,
        apply_default_css=False,
        elem_id=elem_id,
        elem_classes=f"lm-area {css}".split(),
        label=label or elem_id,
    )


def live(
    elem_id: str, value: list[Fragment] | None = None, classes: str = "", script: str = LIVE
) -> gr.HTML:
    """An area that shows a list of fragments. `.open_memory(fn)` and `.open_receipt(fn)` listen to
    clicks on links, `.act(fn)` hears of its buttons as {do, value}."""
    return area(elem_id, f'<div class="lm-live {classes}"></div>', script, value or [])


def rows(elem_id: str) -> gr.HTML:
    """A live area with tables of memories, walked with the arrow keys."""
    return live(elem_id, script=TABLE)


NO_FIGURE: dict[str, Any] = {"data": [], "layout": {}}  # takes no room on the page


def figure(elem_id: str, label: str) -> gr.HTML:
    """A plotly figure, to look at."""
    template = f'<div class="lm-figure" role="img" aria-label="{label}"></div>'
    return area(elem_id, template, FIGURE, NO_FIGURE, label)


# The settings that a visitor chooses, in the order of their controls: those of every run, and those
# of Distil.
SAMPLING = (
    "rollouts",
    "temperature",
    "top_p",
    "max_new_tokens",
    "seed",
    "verifier",
    "key",
    "min_similarity",
)
# ... and that of Solve, whose vote Distil after it begins with.
EARLY: Mapping[str, Any] = {"stop_when_decided": True}
TRAINING = ("steps", "learning_rate", "virtual_tokens", "seed", "recipe")


# One piece of model work at a time; the others wait in the queue and are told how many are ahead.
MODEL: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1}
# What is quick does not wait in that queue: when it is full, a memory can still be kept.
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "queue": False}
WATCH = {**QUIET, "concurrency_limit": 32, "queue": True}  # pages that only look on
# The work of a press. "multiple": gradio believes an event to be running until its cancel is
# answered, and would ignore a press until then. `Action.begin` keeps the order.
WORK: dict[str, Any] = {
    "show_progress": "hidden",  # gradio would write its place in the queue over our words
    "api_visibility": "private",
    "trigger_mode": "multiple",
}


def focus(*places: str) -> dict[str, Any]:
    """What to give `.then` after a handler that hides the focused control: the first of these
    selectors gets the focus."""
    return {
        "fn": None,
        "js": f"() => {{ window.latentmem.focus({', '.join(map(repr, places))}); }}",
        "show_progress": "hidden",
        "api_visibility": "private",
    }


NOTHING = "<div hidden></div>"


def guide() -> gr.HTML:
    """Nothing to see: `page.js` opens memories and receipts through it when the visitor walks back
    and forth in the browser. After a reload its value {"again": [events]} names the runs to
    resume."""
    return area("lm-guide", NOTHING, GUIDE, {}, "Address")


def carrier(name: str) -> gr.HTML:
    """Nothing to see: hands its value, which is JSON as text, to the map. Each kind of data has its
    own, so that only what changed is sent."""
    return area(f"lm-map-{name}", NOTHING, _calls("carry", f'"{name}"'), "", css="lm-carrier")


# ---------- The settings that a visitor chooses.

SLIDERS = {  # lowest, highest where the app is not shared, step
    "rollouts": (1, 16, 1),
    "temperature": (0, 2, 0.05),
    "top_p": (0.05, 1, 0.05),
    "max_new_tokens": (16, 2048, 16),
    "min_similarity": (-1, 1, 0.05),
    "steps": (1, 30, 1),
    "virtual_tokens": (1, 64, 1),
}
VERIFIERS = [
    ("Share of the votes", "vote_share"),
    ("Self-certainty", "self_certainty"),
    ("The model as judge", "judge"),
]
KEYS = [("Sentence embedding", "input"), ("The model's activations", "kv")]
RECIPES = [("Fast", "fast"), ("Paper", "paper")]
WORDS = {
    "rollouts": (
        "Attempts",
        "How many solutions are sampled and vote. More is steadier and slower.",
    ),
    "temperature": (
        "Temperature",
        "How freely tokens are drawn. 0 always takes the likeliest token, so all attempts are the "
        "same.",
    ),
    "top_p": (
        "Nucleus (top p)",
        "Only the likeliest tokens with this total probability are drawn. 1 keeps all.",
    ),
    "max_new_tokens": (
        "Longest attempt, in tokens",
        "A longer attempt is cut off and does not vote.",
    ),
    "seed": ("Seed", "The same seed gives the same attempts again."),
    "verifier": ("Verifier", "What decides when the model alone and the memory disagree."),
    "key": ("Similar by", "What is compared to find a memory for a problem."),
    "min_similarity": ("Least similarity", "A memory less similar than this is not tried."),
    "steps": (
        "Gradient steps",
        "Each step makes the attempts that agree with the majority a little likelier.",
    ),
    "learning_rate": (
        "Learning rate",
        "Of the paper's recipe. Training with too large a step collapses; the guard then keeps the "
        "best step.",
    ),
    "virtual_tokens": (
        "Virtual tokens",
        "Of the paper's recipe: length of the soft prompt, the only thing that is trained.",
    ),
    "recipe": (
        "Recipe",
        "Fast: a vector for each layer learns the attempts that won the vote. Paper: a soft prompt "
        "learns from fresh attempts in every step.",
    ),
}


def setting(name: str, s: Settings, most: Mapping[str, int], **own: Any) -> Any:
    """The control of a setting. `most`: the limits of a shared app; `own`: what differs here."""
    label, info = WORDS[name]
    look = {"value": getattr(s, name), "label": label, "info": info, **own}
    if name in SLIDERS:
        low, high, step = SLIDERS[name]
        return gr.Slider(low, most.get(name, max(high, look["value"])), step=step, **look)
    if name == "verifier":
        return gr.Dropdown(VERIFIERS, **look)
    if name in ("key", "recipe"):
        return gr.Radio(KEYS if name == "key" else RECIPES, **look)
    return gr.Number(minimum=0, precision=0 if name == "seed" else None, **look)


def sampling_settings(s: Settings, most: Mapping[str, int]) -> dict[str, Any]:
    """The folded settings of Solve by name, in the order of SAMPLING."""
    with gr.Accordion("Settings", open=False, elem_classes="settings"):
        return {name: setting(name, s, most) for name in SAMPLING}


def distil_settings(s: Settings, most: Mapping[str, int]) -> dict[str, Any]:
    """The folded settings of Distil beside the shared ones by name, in the order of TRAINING. Its
    seed is that of Solve unless a visitor gives another."""
    with gr.Accordion("Settings of the distillation", open=False, elem_classes="settings"):
        own = "The same seed gives the same memory again. Empty: the seed of Solve."
        seed = {"seed": {"value": None, "info": own}}
        return {name: setting(name, s, most, **seed.get(name, {})) for name in TRAINING}


def overrides(names: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
    """Values of controls as overrides of Settings. An empty box means the default."""

    def whole(value: Any) -> Any:  # sliders send 8 as 8.0
        return int(value) if isinstance(value, float) and value.is_integer() else value

    return {name: whole(v) for name, v in zip(names, values, strict=True) if v is not None}


# ---------- Of the Memories panel.

TEMPLATE = """<div class="lm-map">
<div class="lm-figure" tabindex="0" role="application" aria-label="Map of the memories"
 aria-describedby="lm-map-keys"></div><p class="lm-wait" role="status">Drawing the map…</p>
<p class="lm-keys" id="lm-map-keys">Arrow keys step from point to point, Enter opens a point, Space
 selects it, plus and minus zoom, 0 shows everything, Escape closes.</p>
<p class="sr-only" aria-live="polite"></p>
</div>"""


def map_area() -> gr.HTML:
    """The map. `.memory_click(fn)`: a point was clicked ("" closes). `.want(fn)`: the page lacks
    the points of the map it is to show. `.explain(fn)`: they are drawn. `.picked(fn)`: points were
    selected."""
    return area("lm-map", TEMPLATE, MAP, {}, "Map of the memories")


# memories offered in a drop-down list, the newest first; gradio takes a while to show very many
CHOICES = 200


def other_memories(
    session: AppSession, r: Receipt, nearest: Sequence[Hit]
) -> list[tuple[str, str]]:
    """(label, id) to compare a receipt with: the nearest memories, then the newest."""
    tried = r.used.memory_id if r.used is not None else ""
    rows, _ = attempt(lambda: session.engine.bank.infos(model=r.model, limit=CHOICES))
    infos = {i.id: i for i in rows or []}
    listed, near = [], set()
    for hit in nearest or r.hits:
        info = (
            infos.get(hit.memory_id)
            or attempt(lambda hit=hit: session.engine.bank.info(hit.memory_id))[0]
        )
        if info is not None and info.id != tried:  # a hit may have been deleted since
            near.add(info.id)
            listed.append((f"{hit.similarity:.2f} · {choice_label(info)}", info.id))
    return listed + [(choice_label(i), i.id) for i in infos.values() if i.id not in {tried, *near}]
