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


def live(
    elem_id: str, value: list[Fragment] | None = None, classes: str = "", script: str = LIVE
) -> gr.HTML:
    """An area that shows a list of fragments. `.open_memory(fn)` and `.open_receipt(fn)` listen to
    clicks on links, `.act(fn)` hears of its buttons as {do, value}."""
    return gr.HTML(
        value or [],
        html_template=f'<div class="lm-live {classes}"></div>',
        js_on_load=script,
        apply_default_css=False,
        elem_id=elem_id,
        elem_classes="lm-area",
        label=elem_id,
    )


def rows(elem_id: str) -> gr.HTML:
    """A live area with tables of memories, walked with the arrow keys."""
    return live(elem_id, script=TABLE)


NO_FIGURE: dict[str, Any] = {"data": [], "layout": {}}  # takes no room on the page


def figure(elem_id: str, label: str) -> gr.HTML:
    """A plotly figure, to look at."""
    return gr.HTML(
        NO_FIGURE,
        html_template=f'<div class="lm-figure" role="img" aria-label="{label}"></div>',
        js_on_load=FIGURE,
        apply_default_css=False,
        elem_id=elem_id,
        elem_classes="lm-area",
        label=label,
    )


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
TRAINING = ("steps", "learning_rate", "virtual_tokens", "seed")


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


def guide() -> gr.HTML:
    """Nothing to see: `page.js` opens memories and receipts through it when the visitor walks back
    and forth in the browser. After a reload its value {"again": [events]} names the runs to
    resume."""
    return gr.HTML(
        {},
        html_template="<div hidden></div>",
        js_on_load=GUIDE,
        apply_default_css=False,
        elem_id="lm-guide",
        elem_classes="lm-area",
        label="Address",
    )


def sampling_settings(s: Settings, most: Mapping[str, int]) -> dict[str, Any]:
    """The folded settings of Solve by name, in the order of SAMPLING. `most`: the limits of a
    shared app."""
    with gr.Accordion("Settings", open=False, elem_classes="settings"):
        return _attempts(s, most) | _memory_choice(s)


def _attempts(s: Settings, most: Mapping[str, int]) -> dict[str, Any]:
    return {
        "rollouts": gr.Slider(
            1,
            most.get("rollouts", max(16, s.rollouts)),
            value=s.rollouts,
            step=1,
            label="Attempts",
            info="How many solutions are sampled and vote. More is steadier and slower.",
        ),
        "temperature": gr.Slider(
            0,
            2,
            value=s.temperature,
            step=0.05,
            label="Temperature",
            info="How freely tokens are drawn. 0 always takes the likeliest token, so all "
            "attempts are the same.",
        ),
        "top_p": gr.Slider(
            0.05,
            1,
            value=s.top_p,
            step=0.05,
            label="Nucleus (top p)",
            info="Only the likeliest tokens with this total probability are drawn. 1 keeps all.",
        ),
        "max_new_tokens": gr.Slider(
            16,
            most.get("max_new_tokens", max(2048, s.max_new_tokens)),
            value=s.max_new_tokens,
            step=16,
            label="Longest attempt, in tokens",
            info="A longer attempt is cut off and does not vote.",
        ),
        "seed": gr.Number(
            s.seed,
            label="Seed",
            precision=0,
            minimum=0,
            info="The same seed gives the same attempts again.",
        ),
    }


def _memory_choice(s: Settings) -> dict[str, Any]:
    verifiers = [
        ("Share of the votes", "vote_share"),
        ("Self-certainty", "self_certainty"),
        ("The model as judge", "judge"),
    ]
    return {
        "verifier": gr.Dropdown(
            verifiers,
            value=s.verifier,
            label="Verifier",
            info="What decides when the model alone and the memory disagree.",
        ),
        "key": gr.Radio(
            [("Sentence embedding", "input"), ("The model's activations", "kv")],
            value=s.key,
            label="Similar by",
            info="What is compared to find a memory for a problem.",
        ),
        "min_similarity": gr.Slider(
            -1,
            1,
            value=s.min_similarity,
            step=0.05,
            label="Least similarity",
            info="A memory less similar than this is not tried.",
        ),
    }


def distil_settings(s: Settings, most: Mapping[str, int]) -> dict[str, Any]:
    """The folded settings of Distil beside the shared ones by name, in the order of TRAINING."""
    with gr.Accordion("Settings of the distillation", open=False, elem_classes="settings"):
        return {
            "steps": gr.Slider(
                1,
                most.get("steps", max(30, s.steps)),
                value=s.steps,
                step=1,
                label="Gradient steps",
                info="Each step samples fresh attempts and rewards those that agree with the "
                "majority.",
            ),
            "learning_rate": gr.Number(
                s.learning_rate,
                label="Learning rate",
                minimum=0,
                info="Size of a step. Training with too large a step collapses; the guard then "
                "keeps the best step.",
            ),
            "virtual_tokens": gr.Slider(
                1,
                most.get("virtual_tokens", max(64, s.virtual_tokens)),
                value=s.virtual_tokens,
                step=1,
                label="Virtual tokens",
                info="Length of the soft prompt, the only thing that is trained.",
            ),
            "seed": gr.Number(
                None,
                label="Seed",
                precision=0,
                minimum=0,
                info="The same seed gives the same memory again. Empty: the seed of Solve.",
            ),
        }


def overrides(names: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
    """The values of these controls as overrides of Settings, which checks them. An empty box means
    the default."""
    return {name: _whole(v) for name, v in zip(names, values, strict=True) if v is not None}


def _whole(value: Any) -> Any:
    """Sliders send 8 as 8.0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


# ---------- Of the Memories panel: the map with its tools, carriers of its data, tables.

KEYS = (
    "Arrow keys step from point to point, Enter opens a point, Space selects it, plus and minus "
    "zoom, 0 shows everything, Escape closes."
)
TEMPLATE = f"""<div class="lm-map">
<div class="lm-figure" tabindex="0" role="application" aria-label="Map of the memories"
 aria-describedby="lm-map-keys"></div><p class="lm-wait" role="status">Drawing the map…</p>
<p class="lm-keys" id="lm-map-keys">{KEYS}</p>
<p class="sr-only" aria-live="polite"></p>
</div>"""


def map_area() -> gr.HTML:
    """The map. `.memory_click(fn)`: a point was clicked ("" closes). `.want(fn)`: the page lacks
    the points of the map it is to show. `.explain(fn)`: they are drawn. `.picked(fn)`: points were
    selected."""
    return gr.HTML(
        {},
        html_template=TEMPLATE,
        js_on_load=MAP,
        apply_default_css=False,
        elem_id="lm-map",
        elem_classes="lm-area",
        label="Map of the memories",
    )


def carrier(name: str) -> gr.HTML:
    """Nothing to see: hands its value, which is JSON as text, to the map. Each kind of data has its
    own, so that only what changed is sent."""
    return gr.HTML(
        "",
        html_template="<div hidden></div>",
        js_on_load=_calls("carry", f'"{name}"'),
        apply_default_css=False,
        elem_id=f"lm-map-{name}",
        elem_classes=["lm-area", "lm-carrier"],
        label=name,
    )


def other_memories(
    session: AppSession, r: Receipt, nearest: Sequence[Hit]
) -> list[tuple[str, str]]:
    """(label, id) of the memories that a receipt can be compared with: the nearest first, then the
    newest."""
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


CHOICES = 200  # memories offered for a comparison, the newest ones
