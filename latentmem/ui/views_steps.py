"""A memory's distillation, step by step under a slider. Pure functions; no gradio. `map_table.js` moves the slider."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from ..records import Memory, Step
from .views import answer_text, count, duration, join, number, percent, safe, stored_cards
from .views_distil import seen_at
from .views_receipt import definition_list

NOT_STORED = ("The texts of this step's fresh traces are not kept with the memory: only their rewards and these numbers are. "
              "Step 0 has the traces of the vote it learnt from.")


def stepper(m: Memory) -> Markup:
    """Step 0 is the vote with its traces; each later step its rewards and numbers."""
    panels = [_step_panel("0", "Step 0: the vote it learnt from", _first(m))]
    panels += [_step_panel(str(i), _title(s, m.best_step), _numbers(s)) for i, s in enumerate(m.steps, 1)]
    slider = Markup("")
    if m.steps:
        slider = Markup('<label class="slide"><span>Step</span><input type="range" min="0" max="{}" value="0" step="1" '
                        'aria-label="Step of the distillation"><output>0 of {}</output></label>').format(
            len(m.steps), len(m.steps))
    return Markup('<section class="stepper" data-stepper="{}"><h3>Traces, step by step</h3>{}{}</section>').format(
        len(m.steps), slider, join(panels))


def _step_panel(name: str, title: str, content: Markup) -> Markup:
    return Markup('<div class="step" data-step="{}"{}><h4>{}</h4>{}</div>').format(
        name, Markup("") if name == "0" else Markup(" hidden"), title, content)


def _first(m: Memory) -> Markup:
    if not m.traces:
        return Markup('<p class="hint">The traces of the vote were not stored with this memory.</p>')
    cards = join([Markup(html) for _, html in stored_cards(m.vote, m.traces)])
    return Markup('<div class="cards">{}</div>').format(cards)


def _title(s: Step, best: int) -> str:
    if best and s.step == seen_at(best):
        kept = ": traces of the soft prompt that was kept"
    else:
        kept = ", and the soft prompt after it was kept" if s.step == best else ""
    return f"Final check after the last step{kept}" if s.final else f"{s.title.capitalize()}{kept}"


def _numbers(s: Step) -> Markup:
    pairs = [("Agreement", percent(s.agreement)), ("Finished with a box", percent(s.finished)),
             ("Mean length", f"{s.length:.0f} tokens"), ("Entropy", f"{s.entropy:.2f} nats a token")]
    if not s.final:
        pairs += [("Loss", number(s.loss, 3)), ("Gradient norm", number(s.grad_norm, 3))]
    pairs += [("Moved by", percent(s.shift)), ("Time", duration(s.seconds))]
    note = Markup('<p class="hint">{}</p>').format(safe(s.note)) if s.note else Markup("")
    return Markup('<p>The majority said {}.</p>{}{}{}<p class="hint">{}</p>').format(
        answer_text(s.label), rewards(s.rewards), definition_list(pairs), note, NOT_STORED)


def rewards(values: Sequence[float]) -> Markup:
    """One mark a fresh trace: filled where it was rewarded, a ring where it was not."""
    if not values:
        return Markup("")
    good = sum(v > 0 for v in values)
    words = f"{good} of {count(len(values), 'fresh trace')} rewarded"
    marks = join([Markup('<i class="{}" title="trace {}: reward {:g}"></i>').format("won" if v > 0 else "lost", i, v)
                  for i, v in enumerate(values, 1)])
    return Markup('<p class="rewards"><span role="img" aria-label="{}">{}</span> {}</p>').format(words, marks, words)
