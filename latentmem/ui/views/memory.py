"""One memory as a page. Pure functions; no gradio."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote

from markupsafe import Markup

from ...bank.serialization import digest_of
from ...records import Counters, Event, Hit, Memory, MemoryInfo
from .distillation import sparklines, steps_table
from .html import (
    Fragment,
    answer_text,
    count,
    fragments,
    join,
    notice,
    percent,
    safe,
    stored_traces,
    stored_vote,
    table,
)
from .receipt import again_link, definition_list, key_words, neighbours, open_link, same_colours

if TYPE_CHECKING:
    from ...bank.notes import Note
    from ...model.vocabulary import Word

# ---------- What happened to a memory: whom it helped and hurt, and the events.

WORDS: Mapping[str, str] = {
    "retrieved": "looked up",
    "used": "tried on a problem",
    "agreed": "agreed with the model alone",
    "verifier_won": "won against the model alone",
    "helped": "helped",
    "hurt": "hurt",
    "feedback": "feedback",
    "quarantined": "put in quarantine",
    "released": "released",
    "note": "note",
    "tag": "tag",
    "imported": "imported",
    "trusted": "off probation",
}
EVENTS_SHOWN = 50
NONE: Mapping[str, str] = {}
NOTHING = Markup("")


def verdicts(
    events: Sequence[Event],
    problem_of: Callable[[str], str | None] = lambda problem_id: None,
    kept: Mapping[str, str] = NONE,
) -> Markup:
    """Whom it helped and hurt: each problem a link to the receipt of its answer, or, where that is
    not kept, one that asks it again. And how many answers were judged that would have been the
    same without it.

    `problem_of`: problem id -> its text where the event does not carry it. `kept`: receipt id ->
    the problem it answers.
    """
    decided = [e for e in events if e.kind in ("helped", "hurt")]
    if not decided:
        return _undecided(events, "Of the answers for which it was tried")
    some = {e.receipt_id for e in decided if e.receipt_id}
    more = (
        [Markup('<p class="hint">The newest {} of {}.</p>').format(EVENTS_SHOWN, len(decided))]
        if len(decided) > EVENTS_SHOWN
        else []
    )
    if rest := [e for e in events if e.kind == "feedback" and e.receipt_id not in some]:
        more.append(_undecided(rest, "Of the other answers for which it was tried"))
    return Markup('<ul class="verdicts">{}</ul>{}').format(
        join([_verdict(e, problem_of, kept) for e in decided[:EVENTS_SHOWN]]), join(more)
    )


def _undecided(events: Sequence[Event], those: str) -> Markup:
    """Verdicts on answers that the model gave without the memory, too: both sides agreed, or its
    own was taken."""
    right = [bool(e.detail.get("correct")) for e in events if e.kind == "feedback"]
    if not right:
        return Markup(
            '<p class="hint">Nobody has said yet whether an answer with this memory was right.</p>'
        )
    judged = " and ".join(
        f"{n} {'was' if n == 1 else 'were'} judged {word}"
        for n, word in ((sum(right), "right"), (len(right) - sum(right), "wrong"))
        if n
    )
    return Markup(
        '<p class="hint">{}, {}; the model alone gave the same {}, so it neither helped nor '
        "hurt there.</p>"
    ).format(those, judged, "answer" if len(right) == 1 else "answers")


def _verdict(e: Event, problem_of: Callable[[str], str | None], kept: Mapping[str, str]) -> Markup:
    carried = e.detail.get("problem")
    text = kept.get(e.receipt_id) or (
        carried if isinstance(carried, str) and carried.strip() else problem_of(e.problem_id)
    )
    if e.receipt_id in kept:
        shown = _receipt_link(e, safe(_short(text or e.receipt_id)))
    elif text:
        shown = again_link(text, _short(text))
    else:
        shown = Markup("problem <code>{}</code>").format(safe(e.problem_id or "unknown"))
    receipt = (
        Markup(" <small>receipt <code>{}</code>, {}</small>").format(
            safe(e.receipt_id), safe(e.created[:10])
        )
        if e.receipt_id
        else Markup("")
    )
    return Markup('<li class="{}"><b>{}</b> {}{}</li>').format(
        e.kind, WORDS[e.kind], shown, receipt
    )


def _receipt_link(e: Event, words: Markup) -> Markup:
    """A link that opens a receipt in place of the memory's page; `live.js` turns the click into an
    event."""
    return Markup(
        '<a class="open" href="?memory={}&amp;receipt={}" data-receipt="{}" title="Open the '
        'receipt">{}</a>'
    ).format(quote(e.memory_id, safe=""), quote(e.receipt_id, safe=""), safe(e.receipt_id), words)


def _short(text: str, width: int = 110) -> str:
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 1] + "…"


def event_list(events: Sequence[Event], kept: Mapping[str, str] = NONE) -> Markup:
    """The events themselves, newest first; the receipts that are `kept` are links."""
    if not events:
        return Markup("")
    items = join(
        [
            Markup("<li><time>{}</time> {}{}{}</li>").format(
                safe(e.created[:16].replace("T", " ")),
                WORDS.get(e.kind, e.kind),
                _detail(e),
                _receipt_of(e, kept),
            )
            for e in events[:EVENTS_SHOWN]
        ]
    )
    n = len(events)
    more = f", the newest {EVENTS_SHOWN} shown" if n > EVENTS_SHOWN else ""
    return Markup('<details><summary>{}{}</summary><ul class="events">{}</ul></details>').format(
        count(n, "event"), more, items
    )


def _receipt_of(e: Event, kept: Mapping[str, str]) -> Markup:
    if not e.receipt_id:
        return Markup("")
    code = Markup("<code>{}</code>").format(safe(e.receipt_id))
    return Markup(" {}").format(_receipt_link(e, code) if e.receipt_id in kept else code)


def _detail(e: Event) -> Markup:
    if e.kind == "tag" and isinstance(e.detail.get("tag"), str):
        return Markup(" {} {}").format(
            "given:" if e.detail.get("on", True) else "taken away:", safe(e.detail["tag"][:40])
        )
    if e.kind == "feedback":
        return Markup(": {}").format("right" if e.detail.get("correct") else "wrong")
    why = e.detail.get("reason") or e.detail.get("passed_over")
    return Markup(": {}").format(safe(_short(why, 200))) if isinstance(why, str) else Markup("")


def star_near(text: str, hits: Sequence[Hit], least: float, kind: str) -> Markup:
    """The problem on the map, and the memories nearest to it; `least`: see `neighbours`."""
    return Markup(
        '<h3>★ Your problem</h3><p class="tx">{}</p><p class="hint">Its nearest memories, by {}.'
        "</p>{}"
    ).format(safe(_short(text, 300)), key_words(kind), neighbours(hits, least))


def no_page(
    infos: Sequence[MemoryInfo] = (), closed: bool = False, near: Markup = NOTHING
) -> list[Fragment]:
    """In place of a memory's page: the problem on the map and what is `near` it, or how to open a
    memory, and the bank at a glance. `closed`: the address of the one that was open goes."""
    address = Markup(' data-address=""') if closed else Markup("")
    how = Markup(
        '<p class="notice"{}>Click a point on the map, or a name in the table, to open a '
        "memory.</p>"
    ).format(address)
    if near:
        how = Markup('<section class="near"{}>{}</section>').format(address, near)
    return fragments(("none", how), ("glance", glance(infos)))


def glance(infos: Sequence[MemoryInfo]) -> Markup:
    """The bank in a few numbers."""
    if not infos:
        return Markup("")
    helped, hurt = (sum(getattr(i.counters, kind) for i in infos) for kind in ("helped", "hurt"))
    pairs = [
        ("Memories", f"{len(infos):,}".replace(",", " ")),
        ("Mean agreement", percent(sum(i.majority_ratio for i in infos) / len(infos))),
        ("Tried", str(sum(i.counters.used for i in infos))),
        ("Helped", str(helped)),
        ("Hurt", str(hurt)),
        ("In quarantine", str(sum(i.quarantined for i in infos))),
    ]
    models = Counter(i.model_name for i in infos)
    names = ", ".join(f"{name} ({n})" for name, n in models.most_common(4))
    return Markup(
        '<section class="glance"><h3>The bank at a glance</h3>{}<p class="hint">Made by '
        "{}.</p></section>"
    ).format(definition_list(pairs), safe(names))


def head(
    m: Memory,
    info: MemoryInfo,
    tags: Sequence[str] = (),
    receipt_id: str = "",
    trust: str = "",
) -> list[Fragment]:
    """What the memory is: its problem, the answer it learnt, how many agreed, its tags.
    `receipt_id`: of the receipt that is open in place of the rest; the address shows both.
    `trust`: what a person should know of an imported memory."""
    flag = (
        Markup('<span class="chip warn">quarantined: not tried on problems</span>')
        if info.quarantined
        else ""
    )
    winner = m.vote.clusters[0].size if m.vote.clusters else 0
    agreed = f"{winner} of {count(m.vote.total, 'attempt')} agreed"
    if "imported" in m.settings:
        agreed = f"Imported from a PEFT adapter of {m.settings['imported']}, without a vote."
    chips = join([_chip(tag) for tag in tags])
    return fragments(
        (
            "head",
            Markup(
                '<header class="memory-head" data-address="{}" data-receipt-open="{}"><p '
                'class="kind">Memory <code>{}</code> {}</p><h2 class="problem tx">{}</h2><p '
                'class="big">{}</p><p class="hint">{}</p>{}{}</header>'
            ).format(
                safe(m.id),
                safe(receipt_id),
                safe(m.id),
                flag,
                safe(m.problem.text),
                answer_text(m.label),
                agreed,
                notice(trust),
                Markup('<p class="tags">{}</p>').format(chips) if tags else "",
            ),
        )
    )


def _chip(tag: str) -> Markup:
    return Markup(
        '<span class="chip tag">{}<button type="button" data-do="untag" data-value="{}" '
        'aria-label="Remove the tag {}">'
        "×</button></span>"
    ).format(safe(tag), safe(tag), safe(tag))


def body(
    m: Memory,
    info: MemoryInfo,
    events: Sequence[Event],
    near: Sequence[Hit],
    *,
    notes: Sequence[Note] = (),
    space: str = "input",
    parameters: int | None = None,
    problem_of: Callable[[str], str | None] = lambda problem_id: None,
    kept: Mapping[str, str] = NONE,
    moved: Sequence[tuple[str, float]] = (),
) -> list[Fragment]:
    """The rest of the page, section by section. `problem_of`, `kept`: see `verdicts`; `moved`: see
    `learnt`."""
    used = join(
        [
            counters(info.counters),
            verdicts(events, problem_of, kept),
            event_list(events, kept=kept),
        ]
    )
    return fragments(
        ("notes", _notes(notes)),
        ("learnt", learnt(m, moved)),
        ("near", _near(near, space)),
        ("vote", stored_vote(m.vote, "The vote it learnt from")),
        ("curve", Markup("<h3>How it learnt</h3>") + sparklines(m.steps, m.best_step)),
        *((key, Markup(html)) for key, html in steps_table(m.steps)),
        ("traces", _traces(m)),
        ("use", Markup('<section class="use"><h3>How it was used</h3>{}</section>').format(used)),
        ("from", _provenance(m, parameters)),
    )


def learnt(m: Memory, moved: Sequence[tuple[str, float]]) -> Markup:
    """How far the soft prompt moved from its start, as a whole and token by token. `moved`: the
    word that each virtual token started as, and its way in lengths of its start."""
    start = str(m.settings.get("init_text") or "")
    if not start or not m.steps:
        return Markup("")
    kept = next((s.shift for s in m.steps if s.step == m.best_step), 0.0)
    most = max((far for _, far in moved), default=0.0) or 1.0
    rows = [
        Markup(
            '<li><code>{}</code><span class="sim" aria-hidden="true"><i style="width:{:.1%}"></i>'
            '</span><span class="num">{}</span></li>'
        ).format(_visible(word), far / most, percent(far))
        for word, far in moved
    ]
    tokens = Markup('<ol class="hits moves">{}</ol>').format(join(rows)) if rows else ""
    return Markup(
        '<section class="near"><h3>What it learnt</h3><p>It started as “{}” and moved by {} of its '
        "size in {}.</p>{}</section>"
    ).format(start, percent(kept), count(m.best_step, "gradient step"), tokens)


def versus(pair: Sequence[tuple[Memory, MemoryInfo]], alike: float) -> list[Fragment]:
    """Two memories beside each other. `alike`: the similarity of their keys, by sentence
    embedding."""
    colours = same_colours([m.vote for m, _ in pair])
    columns = [
        Markup('<div class="column"><p class="tx">{}</p><p class="big">{}</p>{}{}{}</div>').format(
            safe(m.problem.text),
            answer_text(m.label),
            stored_vote(m.vote, "The vote it learnt from", colour),
            sparklines(m.steps, m.best_step),
            counters(info.counters),
        )
        for (m, info), colour in zip(pair, colours, strict=True)
    ]
    frame = Markup(
        '<section class="compare"><h3>Side by side</h3><p class="hint">Similarity of the problems: '
        '{:.2f}.</p><div class="cols">{}</div></section>'
    )
    return fragments(("versus", frame.format(alike, join(columns))))


def _traces(m: Memory) -> Markup:
    if not m.traces:
        return Markup(
            '<p class="hint">The attempts of the vote were not stored with this memory.</p>'
        )
    frame = Markup('<section class="attempts"><h3>The attempts of that vote</h3>{}</section>')
    return frame.format(stored_traces(m.vote, m.traces))


def _notes(notes: Sequence[Note]) -> Markup:
    if not notes:
        return Markup("")
    items = join(
        [
            Markup(
                '<li><p>{}</p><small>{}</small><button type="button" data-do="remove-note" '
                'data-value="{}" aria-label="Remove this note">×</button></li>'
            ).format(safe(n.text), safe(n.created[:16].replace("T", " ")), safe(n.id))
            for n in notes
        ]
    )
    return Markup('<h3>Notes</h3><ul class="notes">{}</ul>').format(items)


def counters(c: Counters) -> Markup:
    return definition_list(
        [
            ("Looked up", str(c.retrieved)),
            ("Tried", str(c.used)),
            ("Agreed", str(c.agreed)),
            ("Won", str(c.verifier_won)),
            ("Helped", str(c.helped)),
            ("Hurt", str(c.hurt)),
        ]
    )


def _near(near: Sequence[Hit], space: str) -> Markup:
    if not near:
        return Markup("")
    by = "soft prompt" if space == "prompt" else key_words(space)
    return Markup('<h3>Nearest memories</h3><p class="hint">By {}.</p>{}').format(
        by, neighbours(near)
    )


def size_words(tokens: int, hidden: int, parameters: int | None) -> list[tuple[str, str]]:
    """How large the memory is, and its share of the model, which has so many `parameters`."""
    numbers = tokens * hidden
    size = f"{tokens} × {hidden} = {_spaced(numbers)} numbers, {_spaced(4 * numbers)} bytes"
    if parameters is None:
        return [("Size", size)]
    whole = f"{parameters / 1e6:,.0f} million" if parameters >= 1e6 else f"{parameters:,}"
    share = f"{100 * numbers / parameters:.2g}\N{NO-BREAK SPACE}% of its "
    return [("Size", size), ("Share of the model", f"{share}{whole.replace(',', ' ')} parameters")]


def _spaced(n: int) -> str:
    return f"{n:,}".replace(",", " ")


def _provenance(m: Memory, parameters: int | None) -> Markup:
    tokens, hidden = m.soft_prompt.shape
    pairs = [
        *size_words(tokens, hidden, parameters),
        ("Model", m.model_name),
        ("Fingerprint", m.model[:16]),
        ("Made", m.created[:19].replace("T", " ")),
        ("Kept after step", str(m.best_step)),
        ("Source", m.problem.source or "typed"),
        ("Digest", digest_of(m)[:16]),
    ]
    settings: Mapping[str, object] = m.settings
    rest = [(name.replace("_", " "), str(value)[:80]) for name, value in sorted(settings.items())]
    more = (
        Markup("<details><summary>All settings of the distillation</summary>{}</details>").format(
            definition_list(rest)
        )
        if rest
        else Markup("")
    )
    return Markup('<section class="from"><h3>Where it comes from</h3>{}{}</section>').format(
        definition_list(pairs), more
    )


def words_table(rows: Sequence[Sequence[Word]]) -> list[Fragment]:
    """The nearest words of each virtual token, with what they are not."""
    if not rows:
        return []
    lines = [
        (
            i,
            *(
                Markup("<code>{}</code> <small>{:.2f}</small>").format(
                    safe(_visible(w.text)), w.cosine
                )
                for w in row
            ),
        )
        for i, row in enumerate(rows, 1)
    ]
    heads = ["token", "nearest words, cosine", *[""] * (max(map(len, rows)) - 1)]
    found = Markup(
        '<section class="near-words"><h3>Nearest words of each virtual token</h3><p class="hint">'
        "By cosine to the model’s input embeddings. They are only neighbours: a virtual token is "
        "not a word, and its nearest words need not say what it does.</p>{}</section>"
    )
    return fragments(("words", found.format(table("Nearest words", heads, lines))))


def _visible(word: str) -> str:
    """A word with its blanks seen: most begin with one."""
    shown = word.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥")
    return "".join(c if c.isprintable() else "�" for c in shown)[:24] or "(nothing)"


# ---------- The bank as a table, and the memories chosen on the map.

SHOWN = 100  # rows of a table; the search box narrows it
NO_TAGS: Mapping[str, tuple[str, ...]] = {}


def choice_label(info: MemoryInfo) -> str:
    """A memory in a list of choices."""
    return (
        f"{info.name} → {info.label or 'no answer'} "
        f"({info.id[:7]}){' · quarantined' if info.quarantined else ''}"
    )


def found_table(
    infos: Sequence[MemoryInfo],
    found: Sequence[MemoryInfo],
    chosen: str = "",
    tags: Mapping[str, tuple[str, ...]] = NO_TAGS,
) -> list[Fragment]:
    """Those found, in their order: one row a memory, its name a link that opens it. `infos` are all
    of the bank."""
    if not infos:
        return fragments(
            (
                "empty",
                Markup(
                    '<div class="empty"><h3>No memory yet</h3><p>Solve a problem, then press '
                    "<b>Distil a memory from this problem</b>. What the model learns appears "
                    "here.</p></div>"
                ),
            )
        )
    if not found:
        return fragments(("empty", Markup('<p class="hint">No memory contains these words.</p>')))
    everything = len(found) == len(infos)
    more = f" The newest {SHOWN} are shown: search to see others." if len(found) > SHOWN else ""
    pick = Markup('<button type="button" class="small" data-pick-all>Select {}</button>').format(
        "all" if everything else f"the {len(found)} found"
    )
    words = (
        count(len(infos), "memory", "memories")
        if everything
        else f"{len(found)} of {count(len(infos), 'memory', 'memories')}"
    )
    return fragments(
        (
            "table",
            Markup('<div class="above"><p class="hint">{}.{}</p>{}</div>{}').format(
                words, more, pick, _rows(found[:SHOWN], chosen, tags, "Memories")
            ),
        )
    )


HEADS = ",Memory,Answer,Agreement,Source,Tags,Tried,Helped,Hurt,Made".split(",")


def _rows(
    infos: Sequence[MemoryInfo], chosen: str, tags: Mapping[str, tuple[str, ...]], label: str
) -> Markup:
    first = Markup('<span class="sr-only">Selected</span>')
    rows = [_row(i, i.id == chosen, tags.get(i.id, ())) for i in infos]
    return table(label, [first, *HEADS[1:]], rows, "bank")


def _row(i: MemoryInfo, chosen: bool, tags: Sequence[str]) -> Markup:
    flag = Markup(' <span class="chip warn">quarantined</span>') if i.quarantined else Markup("")
    c = i.counters
    return Markup(
        '<tr data-id="{}"{}><td><input type="checkbox" data-pick="{}" aria-label="Select {}"></td>'
        '<th scope="row">{}{}</th><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td>'
        "<td>{}</td><td>{}</td><td>{}</td></tr>"
    ).format(
        safe(i.id),
        Markup(' class="chosen" aria-current="true"') if chosen else Markup(""),
        safe(i.id),
        safe(i.name),
        open_link(i.id, i.name),
        flag,
        answer_text(i.label),
        percent(i.majority_ratio),
        safe(i.problem.source or "typed"),
        join([Markup('<span class="chip">{}</span>').format(safe(t)) for t in tags], " "),
        c.used,
        c.helped,
        c.hurt,
        safe(i.created[:10]),
    )


def selected(
    infos: Sequence[MemoryInfo], chosen: str = "", tags: Mapping[str, tuple[str, ...]] = NO_TAGS
) -> list[Fragment]:
    """The memories chosen on the map or in the table: their mean agreement, where they come from,
    and their rows."""
    if not infos:
        return []
    sources = Counter(i.problem.source.rsplit("/", 1)[-1] or "typed" for i in infos)
    named = ", ".join(f"{n} {name}" for name, n in sources.most_common(4)) + (
        ", …" if len(sources) > 4 else ""
    )
    helped, hurt = sum(i.counters.helped for i in infos), sum(i.counters.hurt for i in infos)
    words = (
        f"Mean agreement {percent(sum(i.majority_ratio for i in infos) / len(infos))}; helped "
        f"{helped}, hurt {hurt}. From {named}."
    )
    more = f" The first {SHOWN} are shown." if len(infos) > SHOWN else ""
    frame = Markup(
        '<section class="selected"><h3>{} selected</h3><p class="hint">{}{}</p>{}</section>'
    )
    return fragments(
        (
            "selected",
            frame.format(
                count(len(infos), "memory", "memories"),
                safe(words),
                more,
                _rows(infos[:SHOWN], chosen, tags, "Selected memories"),
            ),
        )
    )
