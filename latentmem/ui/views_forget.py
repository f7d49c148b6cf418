"""The button that forgets a receipt, in two steps. Pure; no gradio.

`map_table.js` tells `map_actions.act` which button was pressed. The first one stays where it is while the second step asks:
it has the keyboard's place, and pressing it twice must not forget anything.
"""

from __future__ import annotations

from markupsafe import Markup

from .views import Fragment, fragments, join, notice, safe

ASK, SURE, SPARE = "forget", "really-forget", "spare-receipt"  # what the buttons do


def forget(receipt_id: str, sure: bool = False) -> list[Fragment]:
    """Below a receipt that is kept: a button, and, once it was pressed (`sure`), the question."""
    first = _button(ASK, receipt_id, "Forget this receipt…")
    if not sure:
        return fragments(("forget", Markup('<p class="forget">{}</p>').format(first)))
    asked = notice("Forget this receipt for good? What was asked, the votes and the traces are deleted. What the answer counted "
                   "for the memory stays.", "warn")
    return fragments(("forget", Markup('<p class="forget">{}</p>{}<p class="forget">{}</p>').format(
        first, asked, join([_button(SURE, receipt_id, "Yes, forget it"), _button(SPARE, receipt_id, "No, keep it")], " "))))


def _button(do: str, receipt_id: str, words: str) -> Markup:
    return Markup('<button type="button" class="small" data-do="{}" data-value="{}">{}</button>').format(
        do, safe(receipt_id), words)
