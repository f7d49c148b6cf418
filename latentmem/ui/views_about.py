"""The words and the picture of the About panel. Pure functions; no gradio."""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup

from ..settings import Settings
from .views import safe
from .views_receipt import definition_list

_LEARN = (("A problem", "no answer given"), ("N traces", "sampled at once"), ("A vote", "majority = label"),
          ("GRPO", "10 small steps"), ("A memory", "20 virtual tokens"))
_ANSWER = (("Next problem", "similar or not"), ("Nearest memory", "by cosine"), ("Two votes", "without and with"),
           ("Router", "agree, or verifier"), ("Receipt", "who answered, why"))


def first_visit() -> Markup:
    """What this is, for somebody who has ten seconds."""
    return Markup(
        '<ol class="steps3"><li><b>Solve</b>A small language model writes several solutions to a problem at once, and their '
        "answers vote. Press the blue button.</li><li><b>Distil</b>The model trains a tiny memory on its own majority, without "
        "being told the right answer.</li><li><b>Ask again</b>The next similar problem is answered with and without that memory. "
        "A receipt says which memory answered, and why.</li></ol>")


def method() -> Markup:
    """The method in one picture and four sentences."""
    return Markup(
        '<section><h2>How it works</h2>{}<div class="columns"><p>The model solves a problem several times. The answer that '
        "most traces agree on becomes the label; its share is the confidence. Nobody tells the model the truth.</p>"
        "<p>A short <b>soft prompt</b>, about a hundred-thousandth of the model's numbers, is trained to make the model agree "
        "with its own majority. The model itself never changes. The soft prompt is the <b>memory</b>.</p>"
        "<p>A new problem is answered twice: alone, and with the memory of the most similar problem. If both agree, that is the "
        "answer; if not, a verifier decides. So a bad memory does little harm.</p>"
        "<p>Every answer comes with a <b>receipt</b>: which memory was tried, how similar it is, what both sides said, and why "
        "one was believed. “No memory” and “nothing learnt” are results too.</p></div></section>").format(diagram())


def diagram() -> Markup:
    """Two rows of five boxes, learning above and answering below, joined through the bank."""
    parts = [_row(_LEARN, 26, "learn"), _row(_ANSWER, 196, "answer")]
    bank = ('<path class="link" d="M 832 98 C 832 150, 300 120, 272 190" marker-end="url(#tip)"/>'
            '<text class="small" x="640" y="170" text-anchor="middle">kept in the bank, found again by similarity</text>')
    return Markup(
        '<svg class="diagram" viewBox="0 0 920 290" role="img" aria-labelledby="dt"><title id="dt">Learning: a problem, '
        "several traces, a vote, ten steps of GRPO, a memory. Answering: the next problem, the nearest memory, two votes, "
        "a router, a receipt.</title><defs><marker id=\"tip\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"7\" "
        'markerHeight="7" orient="auto"><path class="tip" d="M0 0 8 4 0 8z"/></marker></defs>{}{}'
        "</svg>").format(Markup("").join(parts), Markup(bank))


def _row(boxes: tuple[tuple[str, str], ...], y: int, css: str) -> Markup:
    out = []
    for i, (title, words) in enumerate(boxes):
        x = 8 + i * 184
        out.append(Markup('<g class="{}"><rect x="{}" y="{}" width="152" height="70" rx="12"/><text class="title" x="{}" '
                          'y="{}" text-anchor="middle">{}</text><text class="small" x="{}" y="{}" text-anchor="middle">{}'
                          "</text></g>").format(css, x, y, x + 76, y + 31, title, x + 76, y + 52, words))
        if i + 1 < len(boxes):
            out.append(Markup('<path class="link" d="M {} {} h 27" marker-end="url(#tip)"/>').format(x + 154, y + 35))
    return Markup("").join(out)


def kept_where(bank: Path) -> Markup:
    """Where memories are, in words."""
    return Markup('<section><h2>Where memories are kept</h2><p>In one file on the computer that runs this app: '
                  "<code>{}</code>. It stays there when the app or the computer restarts, as long as that disk does. "
                  "<b>Export</b> on the Memories panel makes a copy to carry away; a single memory exports as a standard "
                  "PEFT adapter.</p></section>").format(safe(bank))


def model_facts(s: Settings) -> Markup:
    """The model and the settings everything starts from."""
    pairs = [("Model", s.model), ("Embedder", s.embedder), ("Device", s.device), ("Rollouts", str(s.rollouts)),
             ("Gradient steps", str(s.steps)), ("Virtual tokens", str(s.virtual_tokens)),
             ("Learning rate", f"{s.learning_rate:g}"), ("Verifier", s.verifier.replace("_", " "))]
    return Markup('<section><h2>The model</h2>{}<p class="hint">It is fetched at first use, checked against its known '
                  "checksum, and kept in a cache. After that no network is needed.</p></section>").format(definition_list(pairs))


def header_facts(s: Settings, ready: bool, memories: int) -> Markup:
    """The line at the top: which model, is it loaded, how many memories."""
    state = "loaded" if ready else "loads at first use"
    return Markup('<ul class="facts-line"><li><b>{}</b> {}</li><li><b>{}</b> {}</li></ul>').format(
        safe(s.model.rstrip("/").rsplit("/", 1)[-1]), state, memories, "memory" if memories == 1 else "memories")
