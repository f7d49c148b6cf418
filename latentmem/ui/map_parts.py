"""The components of the Memories panel that gradio has not: the map with its tools, carriers of its data, live areas with
buttons. All templates are static; what changes arrives as values and is set by the scripts as text."""

from __future__ import annotations

from typing import Any

import gradio as gr

from .views import Fragment

_WAIT = ("(function go() {{ window.latentmem?.{0} ? window.latentmem.{0}({{element, props, trigger, watch}}{1}) "
         ": setTimeout(go, 30); }})();")
MAP = _WAIT.format("map", "") + " /* triggers 'memory_click', 'want', 'explain', 'picked' */"
ACTS = _WAIT.format("live", "") + _WAIT.format("acts", "") + " /* triggers 'open_memory', 'open_receipt', 'take', 'act' */"
TABLE = _WAIT.format("live", "") + _WAIT.format("rows", "") + " /* triggers 'open_memory', 'take' */"
KEYS = ("Arrow keys step from point to point, Enter opens the point, Space selects it, plus and minus zoom, 0 shows all, "
        "Escape clears.")
TEMPLATE = f"""<div class="lm-map">
<div class="lm-tools" role="toolbar" aria-label="Tools of the map">
<span class="group"><button type="button" data-mode="pan" aria-pressed="true">Move</button>
<button type="button" data-mode="select" aria-pressed="false">Box</button>
<button type="button" data-mode="lasso" aria-pressed="false">Lasso</button></span>
<span class="group"><button type="button" data-zoom="in" aria-label="Zoom in">+</button>
<button type="button" data-zoom="out" aria-label="Zoom out">−</button>
<button type="button" data-zoom="fit">Fit</button></span>
<span class="group"><button type="button" data-layer="labels" aria-pressed="true">Names</button>
<button type="button" data-layer="density" aria-pressed="false">Density</button></span>
</div>
<div class="lm-stage"><div class="lm-figure" tabindex="0" role="application" aria-label="Map of the memories"
 aria-describedby="lm-map-keys"></div><div class="lm-tip" hidden></div><p class="lm-wait" role="status">Drawing the map…</p></div>
<div class="lm-legend"></div>
<p class="lm-keys" id="lm-map-keys">{KEYS}</p>
<p class="sr-only" aria-live="polite"></p>
</div>"""


def map_area() -> gr.HTML:
    """The map. `.memory_click(fn)`: a point was clicked ("" for none). `.want(fn)`: the page lacks the points of the
    picture it is to show. `.explain(fn)`: they are drawn. `.picked(fn)`: points were selected."""
    return gr.HTML({}, html_template=TEMPLATE, js_on_load=MAP, apply_default_css=False, elem_id="lm-map", elem_classes="lm-area",
                   label="Map of the memories")


def carrier(name: str) -> gr.HTML:
    """Nothing to see: hands its value to the map. Each kind of data has its own, so that only what changed is sent."""
    return gr.HTML(None, html_template='<div hidden></div>', js_on_load=_WAIT.format("carry", f', "{name}"'),
                   apply_default_css=False, elem_id=f"lm-map-{name}", elem_classes=["lm-area", "lm-carrier"], label=name)


def acting(elem_id: str, value: list[Fragment] | None = None) -> gr.HTML:
    """A live area with buttons in it: `.act(fn)` hears of them as {do, value}, `.open_receipt(fn)` of links to
    receipts; sliders in it move by themselves."""
    return _area(elem_id, ACTS, value)


def rows_area(elem_id: str) -> gr.HTML:
    """A live area with tables of memories, walked with the arrow keys."""
    return _area(elem_id, TABLE, None)


def _area(elem_id: str, script: str, value: Any) -> gr.HTML:
    return gr.HTML(value or [], html_template='<div class="lm-live"></div>', js_on_load=script, apply_default_css=False,
                   elem_id=elem_id, elem_classes="lm-area", label=elem_id)
