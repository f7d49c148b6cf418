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
    number,
    percent,
    short,
    stored_traces,
    stored_vote,
    table,
)
from .receipt import (
    again_link,
    definition_list,
    key_words,
    neighbours,
    open_link,
    same_colours,
    side_by_side,
)

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
    some, more = {e.receipt_id for e in decided if e.receipt_id}, Markup("")
    if len(decided) > EVENTS_SHOWN:
        newest = Markup('<p class="hint">The newest {} of {}.</p>')
        more += newest.format(EVENTS_SHOWN, len(decided))
    if rest := [e for e in events if e.kind == "feedback" and e.receipt_id not in some]:
        more += _undecided(rest, "Of the other answers for which it was tried")
    items = join(_verdict(e, problem_of, kept) for e in decided[:EVENTS_SHOWN])
    return Markup('<ul class="verdicts">{}</ul>{}').format(items, more)


def _undecided(events: Sequence[Event], those: str) -> Markup:
    """Verdicts on answers that would have been the same without the memory."""
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
        shown = _receipt_link(e, short(text or e.receipt_id, 110))
    elif text:
        shown = again_link(text, short(text, 110))
    else:
        shown = Markup("problem <code>{}</code>").format(e.problem_id or "unknown")
    receipt = Markup("")
    if e.receipt_id:
        small = Markup(" <small>receipt <code>{}</code>, {}</small>")
        receipt = small.format(e.receipt_id, e.created[:10])
    verdict = Markup('<li class="{}"><b>{}</b> {}{}</li>')
    return verdict.format(e.kind, WORDS[e.kind], shown, receipt)


def _receipt_link(e: Event, words: str) -> Markup:
    """Opens a receipt in place of the memory's page; `live.js` hears the click."""
    return Markup(
        '<a class="open" href="?memory={}&amp;receipt={}" data-receipt="{}" title="Open the '
        'receipt">{}</a>'
    ).format(quote(e.memory_id, safe=""), quote(e.receipt_id, safe=""), e.receipt_id, words)


def event_list(events: Sequence[Event], kept: Mapping[str, str] = NONE) -> Markup:
    """The events themselves, newest first; the receipts that are `kept` are links."""
    if not events:
        return Markup("")
    item, items = Markup("<li><time>{}</time> {}{} {}</li>"), []
    for e in events[:EVENTS_SHOWN]:
        paper = Markup("<code>{}</code>").format(e.receipt_id) if e.receipt_id else ""
        if e.receipt_id in kept:
            paper = _receipt_link(e, paper)
        what, when = WORDS.get(e.kind, e.kind), e.created[:16].replace("T", " ")
        items.append(item.format(when, what, _detail(e), paper))
    n = len(events)
    more = f", the newest {EVENTS_SHOWN} shown" if n > EVENTS_SHOWN else ""
    return Markup('<details><summary>{}{}</summary><ul class="events">{}</ul></details>').format(
        count(n, "event"), more, join(items)
    )


def _detail(e: Event) -> Markup:
    if e.kind == "tag" and isinstance(e.detail.get("tag"), str):
        done = "given:" if e.detail.get("on", True) else "taken away:"
        return Markup(" {} {}").format(done, e.detail["tag"][:40])
    if e.kind == "feedback":
        return Markup(": {}").format("right" if e.detail.get("correct") else "wrong")
    why = e.detail.get("reason") or e.detail.get("passed_over")
    return Markup(": {}").format(short(why, 200)) if isinstance(why, str) else Markup("")


def star_near(text: str, hits: Sequence[Hit], least: float, kind: str) -> Markup:
    """The problem on the map, and the memories nearest to it; `least`: see `neighbours`."""
    return Markup(
        '<h3>★ Your problem</h3><p class="tx">{}</p><p class="hint">Its nearest memories, by {}.'
        "</p>{}"
    ).format(short(text, 300), key_words(kind), neighbours(hits, least))


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
        ("Memories", number(len(infos))),
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
    ).format(definition_list(pairs), names)


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
    flag = '<span class="chip warn">quarantined: not tried on problems</span>'
    winner = m.vote.clusters[0].size if m.vote.clusters else 0
    agreed = f"{winner} of {count(m.vote.total, 'attempt')} agreed"
    if "imported" in m.settings:
        agreed = f"Imported from a PEFT adapter of {m.settings['imported']}, without a vote."
    chip = Markup(
        '<span class="chip tag">{0}<button type="button" data-do="untag" data-value="{0}" '
        'aria-label="Remove the tag {0}">×</button></span>'
    )
    chips = Markup('<p class="tags">{}</p>').format(join(map(chip.format, tags)))
    html = Markup(
        '<header class="memory-head" data-address="{0}" data-receipt-open="{1}"><p class="kind">'
        'Memory <code>{0}</code> {2}</p><h2 class="problem tx">{3}</h2><p class="big">{4}</p>'
        '<p class="hint">{5}</p>{6}{7}</header>'
    ).format(
        m.id,
        receipt_id,
        Markup(flag) if info.quarantined else "",
        m.problem.text,
        answer_text(m.label),
        agreed,
        notice(trust),
        chips if tags else "",
    )
    return fragments(("head", html))


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
    used = counters(info.counters) + verdicts(events, problem_of, kept) + event_list(events, kept)
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
    """How far the soft prompt moved from its start, as a whole and token by token, or how large
    the layer vectors are. `moved`: see `map.panel_state.moves`."""
    start = str(m.settings.get("init_text") or "")
    if not start or not m.steps:
        return Markup("")
    kept = next((s.shift for s in m.steps if s.step == m.best_step), 0.0)
    most = max((far for _, far in moved), default=0.0) or 1.0
    row = Markup(
        '<li><code>{}</code><span class="sim" aria-hidden="true"><i style="width:{:.1%}"></i>'
        '</span><span class="num">{}</span></li>'
    )
    rows = join(row.format(_visible(word), far / most, percent(far)) for word, far in moved)
    tokens = Markup('<ol class="hits moves">{}</ol>').format(rows) if moved else ""
    if m.soft_prompt.ndim == 3:
        return Markup(
            '<section class="near"><h3>What it learnt</h3><p>A vector for each of {} learnt the '
            "attempts that won the vote, in {}. In the mean they are {} of what a layer adds "
            "itself.</p>{}</section>"
        ).format(
            count(len(m.soft_prompt), "layer"),
            count(m.best_step, "gradient step"),
            percent(kept),
            tokens,
        )
    return Markup(
        '<section class="near"><h3>What it learnt</h3><p>It started as “{}” and moved by {} of its '
        "size in {}.</p>{}</section>"
    ).format(start, percent(kept), count(m.best_step, "gradient step"), tokens)


def versus(pair: Sequence[tuple[Memory, MemoryInfo]], alike: float) -> list[Fragment]:
    """Two memories beside each other. `alike`: the similarity of their keys, by input."""
    column, columns = Markup('<p class="tx">{}</p><p class="big">{}</p>{}{}{}'), []
    for (m, info), colours in zip(pair, same_colours([m.vote for m, _ in pair]), strict=True):
        vote = stored_vote(m.vote, "The vote it learnt from", colours)
        curve, used = sparklines(m.steps, m.best_step), counters(info.counters)
        columns.append(column.format(m.problem.text, answer_text(m.label), vote, curve, used))
    hint = f"Similarity of the problems: {alike:.2f}."
    return fragments(("versus", side_by_side(Markup("<h3>Side by side</h3>"), hint, columns)))


def _traces(m: Memory) -> Markup:
    if not m.traces:
        words = '<p class="hint">The attempts of the vote were not stored with this memory.</p>'
        return Markup(words)
    frame = Markup('<section class="attempts"><h3>The attempts of that vote</h3>{}</section>')
    return frame.format(stored_traces(m.vote, m.traces))


def _notes(notes: Sequence[Note]) -> Markup:
    if not notes:
        return Markup("")
    item = Markup(
        '<li><p>{}</p><small>{}</small><button type="button" data-do="remove-note" '
        'data-value="{}" aria-label="Remove this note">×</button></li>'
    )
    items = join(item.format(n.text, n.created[:16].replace("T", " "), n.id) for n in notes)
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
    html = Markup('<h3>Nearest memories</h3><p class="hint">By {}.</p>{}')
    return html.format(by, neighbours(near))


def size_words(tokens: int, hidden: int, parameters: int | None) -> list[tuple[str, str]]:
    """How large the memory is, and its share of the model, which has so many `parameters`."""
    numbers = tokens * hidden
    size = f"{tokens} × {hidden} = {number(numbers)} numbers, {number(4 * numbers)} bytes"
    if parameters is None:
        return [("Size", size)]
    all_ = f"{number(parameters / 1e6)} million" if parameters >= 1e6 else number(parameters)
    share = f"{100 * numbers / parameters:.2g}\N{NO-BREAK SPACE}% of its {all_} parameters"
    return [("Size", size), ("Share of the model", share)]


def _provenance(m: Memory, parameters: int | None) -> Markup:
    tokens, *_, hidden = m.soft_prompt.shape
    pairs = [
        *size_words(tokens, hidden, parameters),
        ("Model", m.model_name),
        ("Fingerprint", m.model[:16]),
        ("Made", m.created[:19].replace("T", " ")),
        ("Kept after step", str(m.best_step)),
        ("Source", m.problem.source or "typed"),
        ("Digest", digest_of(m)[:16]),
    ]
    rest = [(name.replace("_", " "), str(value)[:80]) for name, value in sorted(m.settings.items())]
    fold = Markup("<details><summary>All settings of the distillation</summary>{}</details>")
    more = fold.format(definition_list(rest)) if rest else ""
    html = Markup('<section class="from"><h3>Where it comes from</h3>{}{}</section>')
    return html.format(definition_list(pairs), more)


def words_table(rows: Sequence[Sequence[Word]]) -> list[Fragment]:
    """The nearest words of each virtual token, with what they are not."""
    if not rows:
        return []
    word = Markup("<code>{}</code> <small>{:.2f}</small>")
    lines = [
        (i, *(word.format(_visible(w.text), w.cosine) for w in row))
        for i, row in enumerate(rows, 1)
    ]
    heads = ["token", "nearest words, cosine", *[""] * (max(map(len, rows)) - 1)]
    found = Markup(
        '<section class="near-words"><h3>Nearest words of each virtual token</h3><p class="hint">'
        "By cosine to the model’s input embeddings. They are only neighbours: a virtual token is "
        "not a word, and its nearest words need not say what it does.</p>{}</section>"
    )
    return fragments(
        (
            "words",
            found.format(table("Nearest words", heads, lines)),
        )
    )


def _visible(word: str) -> str:
    """A word with its blanks seen: most begin with one."""
    shown = word.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥")
    return "".join(c if c.isprintable() else "�" for c in shown)[:24] or "(nothing)"


# ---------- The bank as a table, and the memories chosen on the map.

SHOWN = 100  # rows of a table; the search box narrows it
NO_TAGS: Mapping[str, tuple[str, ...]] = {}


def choice_label(info: MemoryInfo) -> str:
    """A memory in a list of choices."""
    flag = " · quarantined" if info.quarantined else ""
    return f"{info.name} → {info.label or 'no answer'} ({info.id[:7]}){flag}"


def found_table(
    infos: Sequence[MemoryInfo],
    found: Sequence[MemoryInfo],
    chosen: str = "",
    tags: Mapping[str, tuple[str, ...]] = NO_TAGS,
) -> list[Fragment]:
    """Those found among all `infos`: a row each, its name a link that opens it."""
    if not infos:
        none = (
            '<div class="empty"><h3>No memory yet</h3><p>Solve a problem, then press <b>Distil a '
            "memory from this problem</b>. What the model learns appears here.</p></div>"
        )
        return fragments(("empty", none))
    if not found:
        return fragments(("empty", '<p class="hint">No memory contains these words.</p>'))
    everything = len(found) == len(infos)
    more = f" The newest {SHOWN} are shown: search to see others." if len(found) > SHOWN else ""
    pick = Markup('<button type="button" class="small" data-pick-all>Select {}</button>').format(
        "all" if everything else f"the {len(found)} found"
    )
    of = "" if everything else f"{len(found)} of "
    words = of + count(len(infos), "memory", "memories")
    rows = _rows(found[:SHOWN], chosen, tags, "Memories")
    html = Markup('<div class="above"><p class="hint">{}.{}</p>{}</div>{}')
    return fragments(("table", html.format(words, more, pick, rows)))


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
        i.id,
        Markup(' class="chosen" aria-current="true"') if chosen else Markup(""),
        i.id,
        i.name,
        open_link(i.id, i.name),
        flag,
        answer_text(i.label),
        percent(i.majority_ratio),
        i.problem.source or "typed",
        join((Markup('<span class="chip">{}</span>').format(t) for t in tags), " "),
        c.used,
        c.helped,
        c.hurt,
        i.created[:10],
    )


def selected(
    infos: Sequence[MemoryInfo], chosen: str = "", tags: Mapping[str, tuple[str, ...]] = NO_TAGS
) -> list[Fragment]:
    """The memories chosen on the map or in the table: a summary, and their rows."""
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
    html = Markup(
        '<section class="selected"><h3>{} selected</h3><p class="hint">{}{}</p>{}</section>'
    )
    rows = _rows(infos[:SHOWN], chosen, tags, "Selected memories")
    many = count(len(infos), "memory", "memories")
    return fragments(("selected", html.format(many, words, more, rows)))
