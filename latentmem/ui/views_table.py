"""The bank as a table, and the memories chosen on the map. Pure functions; no gradio.

Each row carries its memory's id; `map_table.js` walks the rows with the arrow keys, marks the point of a row on the map,
and takes rows into the selection.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from ..records import MemoryInfo
from .views import Fragment, answer_text, count, fragments, join, percent, safe
from .views_receipt import open_link

SHOWN = 100  # rows of a table; the search box narrows it
NO_TAGS: Mapping[str, tuple[str, ...]] = {}


def choice_label(info: MemoryInfo) -> str:
    """A memory in a list of choices."""
    return f"{info.name} → {info.label or 'no answer'} ({info.id[:7]}){' · quarantined' if info.quarantined else ''}"


def found_table(infos: Sequence[MemoryInfo], found: Sequence[MemoryInfo], chosen: str = "",
                tags: Mapping[str, tuple[str, ...]] = NO_TAGS) -> list[Fragment]:
    """Those found, in their order: one row a memory, its name a link that opens it. `infos` are all of the bank."""
    if not infos:
        return fragments(("empty", Markup(
            '<div class="empty"><h3>No memory yet</h3><p>Solve a problem, then press '
            '<b>Distil a memory from this problem</b>. What the model learns appears here.</p></div>')))
    if not found:
        return fragments(("empty", Markup('<p class="hint">No memory contains these words.</p>')))
    everything = len(found) == len(infos)
    more = f" The newest {SHOWN} are shown: search to see others." if len(found) > SHOWN else ""
    pick = Markup('<button type="button" class="small" data-pick-all>Select {}</button>').format(
        "all" if everything else f"the {len(found)} found")
    said = count(len(infos), "memory", "memories") if everything else f"{len(found)} of {count(len(infos), 'memory', 'memories')}"
    return fragments(("table", Markup('<div class="above"><p class="hint">{}.{}</p>{}</div>{}').format(
        said, more, pick, _rows(found[:SHOWN], chosen, tags, "Memories"))))


def _rows(infos: Sequence[MemoryInfo], chosen: str, tags: Mapping[str, tuple[str, ...]], label: str) -> Markup:
    return Markup(
        '<div class="scroll" tabindex="0" role="region" aria-label="{}"><table class="bank">'
        '<thead><tr><th><span class="sr-only">Selected</span></th><th>Memory</th><th>Answer</th><th>Agreement</th><th>Source</th>'
        "<th>Tags</th><th>Tried</th><th>Helped</th><th>Hurt</th><th>Made</th></tr></thead><tbody>{}</tbody></table></div>").format(
        label, join([_row(i, i.id == chosen, tags.get(i.id, ())) for i in infos]))


def _row(i: MemoryInfo, chosen: bool, tags: Sequence[str]) -> Markup:
    flag = Markup(' <span class="chip warn">quarantined</span>') if i.quarantined else Markup("")
    c = i.counters
    return Markup('<tr data-id="{}"{}><td><input type="checkbox" data-pick="{}" aria-label="Select {}"></td>'
                  '<th scope="row">{}{}</th><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td>'
                  "<td>{}</td></tr>").format(
        safe(i.id), Markup(' class="chosen" aria-current="true"') if chosen else Markup(""), safe(i.id), safe(i.name),
        open_link(i.id, i.name), flag, answer_text(i.label), percent(i.majority_ratio), safe(i.problem.source or "typed"),
        join([Markup('<span class="chip">{}</span>').format(safe(t)) for t in tags], " "), c.used, c.helped, c.hurt,
        safe(i.created[:10]))


def selected(infos: Sequence[MemoryInfo], chosen: str = "", tags: Mapping[str, tuple[str, ...]] = NO_TAGS) -> list[Fragment]:
    """The memories chosen on the map or in the table: their mean agreement, where they come from, and their rows."""
    if not infos:
        return []
    sources = Counter(i.problem.source.rsplit("/", 1)[-1] or "typed" for i in infos)
    named = ", ".join(f"{n} {name}" for name, n in sources.most_common(4)) + (", …" if len(sources) > 4 else "")
    helped, hurt = sum(i.counters.helped for i in infos), sum(i.counters.hurt for i in infos)
    said = (f"Mean agreement {percent(sum(i.majority_ratio for i in infos) / len(infos))}; helped {helped}, hurt {hurt}. "
            f"From {named}.")
    more = f" The first {SHOWN} are shown." if len(infos) > SHOWN else ""
    frame = Markup('<section class="selected"><h3>{} selected</h3><p class="hint">{}{}</p>{}</section>')
    return fragments(("selected", frame.format(
        count(len(infos), "memory", "memories"), safe(said), more, _rows(infos[:SHOWN], chosen, tags, "Selected memories"))))
