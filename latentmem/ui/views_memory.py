"""One memory as a page. Pure functions; no gradio."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup

from ..records import Counters, Event, Hit, Memory, MemoryInfo
from .views import Fragment, answer_text, count, fragments, join, percent, safe, stored_vote
from .views_distil import sparklines, steps_table
from .views_events import NONE, event_list, timeline, verdicts
from .views_receipt import definition_list, key_words, open_link
from .views_steps import stepper

if TYPE_CHECKING:
    from ..bank_notes import Note
    from ..words import Word


def no_page(infos: Sequence[MemoryInfo] = (), closed: bool = False) -> list[Fragment]:
    """In place of a memory's page: how to open one, and the bank at a glance. `closed`: the address of the one that was
    open goes."""
    address = Markup(' data-address=""') if closed else Markup("")
    how = Markup('<p class="notice"{}>Click a point on the map, or a name in the table, to open a memory.</p>').format(address)
    return fragments(("none", how), ("glance", glance(infos)))


def glance(infos: Sequence[MemoryInfo]) -> Markup:
    """The bank in a few numbers."""
    if not infos:
        return Markup("")
    helped, hurt = (sum(getattr(i.counters, kind) for i in infos) for kind in ("helped", "hurt"))
    pairs = [("Memories", f"{len(infos):,}".replace(",", " ")),
             ("Mean agreement", percent(sum(i.majority_ratio for i in infos) / len(infos))),
             ("Tried", str(sum(i.counters.used for i in infos))), ("Helped", str(helped)), ("Hurt", str(hurt)),
             ("In quarantine", str(sum(i.quarantined for i in infos)))]
    models = Counter(i.model_name for i in infos)
    names = ", ".join(f"{name} ({n})" for name, n in models.most_common(4))
    return Markup('<section class="glance"><h3>The bank at a glance</h3>{}<p class="hint">Made by {}.</p></section>').format(
        definition_list(pairs), safe(names))


def head(m: Memory, info: MemoryInfo, tags: Sequence[str] = (), receipt_id: str = "") -> list[Fragment]:
    """What the memory is: its problem, the answer it learnt, how many agreed, its tags. `receipt_id`: of the receipt that is
    open in place of the rest; the address shows both."""
    flag = Markup('<span class="chip warn">quarantined: it is not tried on problems</span>') if info.quarantined else ""
    winner = m.vote.clusters[0].size if m.vote.clusters else 0
    agreed = f"{winner} of {count(m.vote.total, 'trace')} agreed ({percent(m.vote.majority_ratio)})"
    chips = join([_chip(tag) for tag in tags])
    return fragments(("head", Markup(
        '<header class="memory-head" data-address="{}" data-receipt-open="{}"><p class="kind">Memory <code>{}</code> {}</p>'
        '<h2 class="problem tx">{}</h2><p class="big">{}</p><p class="hint">{}</p>{}</header>').format(
        safe(m.id), safe(receipt_id), safe(m.id), flag, safe(m.problem.text), answer_text(m.label), agreed,
        Markup('<p class="tags">{}</p>').format(chips) if tags else "")))


def _chip(tag: str) -> Markup:
    return Markup('<span class="chip tag">{}<button type="button" data-do="untag" data-value="{}" aria-label="Remove the tag {}">'
                  "×</button></span>").format(safe(tag), safe(tag), safe(tag))


def body(m: Memory, info: MemoryInfo, events: Sequence[Event], near: Sequence[Hit], *, notes: Sequence[Note] = (),
         space: str = "input", parameters: tuple[int, bool] | None = None,
         problem_of: Callable[[str], str | None] = lambda problem_id: None,
         kept: Mapping[str, str] = NONE) -> list[Fragment]:
    """The rest of the page, section by section. `problem_of`, `kept`: see `verdicts`."""
    used = join([counters(info.counters), timeline(events), verdicts(events, problem_of, kept), event_list(events, kept=kept)])
    return fragments(
        ("notes", _notes(notes)), ("near", _near(near, space)),
        ("vote", stored_vote(m.vote, "The vote it learnt from")),
        ("curve", Markup("<h3>How it learnt</h3>") + sparklines(m.steps, m.best_step)),
        *((key, Markup(html)) for key, html in steps_table(m.steps)),
        ("stepper", stepper(m)),
        ("use", Markup('<section class="use"><h3>How it was used</h3>{}</section>').format(used)),
        ("from", _provenance(m, parameters)))


def _notes(notes: Sequence[Note]) -> Markup:
    if not notes:
        return Markup("")
    items = join([Markup('<li><p>{}</p><small>{}</small><button type="button" data-do="remove-note" data-value="{}" '
                         'aria-label="Remove this note">×</button></li>').format(
        safe(n.text), safe(n.created[:16].replace("T", " ")), safe(n.id)) for n in notes])
    return Markup('<h3>Notes</h3><ul class="notes">{}</ul>').format(items)


def counters(c: Counters) -> Markup:
    return definition_list([("Looked up", str(c.retrieved)), ("Tried", str(c.used)), ("Agreed", str(c.agreed)),
                            ("Won", str(c.verifier_won)), ("Helped", str(c.helped)), ("Hurt", str(c.hurt))])


def _near(near: Sequence[Hit], space: str) -> Markup:
    if not near:
        return Markup("")
    by = "soft prompt" if space == "prompt" else key_words(space)
    items = join([Markup('<li>{} <span class="num">{:.3f}</span></li>').format(
        open_link(h.memory_id, h.name), h.similarity) for h in near])
    return Markup('<h3>Nearest memories</h3><p class="hint">By {}; open one to walk on.</p><ol class="hits">{}</ol>').format(
        by, items)


def size_words(tokens: int, hidden: int, parameters: tuple[int, bool] | None) -> list[tuple[str, str]]:
    """How large the memory is, and its share of the model. `parameters`: (how many the model has, known exactly)."""
    numbers = tokens * hidden
    pairs = [("Size", f"{tokens} × {hidden} = {_spaced(numbers)} numbers, {_spaced(4 * numbers)} bytes")]
    if parameters is not None:
        of, exact = parameters
        whole = f"{of / 1e6:,.0f} million" if of >= 1e6 else f"{of:,}"
        pairs.append(("Share of the model", f"{'' if exact else 'about '}{100 * numbers / of:.2g}\N{NO-BREAK SPACE}% of its "
                      f"{whole.replace(',', ' ')} parameters"))
    return pairs


def _spaced(n: int) -> str:
    return f"{n:,}".replace(",", " ")


def _provenance(m: Memory, parameters: tuple[int, bool] | None) -> Markup:
    tokens, hidden = m.soft_prompt.shape
    pairs = [*size_words(tokens, hidden, parameters), ("Model", m.model_name), ("Fingerprint", m.model[:16]),
             ("Made", m.created[:19].replace("T", " ")), ("Kept after step", str(m.best_step)),
             ("Source", m.problem.source or "typed")]
    settings: Mapping[str, object] = m.settings
    rest = [(name.replace("_", " "), str(value)[:80]) for name, value in sorted(settings.items())]
    more = Markup("<details><summary>All settings of the distillation</summary>{}</details>").format(
        definition_list(rest)) if rest else Markup("")
    return Markup('<section class="from"><h3>Where it comes from</h3>{}{}</section>').format(definition_list(pairs), more)


def words_table(rows: Sequence[Sequence[Word]]) -> list[Fragment]:
    """The nearest words of each virtual token, with what they are not."""
    if not rows:
        return []
    lines = join([Markup('<tr><th scope="row">{}</th>{}</tr>').format(
        i, join([Markup("<td><code>{}</code> <small>{:.2f}</small></td>").format(safe(_visible(w.text)), w.cosine) for w in row]))
        for i, row in enumerate(rows, 1)])
    return fragments(("words", Markup(
        '<section class="near-words"><h3>Nearest words of each virtual token</h3><p class="hint">By cosine to the model’s input '
        "embeddings. They are only neighbours: a virtual token is no word, and its nearest words need not say what it does.</p>"
        '<div class="scroll" tabindex="0" role="region" aria-label="Nearest words"><table><thead><tr><th>token</th>'
        '<th colspan="{}">nearest words, cosine</th></tr></thead><tbody>{}</tbody></table></div></section>').format(
        max(len(r) for r in rows), lines)))


def _visible(word: str) -> str:
    """A word with its blanks seen: most begin with one."""
    shown = word.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥")
    return "".join(c if c.isprintable() else "�" for c in shown)[:24] or "(nothing)"
