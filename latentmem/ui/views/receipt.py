"""The receipt as a card: which memory answered, or none, and why. Pure functions; no gradio."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from itertools import combinations
from urllib.parse import quote

from markupsafe import Markup

from ...bank.serialization import MOST_TEXT
from ...method.answers import same_answer
from ...records import Hit, MemoryInfo, Receipt, Retrieval, Vote, to_dict
from .html import (
    SIDES,
    Fragment,
    answer_text,
    duration,
    formula,
    fragments,
    join,
    notice,
    number,
    percent,
    stored_vote,
    swatch,
    whole,
)

VERIFIERS = {
    "vote_share": "share of the votes",
    "self_certainty": "self-certainty",
    "judge": "the model as judge",
}


MOST_NEAR = 8  # memories listed beside a problem
HELPS = ("seed", "problem")  # what is taken where a vote cannot be learnt from


def headline(r: Receipt) -> tuple[str, str]:
    """(css class, words): who answered."""
    if r.answer is None:
        return "nobody", "No answer was found"
    if r.used is None:
        return "alone", "The model alone"
    if r.memory_id is not None:
        return "memory", f"With the memory “{r.used.name}”"
    if r.route.agreed:
        return "agreed", f"The model alone, and the same with the memory “{r.used.name}”"
    return "refused", f"The model alone; the memory “{r.used.name}” was tried and not followed"


def receipt_card(
    r: Receipt, info: MemoryInfo | None = None, chosen: bool = False, learnt: Vote | None = None
) -> Markup:
    """The whole card: the answer, who gave it, the vote; why; then the details. `info`: what the
    bank knows of the memory, `learnt`: the vote it learnt from, `chosen`: by the visitor."""
    css, words = headline(r)
    raw = '<details><summary>The receipt as JSON</summary><pre tabindex="0">{}</pre></details>'
    more = facts(r) + Markup(raw).format(receipt_json(r))
    used = used_memory(r, info, chosen, learnt)
    return Markup(
        '<section class="receipt {}" aria-label="Receipt"><header role="status"><p class="big">{}'
        '</p><p class="who">{}</p>{}</header><p class="why tx">{}</p>{}<details><summary>Details'
        "</summary>{}</details></section>"
    ).format(css, answer_text(r.answer), words, both_votes(r), reason(r), used, more)


def reason(r: Receipt) -> str:
    """What the router did, its answers as mathematics, the longer replaced first."""
    labels = {v.label for v in (r.zero_shot, r.memory) if v is not None and v.label}
    found = sorted((a for a in labels if formula(a) != a), key=len, reverse=True)
    if not found:
        return r.route.reason
    return re.sub("|".join(map(re.escape, found)), lambda m: formula(m[0]), r.route.reason)


def unfit(why: str) -> Markup:
    """Why there is nothing to distil, and the two things that help, each a button."""
    return Markup(
        '<section class="outcome"><p>{}</p><p><button type="button" class="small" '
        'data-do="retry" data-value="{}">Another seed</button> <button type="button" '
        'class="small" data-do="retry" data-value="{}">A problem that works</button></p></section>'
    ).format(why, *HELPS)


def used_memory(r: Receipt, info: MemoryInfo | None, chosen: bool, learnt: Vote | None) -> Markup:
    """The memories near the problem, and of the one that was tried its source problem and vote
    (`learnt`) and the way to the map."""
    used = r.used
    lead = "" if used is None or used.margin is None else f" The first leads by {used.margin:.3f}."
    title = f"★ The memories nearest to the problem, by {key_words(r.key_kind)}.{lead}"
    least = float(r.settings.get("min_similarity", -1))
    found = neighbours(r.hits, least, used.memory_id if used is not None else "")
    near = Markup('<div class="near"><p class="hint">{}</p>{}</div>').format(
        "Chosen by you." if chosen else title, found
    )
    if used is None:
        return near if r.hits else Markup("")
    if info is None:
        from_ = Markup("<p>“{}”</p>").format(used.name)
    else:
        share = f"{percent(info.majority_ratio)} of the"
        if learnt:
            share = f"{learnt.clusters[0].size} of {learnt.total}"
        from_ = Markup(
            '<p class="hint">Learnt from the problem</p><p class="tx">{}</p><p class="hint">{} · '
            "{} ({} votes)</p>"
        ).format(
            info.problem.text,
            info.problem.source or "typed by a person",
            answer_text(info.label),
            share,
        )
    link = open_link(used.memory_id, "Open it on the map")
    return near + Markup('<div class="used">{}{}</div>').format(from_, link)


def neighbours(hits: Sequence[Hit], least: float = -1, tried: str = "") -> Markup:
    """Memories near a problem, best first: name, similarity as a bar and in figures. The bars have
    a line where `least` is, under which none is tried; the one that was `tried` is marked."""
    row = Markup(
        '<li{}>{}<span class="sim" aria-hidden="true"><i style="width:{:.1%}"></i></span>'
        '<span class="num">{:.3f}</span>{}</li>'
    )
    rows = []
    for h in hits[:MOST_NEAR]:
        far = h.similarity < least or bool(h.passed_over)
        why = f"passed over: {h.passed_over}" if h.passed_over else "too far to be tried"
        why = "tried" if h.memory_id == tried else why if far else ""
        small = Markup("<small>{}</small>").format(why) if why else ""
        css, width = Markup(' class="far"') if far else "", max(0.0, min(1.0, h.similarity))
        rows.append(row.format(css, open_link(h.memory_id, h.name), width, h.similarity, small))
    line = Markup(' style="--least:{:.1%}"').format(least) if least > 0 else Markup("")
    return Markup('<ol class="hits"{}>{}</ol>').format(line, join(rows))


def key_words(kind: str) -> str:
    return {"input": "sentence embedding", "kv": "the model's own activations"}.get(kind, kind)


def open_link(memory_id: str, words: str) -> Markup:
    """Opens a memory; `live.js` hears the click, and without it the address works."""
    link = Markup('<a class="open" href="?memory={0}" data-memory="{0}">{1}</a>')
    return link.format(memory_id, words)


def both_votes(r: Receipt) -> Markup:
    """The two votes beside each other, the same answer in the same colour."""
    votes = {"zero_shot": r.zero_shot} | ({} if r.memory is None else {"memory": r.memory})
    line = Markup("<p><b>{}</b> {}</p>")
    return Markup('<div class="both-votes">{}</div>').format(
        join(
            line.format(SIDES[side], vote_result(vote, "no votes")) for side, vote in votes.items()
        )
    )


def vote_result(vote: Vote, nothing: str) -> Markup:
    """The answer of a vote and how many gave it."""
    if vote.abstained:
        return Markup("{}").format(nothing)
    size = vote.clusters[0].size
    return Markup("{} ({} of {} votes)").format(answer_text(vote.label), size, vote.total)


def facts(r: Receipt) -> Markup:
    verifier = VERIFIERS.get(r.route.verifier or "", r.route.verifier or "")
    scores = ", ".join(
        f"{number(value, 3)} {SIDES.get(side, side).lower()}"
        for side, value in r.route.scores.items()
    )
    pairs = [
        *([(f"Verifier: {verifier}", scores)] if scores else []),
        *([("Stop when decided", stopped(r))] if r.settings.get("stop_when_decided") else []),
        ("Tokens", number(r.tokens)),
        ("Time", duration(r.seconds)),
        ("Seed", str(r.seed)),
        ("Model", r.model_name),
        ("Receipt", r.id),
    ]
    return Markup('<div class="facts">{}</div>').format(definition_list(pairs))


def stopped(r: Receipt) -> str:
    """After how many attempts a vote was decided that did not wait for the others."""
    votes = [v for v in (r.zero_shot, r.memory) if v is not None]
    if all(r.sampled(v.side) == v.total for v in votes):
        return "every attempt was needed"
    after = [f"{r.sampled(v.side)} of {v.total} {SIDES[v.side].lower()}" for v in votes]
    return f"decided after {', '.join(after)}"


def definition_list(pairs: Sequence[tuple[str, str]]) -> Markup:
    line = Markup("<div><dt>{}</dt><dd>{}</dd></div>")
    return Markup("<dl>{}</dl>").format(join(line.format(*pair) for pair in pairs))


def receipt_json(r: Receipt) -> str:
    """Indented JSON without the token ids, for which the digest stands."""
    data = to_dict(r)
    for trace in data["traces"]:
        trace.pop("token_ids", None)
    return json.dumps(data, ensure_ascii=False, indent=2)


def stored_receipt(r: Receipt, info: MemoryInfo | None = None, back: str = "") -> list[Fragment]:
    """A receipt of an earlier answer, in place of the page of the memory `back` ("" when none is
    open). Opened, its title gets the focus; closed, the link that opened it."""
    way = Markup('<a class="open" href="?panel=memories" data-memory="">Close the receipt</a>')
    if back:
        way = open_link(back, "Back to the memory")
    html = Markup(
        '<section class="stored"><p>{}</p><h3 tabindex="-1" data-focus="{}">Receipt of {}</h3>'
        '<p class="problem tx">{}</p>{}<p class="hint">{} · The first {} characters of each '
        "attempt are kept.</p></section>"
    ).format(
        way,
        r.id,
        r.created[:16].replace("T", " "),
        r.problem.text,
        receipt_card(r, info),
        again_link(r.problem.text, "Ask this problem again"),
        MOST_TEXT,
    )
    return fragments(("stored", html))


def no_memory(r: Receipt) -> list[Fragment]:
    """In place of a memory's head, over a receipt without one: why."""
    why = "The memory that was tried for that answer is no longer in the bank."
    if r.used is None:
        why = "That answer was given without a memory."
    html = Markup('<p class="notice" data-address="" data-receipt-open="{}">{}</p>')
    return fragments(("none", html.format(r.id, why)))


def again_link(problem: str, words: str) -> Markup:
    """A link that puts a problem into the box of Solve."""
    address = quote(whole(problem), safe="")
    return Markup('<a class="open" href="?problem={}">{}</a>').format(address, words)


def hits_list(found: Retrieval | None, limit: float, mode: str = "auto") -> Markup:
    """What is to be tried. `mode` auto: what retrieval found, best first, each a link to its
    memory, those under the limit marked as too far; off: nothing; chosen: the memory that the
    visitor chose, however far it is."""
    if found is None:
        return Markup("")
    if mode == "off":
        return Markup('<p class="hint">Memories are off.</p>')
    if not found.hits:
        return Markup('<p class="hint">The bank holds no memory that this model can use.</p>')
    if mode == "chosen":
        return Markup('<p class="hint">Chosen by you:</p>') + neighbours(found.hits[:1])
    return Markup('<p class="hint">Nearest memory, by similarity:</p>') + neighbours(
        found.hits, limit
    )


def same_colours(votes: Sequence[Vote]) -> list[list[int]]:
    """The palette index of each cluster, vote by vote: the same answer has the same colour in all,
    however it is written.

    Two clusters of one vote never share theirs, although 50 and 0.5 are both the same as a 50%
    beside them.
    """
    answers: list[str] = []
    colours = []
    for vote in votes:
        mine: list[int] = []
        for c in vote.clusters:
            at = next(
                (i for i, a in enumerate(answers) if i not in mine and same_answer(a, c.answer)),
                len(answers),
            )
            if at == len(answers):
                answers.append(c.answer)
            mine.append(at)
        colours.append(mine)
    return colours


def side_by_side(head: Markup, hint: str, columns: Iterable[Markup]) -> Markup:
    """Columns beside each other, under a head and a line that says what differs."""
    column = Markup('<div class="column">{}</div>')
    return Markup(
        '<section class="compare">{}<p class="hint">{}</p><div class="cols">{}</div></section>'
    ).format(head, hint, join(map(column.format, columns)))


def compare_columns(runs: Sequence[tuple[str, Vote]]) -> list[Fragment]:
    """The counterfactual: votes of the same problem and seed, a column a system."""
    if len(runs) < 2:
        return []
    labels = [v.label for _, v in runs]
    if not any(labels):
        words = "No side has an answer."
    else:
        same = all(a and b and same_answer(a, b) for a, b in combinations(labels, 2))
        words = "All give the same answer." if same else "The answers differ."
    column, columns = Markup('<p class="big">{} {}</p>{}'), []
    for (title, vote), colours in zip(runs, same_colours([v for _, v in runs]), strict=True):
        letter, bar = swatch(colours[0] if colours else None), stored_vote(vote, title, colours)
        columns.append(column.format(letter, answer_text(vote.label), bar))
    head = Markup("<h3>Side by side, same seed</h3>")
    return fragments(("columns", side_by_side(head, words, columns)))


def compare_table(rows: Sequence[tuple[str, Vote, Vote]]) -> list[Fragment]:
    """Before and after: one block a problem, its vote without the memory and with it."""
    titles, pairs = ("Before: without it", "After: with it"), []
    for i, (text, *votes) in enumerate(rows):
        head = Markup('<p class="tx">{}</p>').format(text)
        bars = map(stored_vote, votes, titles, same_colours(votes))
        pairs.append((f"row-{i}", side_by_side(head, change_words(*votes), bars)))
    return fragments(*pairs)


def change_words(before: Vote, after: Vote) -> str:
    """What the memory changed in a vote, in one sentence."""
    if before.abstained or after.abstained:
        one = before.abstained != after.abstained
        return "One side has no answer." if one else "Neither side has an answer."
    a, b = before.clusters[0].size, after.clusters[0].size
    if not same_answer(before.clusters[0].answer, after.clusters[0].answer):
        return (
            "Another answer wins with the memory. The model cannot know which of the two is right."
        )
    if a == b:
        return f"The same answer with the same {a} of {after.total} votes."
    return (
        f"The same answer with {'more' if b > a else 'fewer'} votes: {a} of {before.total} "
        f"before, {b} of {after.total} after."
    )


# ---------- The button that forgets a receipt.

FORGET = "forget"  # what the button does


def forget(receipt_id: str) -> list[Fragment]:
    """Below a receipt that is kept: a fold with the question and its button."""
    words = (
        "This deletes the question, the votes and the attempts for good. The counters of the "
        "memory stay."
    )
    html = Markup(
        '<details><summary>Forget this receipt…</summary>{}<p><button type="button" class="small" '
        'data-do="{}" data-value="{}">Yes, forget it</button></p></details>'
    )
    return fragments(("forget", html.format(notice(words), FORGET, receipt_id)))
