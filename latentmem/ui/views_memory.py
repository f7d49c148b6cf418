"""The bank as a table, and one memory as a page. Pure functions; no gradio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from ..records import Counters, Event, Hit, Memory, MemoryInfo
from .views import Fragment, answer_text, count, fragments, join, percent, safe, stored_cards, stored_vote
from .views_distil import sparklines, steps_table
from .views_receipt import definition_list, open_link

SHOWN = 100  # rows of the table; the search box narrows it
WORDS: Mapping[str, str] = {
    "retrieved": "looked up", "used": "tried on a problem", "agreed": "agreed with the model alone",
    "verifier_won": "won against the model alone", "helped": "helped", "hurt": "hurt", "feedback": "feedback",
    "quarantined": "put in quarantine", "released": "released", "note": "note", "tag": "tag"}


def matches(info: MemoryInfo, query: str) -> bool:
    """Every word of the query occurs in the memory's problem, answer, source or id."""
    text = " ".join((info.problem.text, info.label or "", info.problem.source, info.id, info.model_name)).lower()
    return all(word in text for word in query.lower().split())


def choice_label(info: MemoryInfo) -> str:
    """A memory in a list of choices."""
    return f"{info.name} → {info.label or 'no answer'} ({info.id[:7]}){' · quarantined' if info.quarantined else ''}"


def table(infos: Sequence[MemoryInfo], query: str = "", chosen: str = "") -> list[Fragment]:
    """The bank, newest first: one row a memory, its name a link that opens it."""
    found = sorted((i for i in infos if matches(i, query)), key=lambda i: i.created, reverse=True)
    if not infos:
        return fragments(("empty", Markup(
            '<div class="empty"><h3>No memory yet</h3><p>Solve a problem, then press '
            '<b>Distil a memory from this problem</b>. What the model learns appears here.</p></div>')))
    if not found:
        return fragments(("empty", Markup('<p class="hint">No memory contains these words.</p>')))
    rows = join([_table_row(i, i.id == chosen) for i in found[:SHOWN]])
    more = f" The newest {SHOWN} are shown: search to see others." if len(found) > SHOWN else ""
    return fragments(("table", Markup(
        '<p class="hint">{}.{}</p><div class="scroll" tabindex="0" role="region" aria-label="Memories"><table class="bank">'
        "<thead><tr><th>Memory</th><th>Answer</th><th>Agreement</th><th>Source</th><th>Tried</th><th>Helped</th>"
        "<th>Hurt</th><th>Made</th></tr></thead><tbody>{}</tbody></table></div>").format(
        count(len(found), "memory", "memories"), more, rows)))


def _table_row(i: MemoryInfo, chosen: bool) -> Markup:
    flag = Markup(' <span class="chip warn">quarantined</span>') if i.quarantined else Markup("")
    c = i.counters
    return Markup('<tr{}><th scope="row">{}{}</th><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td>'
                  "<td>{}</td></tr>").format(
        Markup(' class="chosen" aria-current="true"') if chosen else Markup(""), open_link(i.id, i.name), flag,
        answer_text(i.label), percent(i.majority_ratio), safe(i.problem.source or "typed"), c.used, c.helped, c.hurt,
        safe(i.created[:10]))


def no_page(closed: bool = False) -> list[Fragment]:
    """In place of a memory's page. `closed`: the address of the one that was open goes."""
    address = Markup(' data-address=""') if closed else Markup("")
    return fragments(("none", Markup('<p class="notice"{}>Click a point on the map, or a name in the table, to open a '
                                     "memory.</p>").format(address)))


def page(m: Memory, info: MemoryInfo, events: Sequence[Event], near: Sequence[Hit]) -> list[Fragment]:
    """Everything about one memory."""
    return fragments(
        ("head", _head(m, info)),
        ("vote", stored_vote(m.vote, "The vote it learnt from")),
        ("curve", Markup("<h3>How it learnt</h3>") + sparklines(m.steps, m.best_step)),
        *((key, Markup(html)) for key, html in steps_table(m.steps)),
        ("use", Markup("<h3>How it was used</h3>") + counters(info.counters)),
        ("near", _near(near)),
        ("events", _events(events)),
        ("traces", Markup('<details class="traces"><summary>{}</summary><div class="cards">{}</div></details>').format(
            count(len(m.traces), "trace") + " of the vote",
            join([Markup(html) for _, html in stored_cards(m.vote, m.traces)]))),
        ("from", _provenance(m)))


def _head(m: Memory, info: MemoryInfo) -> Markup:
    flag = Markup('<span class="chip warn">quarantined: it is not tried on problems</span>') if info.quarantined else ""
    return Markup('<header class="memory-head" data-address="{}"><p class="kind">Memory <code>{}</code> {}</p>'
                  '<div class="problem tx">{}</div><p class="big">{}</p></header>').format(
        safe(m.id), safe(m.id), flag, safe(m.problem.text), answer_text(m.label))


def counters(c: Counters) -> Markup:
    return definition_list([("Looked up", str(c.retrieved)), ("Tried", str(c.used)), ("Agreed", str(c.agreed)),
                            ("Won", str(c.verifier_won)), ("Helped", str(c.helped)), ("Hurt", str(c.hurt))])


def _near(near: Sequence[Hit]) -> Markup:
    if not near:
        return Markup("")
    items = join([Markup('<li>{} <span class="num">{:.3f}</span></li>').format(
        open_link(h.memory_id, h.name), h.similarity) for h in near])
    return Markup('<h3>Nearest memories</h3><ol class="hits">{}</ol>').format(items)


def _events(events: Sequence[Event]) -> Markup:
    if not events:
        return Markup("")
    items = join([Markup("<li><time>{}</time> {}{}</li>").format(
        safe(e.created[:16].replace("T", " ")), WORDS.get(e.kind, e.kind),
        Markup(" <code>{}</code>").format(safe(e.receipt_id)) if e.receipt_id else "") for e in events[:50]])
    return Markup('<details><summary>{}</summary><ul class="events">{}</ul></details>').format(
        count(len(events), "event"), items)


def _provenance(m: Memory) -> Markup:
    tokens, hidden = m.soft_prompt.shape
    pairs = [("Model", m.model_name), ("Fingerprint", m.model[:16]), ("Made", m.created[:19].replace("T", " ")),
             ("Size", f"{tokens} × {hidden} = {tokens * hidden:,} numbers".replace(",", " ")),
             ("Kept after step", str(m.best_step)), ("Source", m.problem.source or "typed")]
    pairs += [(name.replace("_", " "), str(value)[:80]) for name, value in sorted(m.settings.items())]
    return Markup("<details><summary>Where it comes from</summary>{}</details>").format(definition_list(pairs))
