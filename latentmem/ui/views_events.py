"""What happened to a memory over time: a small chart, whom it helped and hurt, and the list. Pure functions; no gradio."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

from markupsafe import Markup

from ..records import Event
from .views import count, join, safe
from .views_receipt import again_link

WORDS: Mapping[str, str] = {
    "retrieved": "looked up", "used": "tried on a problem", "agreed": "agreed with the model alone",
    "verifier_won": "won against the model alone", "helped": "helped", "hurt": "hurt", "feedback": "feedback",
    "quarantined": "put in quarantine", "released": "released", "note": "note", "tag": "tag"}
BANDS = (("retrieved", "looked up"), ("used", "tried"), ("helped", "helped"), ("hurt", "hurt"))
WIDTH, HEIGHT, MOST_BARS = 320, 62, 40
SHOWN = 50
NONE: Mapping[str, str] = {}
# (seconds of a bar, how its time is written)
SPANS = ((3600, "%d %b %H:00"), (86_400, "%d %b"), (7 * 86_400, "week of %d %b"), (30 * 86_400, "%b %Y"), (365 * 86_400, "%Y"))


class History(tuple[Event, ...]):
    """The newest events of a memory, newest first. `told`: all verdicts on answers with it, also older ones; `total`: how
    many events there are."""

    told: tuple[Event, ...]
    total: int

    def __new__(cls, newest: Iterable[Event], told: Iterable[Event], total: int) -> History:
        made = super().__new__(cls, newest)
        made.told, made.total = tuple(told), total
        return made


def timeline(events: Sequence[Event]) -> Markup:
    """Bars over time, one colour a kind; the legend counts them, so that nothing hangs on colour alone. It says so if there
    are more events than these: the counters beside it count all."""
    known = [(at, e.kind) for e in events if e.kind in dict(BANDS) and (at := _when(e.created)) is not None]
    if not known:
        return Markup("")
    first, last = min(at for at, _ in known), max(at for at, _ in known)
    seconds, written = next((s for s in SPANS if (last - first).total_seconds() / s[0] < MOST_BARS), SPANS[-1])
    start = datetime.fromtimestamp(first.timestamp() // seconds * seconds, UTC)
    bars: dict[int, Counter[str]] = {}
    for at, kind in known:
        bars.setdefault(int((at - start).total_seconds() // seconds), Counter())[kind] += 1
    n = max(bars) + 1
    top = max(sum(b.values()) for b in bars.values())
    step = WIDTH / max(n, 12)
    shapes = [_bar(i * step, step, bars[i], top, (start + timedelta(seconds=i * seconds)).strftime(written))
              for i in sorted(bars)]
    total = Counter(kind for _, kind in known)
    ends = [first.strftime("%d %b %Y")] + ([last.strftime("%d %b %Y")] if n > 1 else [])
    there = events.total if isinstance(events, History) else len(events)
    part = Markup("<span>of the newest {} of {} events</span>").format(len(events), there) if there > len(events) else Markup("")
    return Markup('<figure class="timeline"><svg viewBox="0 0 {} {}" preserveAspectRatio="none" role="img" aria-label="{}">{}'
                  '</svg><div class="ends">{}</div><figcaption>{}</figcaption></figure>').format(
        WIDTH, HEIGHT, "Events over time: " + ", ".join(f"{total[k]} {words}" for k, words in BANDS if total[k]),
        join(shapes), join([Markup("<span>{}</span>").format(e) for e in ends]),
        join([Markup('<span class="k-{}"><i></i>{} {}</span>').format(k, total[k], words) for k, words in BANDS if total[k]])
        + part)


def _bar(x: float, step: float, kinds: Counter[str], top: int, when: str) -> Markup:
    parts, y = [], float(HEIGHT)
    for kind, _ in BANDS:
        if kinds[kind]:
            h = (HEIGHT - 4) * kinds[kind] / top
            y -= h
            parts.append(Markup('<rect class="k-{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>').format(
                kind, x, y, max(step - 1, 1), h))
    said = ", ".join(f"{kinds[k]} {words}" for k, words in BANDS if kinds[k])
    return Markup("<g><title>{}: {}</title>{}</g>").format(when, said, join(parts))


def _when(created: str) -> datetime | None:
    try:
        at = datetime.fromisoformat(created)
    except ValueError:
        return None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def verdicts(events: Sequence[Event], problem_of: Callable[[str], str | None] = lambda problem_id: None,
             kept: Mapping[str, str] = NONE) -> Markup:
    """Whom it helped and hurt: each problem a link to the receipt of its answer, or, where that is not kept, one that asks
    it again. And how many answers were judged that would have been the same without it.

    `problem_of`: problem id -> its text where the event does not carry it. `kept`: receipt id -> the problem it answers.
    """
    told = events.told if isinstance(events, History) else events
    decided = [e for e in told if e.kind in ("helped", "hurt")]
    if not decided:
        return _undecided(told, "Of the answers for which it was tried")
    some = {e.receipt_id for e in decided if e.receipt_id}
    more = [Markup('<p class="hint">The newest {} of {}.</p>').format(SHOWN, len(decided))] if len(decided) > SHOWN else []
    if rest := [e for e in told if e.kind == "feedback" and e.receipt_id not in some]:
        more.append(_undecided(rest, "Of the other answers for which it was tried"))
    return Markup('<ul class="verdicts">{}</ul>{}').format(
        join([_verdict(e, problem_of, kept) for e in decided[:SHOWN]]), join(more))


def _undecided(told: Sequence[Event], those: str) -> Markup:
    """Verdicts on answers that the model gave without the memory, too: both sides agreed, or its own was taken."""
    right = [bool(e.detail.get("correct")) for e in told if e.kind == "feedback"]
    if not right:
        return Markup('<p class="hint">Nobody has said yet whether an answer with this memory was right.</p>')
    judged = " and ".join(f"{n} {'was' if n == 1 else 'were'} judged {word}" for n, word in (
        (sum(right), "right"), (len(right) - sum(right), "wrong")) if n)
    return Markup('<p class="hint">{}, {}; the model alone gave the same {}, so there it neither helped nor hurt.</p>').format(
        those, judged, "answer" if len(right) == 1 else "answers")


def _verdict(e: Event, problem_of: Callable[[str], str | None], kept: Mapping[str, str]) -> Markup:
    carried = e.detail.get("problem")
    text = kept.get(e.receipt_id) or (carried if isinstance(carried, str) and carried.strip() else problem_of(e.problem_id))
    if e.receipt_id in kept:
        shown = _receipt_link(e, safe(_short(text or e.receipt_id)))
    elif text:
        shown = again_link(text, _short(text))
    else:
        shown = Markup("problem <code>{}</code>").format(safe(e.problem_id or "unknown"))
    receipt = Markup(" <small>receipt <code>{}</code>, {}</small>").format(
        safe(e.receipt_id), safe(e.created[:10])) if e.receipt_id else Markup("")
    return Markup('<li class="{}"><b>{}</b> {}{}</li>').format(e.kind, WORDS[e.kind], shown, receipt)


def _receipt_link(e: Event, words: Markup) -> Markup:
    """A link that opens a receipt in place of the memory's page; `live.js` turns the click into an event."""
    return Markup('<a class="open" href="?memory={}&amp;receipt={}" data-receipt="{}" title="Open the receipt">{}</a>').format(
        quote(e.memory_id, safe=""), quote(e.receipt_id, safe=""), safe(e.receipt_id), words)


def _short(text: str, width: int = 110) -> str:
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 1] + "…"


def event_list(events: Sequence[Event], total: int | None = None, kept: Mapping[str, str] = NONE) -> Markup:
    """The events themselves, newest first; the receipts that are `kept` are links."""
    if not events:
        return Markup("")
    items = join([Markup("<li><time>{}</time> {}{}{}</li>").format(
        safe(e.created[:16].replace("T", " ")), WORDS.get(e.kind, e.kind), _detail(e), _receipt_of(e, kept))
        for e in events[:SHOWN]])
    known = events.total if isinstance(events, History) else len(events)
    n = known if total is None else total
    more = f", the newest {SHOWN} shown" if n > SHOWN else ""
    return Markup('<details><summary>{}{}</summary><ul class="events">{}</ul></details>').format(count(n, "event"), more, items)


def _receipt_of(e: Event, kept: Mapping[str, str]) -> Markup:
    if not e.receipt_id:
        return Markup("")
    code = Markup("<code>{}</code>").format(safe(e.receipt_id))
    return Markup(" {}").format(_receipt_link(e, code) if e.receipt_id in kept else code)


def _detail(e: Event) -> Markup:
    if e.kind == "tag" and isinstance(e.detail.get("tag"), str):
        return Markup(" {} {}").format("given:" if e.detail.get("on", True) else "taken away:", safe(e.detail["tag"][:40]))
    if e.kind == "feedback":
        return Markup(": {}").format("right" if e.detail.get("correct") else "wrong")
    return Markup("")
