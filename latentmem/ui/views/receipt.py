"""The receipt as a card: which memory answered, or none, and why. Pure functions; no gradio."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
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
    safe,
    stored_vote,
    swatch,
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
    r: Receipt,
    info: MemoryInfo | None = None,
    chosen: bool = False,
    learnt: Vote | None = None,
) -> Markup:
    """The whole card: the answer, who gave it, the vote; why; then the details. `info`: what the
    bank knows of the memory, `learnt`: the vote it learnt from, `chosen`: by the visitor."""
    css, words = headline(r)
    return Markup(
        '<section class="receipt {}" aria-label="Receipt"><header role="status"><p class="big">{}'
        '</p><p class="who">{}</p>{}</header><p class="why tx">{}</p>{}<details><summary>Details'
        "</summary>{}{}</details></section>"
    ).format(
        css,
        answer_text(r.answer),
        safe(words),
        both_votes(r),
        safe(reason(r)),
        used_memory(r, info, chosen, learnt),
        facts(r),
        raw_json(r),
    )


def reason(r: Receipt) -> str:
    """What the router did, its answers as mathematics: in one pass, the longer first, since one may
    be in the other."""
    labels = {v.label for v in (r.zero_shot, r.memory) if v is not None and v.label}
    found = sorted((a for a in labels if formula(a) != a), key=len, reverse=True)
    return (
        re.sub("|".join(map(re.escape, found)), lambda m: formula(m[0]), r.route.reason)
        if found
        else r.route.reason
    )


def unfit(why: str) -> Markup:
    """Why there is nothing to distil, and the two things that help, each a button."""
    return Markup(
        '<section class="outcome"><p>{}</p><p><button type="button" class="small" '
        'data-do="retry" data-value="{}">Another seed</button> <button type="button" '
        'class="small" data-do="retry" data-value="{}">A problem that works</button></p></section>'
    ).format(safe(why), *HELPS)


def used_memory(
    r: Receipt,
    info: MemoryInfo | None = None,
    chosen: bool = False,
    learnt: Vote | None = None,
) -> Markup:
    """The memories near the problem, and of the one that was tried its source problem and vote
    (`learnt`) and the way to the map."""
    used = r.used
    lead = "" if used is None or used.margin is None else f" The first leads by {used.margin:.3f}."
    title = f"★ The memories nearest to the problem, by {key_words(r.key_kind)}.{lead}"
    near = Markup('<div class="near"><p class="hint">{}</p>{}</div>').format(
        "Chosen by you." if chosen else title,
        neighbours(
            r.hits,
            float(r.settings.get("min_similarity", -1)),
            used.memory_id if used is not None else "",
        ),
    )
    if used is None:
        return near if r.hits else Markup("")
    if info is None:
        from_ = Markup("<p>“{}”</p>").format(safe(r.used.name))
    else:
        share = f"{learnt.clusters[0].size} of {learnt.total}" if learnt else ""
        from_ = Markup(
            '<p class="hint">Learnt from the problem</p><p class="tx">{}</p><p class="hint">{} · '
            "{} ({} votes)</p>"
        ).format(
            safe(info.problem.text),
            safe(info.problem.source or "typed by a person"),
            answer_text(info.label),
            share or f"{percent(info.majority_ratio)} of the",
        )
    link = open_link(r.used.memory_id, "Open it on the map")
    return near + Markup('<div class="used">{}{}</div>').format(from_, link)


def neighbours(hits: Sequence[Hit], least: float = -1, tried: str = "") -> Markup:
    """Memories near a problem, best first: name, similarity as a bar and in figures. The bars have
    a line where `least` is, under which none is tried; the one that was `tried` is marked."""
    rows = []
    for h in hits[:MOST_NEAR]:
        near = h.similarity >= least
        why = "" if near else "too far to be tried"
        if h.passed_over:
            why = f"passed over: {h.passed_over}"
        if h.memory_id == tried:
            why = "tried"
        rows.append(
            Markup(
                '<li{}>{}<span class="sim" aria-hidden="true"><i style="width:{:.1%}"></i></span>'
                '<span class="num">{:.3f}</span>{}</li>'
            ).format(
                Markup("") if near and not h.passed_over else Markup(' class="far"'),
                open_link(h.memory_id, h.name),
                max(0.0, min(1.0, h.similarity)),
                h.similarity,
                Markup("<small>{}</small>").format(safe(why)) if why else "",
            )
        )
    line = Markup(' style="--least:{:.1%}"').format(least) if least > 0 else Markup("")
    return Markup('<ol class="hits"{}>{}</ol>').format(line, join(rows))


def key_words(kind: str) -> str:
    return {"input": "sentence embedding", "kv": "the model's own activations"}.get(kind, kind)


def open_link(memory_id: str, words: str) -> Markup:
    """A link that opens a memory; `live.js` turns the click into an event, and without it the
    address still works."""
    return Markup('<a class="open" href="?memory={}" data-memory="{}">{}</a>').format(
        safe(memory_id), safe(memory_id), safe(words)
    )


def both_votes(r: Receipt) -> Markup:
    """The two votes beside each other, the same answer in the same colour."""
    votes = [(SIDES["zero_shot"], r.zero_shot)] + (
        [(SIDES["memory"], r.memory)] if r.memory is not None else []
    )
    return Markup('<div class="both-votes">{}</div>').format(
        join([small_vote(title, vote) for title, vote in votes])
    )


def small_vote(title: str, vote: Vote) -> Markup:
    if vote.abstained:
        words = Markup("no votes")
    else:
        words = Markup("{} ({} of {} votes)").format(
            answer_text(vote.label), vote.clusters[0].size, vote.total
        )
    return Markup("<p><b>{}</b> {}</p>").format(title, words)


def facts(r: Receipt) -> Markup:
    verifier = VERIFIERS.get(r.route.verifier or "", r.route.verifier or "")
    scores = ", ".join(
        f"{number(value, 3)} {SIDES.get(side, side).lower()}"
        for side, value in r.route.scores.items()
    )
    pairs = [
        *([(f"Verifier: {verifier}", scores)] if scores else []),
        ("Tokens", f"{r.tokens:,}".replace(",", " ")),
        ("Time", duration(r.seconds)),
        ("Seed", str(r.seed)),
        ("Model", r.model_name),
        ("Receipt", r.id),
    ]
    return Markup('<div class="facts">{}</div>').format(definition_list(pairs))


def definition_list(pairs: Sequence[tuple[str, str]]) -> Markup:
    return Markup("<dl>{}</dl>").format(
        join([Markup("<div><dt>{}</dt><dd>{}</dd></div>").format(k, safe(v)) for k, v in pairs])
    )


def receipt_json(r: Receipt) -> str:
    """The receipt as indented JSON without the token ids, which fill pages; the digest stands for
    them."""
    data = to_dict(r)
    for trace in data["traces"]:
        trace.pop("token_ids", None)
    return json.dumps(data, ensure_ascii=False, indent=2)


def raw_json(r: Receipt) -> Markup:
    return Markup(
        '<details><summary>The receipt as JSON</summary><pre tabindex="0">{}</pre></details>'
    ).format(safe(receipt_json(r)))


def stored_receipt(r: Receipt, info: MemoryInfo | None = None, back: str = "") -> list[Fragment]:
    """A receipt of an earlier answer, in place of the page of the memory `back` ("" when none is
    open). Opened, its title gets the focus; closed, the link that opened it."""
    way = (
        open_link(back, "Back to the memory")
        if back
        else Markup('<a class="open" href="?panel=memories" data-memory="">Close the receipt</a>')
    )
    return fragments(
        (
            "stored",
            Markup(
                '<section class="stored"><p>{}</p><h3 tabindex="-1" data-focus="{}">Receipt of '
                '{}</h3><p class="problem tx">{}</p>{}<p class="hint">{} · The first {} '
                "characters of each attempt are kept.</p></section>"
            ).format(
                way,
                safe(r.id),
                safe(r.created[:16].replace("T", " ")),
                safe(r.problem.text),
                receipt_card(r, info),
                again_link(r.problem.text, "Ask this problem again"),
                MOST_TEXT,
            ),
        )
    )


def no_memory(r: Receipt) -> list[Fragment]:
    """In place of a memory's head, over a receipt without one: why."""
    why = (
        "That answer was given without a memory."
        if r.used is None
        else ("The memory that was tried for that answer is no longer in the bank.")
    )
    return fragments(
        (
            "none",
            Markup('<p class="notice" data-address="" data-receipt-open="{}">{}</p>').format(
                safe(r.id), why
            ),
        )
    )


def again_link(problem: str, words: str) -> Markup:
    """A link that puts a problem into the box of Solve."""
    return Markup('<a class="open" href="?problem={}">{}</a>').format(
        quote(problem.encode("utf-8", "replace").decode(), safe=""), safe(words)
    )


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


def compare_columns(runs: Sequence[tuple[str, Vote]]) -> list[Fragment]:
    """The counterfactual: votes of the same problem and seed beside each other, one column a
    system."""
    columns = []
    for (title, vote), colours in zip(runs, same_colours([v for _, v in runs]), strict=True):
        columns.append(
            Markup('<div class="column"><p class="big">{} {}</p>{}</div>').format(
                swatch(colours[0] if colours else None),
                answer_text(vote.label),
                stored_vote(vote, title, colours),
            )
        )
    labels = [v.label for _, v in runs]
    if not any(labels):
        words = "No side has an answer."
    else:
        same = all(a and b and same_answer(a, b) for a, b in combinations(labels, 2))
        words = "All give the same answer." if same else "The answers differ."
    if len(runs) < 2:
        return []
    return fragments(
        (
            "columns",
            Markup(
                '<section class="compare"><h3>Side by side, same seed</h3>'
                '<p class="hint">{}</p><div class="cols">{}</div></section>'
            ).format(words, join(columns)),
        )
    )


def compare_table(rows: Sequence[tuple[str, Vote, Vote]]) -> list[Fragment]:
    """Before and after: one block a problem, its vote without the memory and with it."""
    pairs = []
    for i, (text, before, after) in enumerate(rows):
        columns = []
        for title, vote, colours in zip(
            ("Before: without it", "After: with it"),
            (before, after),
            same_colours((before, after)),
            strict=True,
        ):
            columns.append(
                Markup('<div class="column">{}</div>').format(stored_vote(vote, title, colours))
            )
        pairs.append(
            (
                f"row-{i}",
                Markup(
                    '<section class="compare"><p class="tx">{}</p><p class="hint">{}</p>'
                    '<div class="cols">{}</div></section>'
                ).format(safe(text), safe(change_words(before, after)), join(columns)),
            )
        )
    return fragments(*pairs)


def change_words(before: Vote, after: Vote) -> str:
    """What the memory changed in a vote, in one sentence."""
    if before.abstained or after.abstained:
        return (
            "One side has no answer."
            if before.abstained != after.abstained
            else "Neither side has an answer."
        )
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
    return fragments(
        (
            "forget",
            Markup(
                "<details><summary>Forget this receipt…</summary>{}<p>"
                '<button type="button" class="small" data-do="{}" data-value="{}">Yes, forget it'
                "</button></p></details>"
            ).format(
                notice(
                    "This deletes the question, the votes and the attempts for good. The counters "
                    "of the memory stay."
                ),
                FORGET,
                safe(receipt_id),
            ),
        )
    )
