"""A report as one HTML file that needs nothing else: tables, figures, plotly's script once, light and dark.

All foreign text goes through markupsafe; figures travel as JSON in inert script elements.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from markupsafe import Markup

from .evidence import cell

Cell = str | Markup | int | float | None

STYLE = """
:root { color-scheme: light dark; --ink: #1b2430; --soft: #56606e; --paper: #ffffff; --line: #d5d9df; --link: #0072b2; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8eaed; --soft: #a7b0bc; --paper: #14171c; --line: #3a414c; --link: #56b4e9; } }
body { margin: 0 auto; max-width: 70rem; padding: 1.5rem; color: var(--ink); background: var(--paper);
  font: 16px/1.5 ui-sans-serif, system-ui, "Segoe UI", Roboto, sans-serif; }
h1, h2, h3 { line-height: 1.2; margin: 2rem 0 .6rem; } h1 { margin-top: 0; }
p, h2, figcaption { overflow-wrap: anywhere; } p.soft, figcaption, caption { color: var(--soft); } a { color: var(--link); }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
caption { text-align: left; padding-bottom: .4rem; } th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line);
  text-align: right; white-space: nowrap; } th { text-align: right; } td.words, th.words { text-align: left; }
tr.mark td { font-weight: 600; } figure { margin: 1rem 0 2rem; }
code { font-size: .9em; overflow-wrap: anywhere; }
"""

DRAW = """
(function () {
  const dark = matchMedia('(prefers-color-scheme: dark)');
  function draw() {
    const ink = dark.matches ? '#e8eaed' : '#1b2430', line = dark.matches ? '#3a414c' : '#d5d9df';
    for (const source of document.querySelectorAll('script[data-figure]')) {
      const place = document.getElementById(source.dataset.figure), given = JSON.parse(source.textContent);
      const layout = Object.assign({}, given.layout, {paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)',
        font: {color: ink, family: 'ui-sans-serif, system-ui, sans-serif'}});
      for (const name of Object.keys(layout)) if (/^[xy]axis/.test(name))
        layout[name] = Object.assign({gridcolor: line, zerolinecolor: line, linecolor: line}, layout[name]);
      Plotly.react(place, given.data, layout, {responsive: true, displaylogo: false, displayModeBar: false});
    }
  }
  dark.addEventListener('change', draw);
  draw();
})();
"""


class Page:
    """Collects a report's parts in order."""

    def __init__(self, title: str, lead: str) -> None:
        self.title, self.lead = title, lead
        self.parts: list[Markup] = []
        self.figures = 0

    def section(self, title: str, words: str = "") -> None:
        self.parts.append(Markup("<h2>{}</h2>").format(title))
        self.words(words)

    def words(self, text: str) -> None:
        if text:
            self.parts.append(Markup('<p class="soft">{}</p>').format(text))

    def table(self, head: Sequence[str], rows: Iterable[Sequence[Cell]], *, words: Sequence[int] = (0,), caption: str = "",
              marked: Sequence[int] = ()) -> None:
        """A table. `words`: columns that hold text; `marked`: rows that stand out."""
        def cells(tag: str, line: Sequence[Cell]) -> Markup:
            return Markup("").join(Markup('<{0}{1}>{2}</{0}>').format(
                Markup(tag), Markup(' class="words"' if i in words else ""), "–" if c is None else c) for i, c in enumerate(line))

        body = Markup("").join(Markup("<tr{}>{}</tr>").format(Markup(' class="mark"' if i in marked else ""), cells("td", row))
                               for i, row in enumerate(rows))
        said = Markup("<caption>{}</caption>").format(caption) if caption else ""
        self.parts.append(Markup('<div class="wide" tabindex="0" role="region" aria-label="{}"><table>{}<thead><tr>{}</tr>'
                                 "</thead><tbody>{}</tbody></table></div>").format(caption or "table", said, cells("th", head),
                                                                                   body))

    def figure(self, figure: dict[str, Any], caption: str) -> None:
        """A plotly figure. Nothing in its JSON can end the script element that carries it."""
        self.figures += 1
        name = f"figure-{self.figures}"
        data = json.dumps(figure, ensure_ascii=True, allow_nan=False).replace("<", "\\u003c")
        self.parts.append(Markup(
            '<figure><div class="plot" id="{0}" role="img" aria-label="{1}"></div><figcaption>{1}</figcaption>'
            '<script type="application/json" data-figure="{0}">{2}</script></figure>').format(name, caption, Markup(data)))

    def html(self) -> str:
        """The whole file; plotly's script is in it if there is a figure."""
        scripts = Markup("")
        if self.figures:
            from plotly.offline import get_plotlyjs

            scripts = Markup("<script>{}</script><script>{}</script>").format(Markup(get_plotlyjs()), Markup(DRAW))
        return str(Markup(
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{0}</title>'
            '<meta name="viewport" content="width=device-width, initial-scale=1"><style>{1}</style></head>\n'
            "<body><main><h1>{0}</h1><p>{2}</p>\n{3}\n</main>{4}</body></html>\n").format(
            self.title, Markup(STYLE), self.lead, Markup("\n").join(self.parts), scripts))


class Sheet:
    """The same parts as Markdown; figures are left to the page."""

    def __init__(self, title: str, lead: str) -> None:
        self.lines = [f"# {title}", "", lead, ""]

    def section(self, title: str, words: str = "") -> None:
        self.lines += [f"## {cell(title)}", ""]
        self.words(words)

    def words(self, text: str) -> None:
        if text:
            self.lines += [cell(text), ""]

    def table(self, head: Sequence[str], rows: Iterable[Sequence[Cell]], *, words: Sequence[int] = (0,), caption: str = "",
              marked: Sequence[int] = ()) -> None:
        if caption:
            self.lines += [f"**{cell(caption)}**", ""]
        rule = "|".join("---" if i in words else "--:" for i in range(len(head)))
        self.lines += ["| " + " | ".join(head) + " |", f"|{rule}|"]
        for i, row in enumerate(rows):
            texts = ["–" if c is None else cell(str(c)) for c in row]
            self.lines.append("| " + " | ".join(f"**{t}**" if i in marked else t for t in texts) + " |")
        self.lines.append("")

    def figure(self, figure: dict[str, Any], caption: str) -> None:
        """Drawn in the HTML report only."""

    def markdown(self) -> str:
        return "\n".join(self.lines).rstrip() + "\n"

