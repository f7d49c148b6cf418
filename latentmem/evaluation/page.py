"""A report as a page of HTML that needs nothing else, and as Markdown; how both show numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from .metrics import Estimate

if TYPE_CHECKING:
    from jinja2 import Environment

NONE = "–"
# heading -> what a row shows there: a function of it, or a member's name
Columns = Mapping[str, Callable[[Any], object] | str]


def members(names: str) -> dict[str, str]:
    """{'n': 'n', 'data set': 'dataset'} of 'n, data set: dataset'."""
    pairs = (part.partition(": ") for part in names.split(", "))
    return {heading: name or heading for heading, _, name in pairs}


def shown(row: Any, what: Callable[[Any], object] | str) -> str:
    """A cell of a row, which is a dict or a record."""
    if isinstance(what, str):
        value = row[what] if isinstance(row, dict) else getattr(row, what)
    else:
        value = what(row)
    return NONE if value is None else str(value)


def percent(value: float | None) -> str:
    return NONE if value is None else f"{100 * value:.1f} %"


def points(value: float | None) -> str:
    """A difference of shares, in points, with its sign."""
    return NONE if value is None else f"{100 * value:+z.1f}"


def interval(e: Estimate | None, show: Callable[[float | None], str] = percent) -> str:
    return NONE if e is None else f"{show(e.mean)} ({show(e.low)} to {show(e.high)})"


def cell(text: object) -> str:
    """Text that cannot leave its cell of a Markdown table."""
    return "".join("\\" + c if c in "\\|<>`*_[]" else " " if c in "\r\n" else c for c in str(text))


class Report:
    """Sections, tables and figures in order."""

    def __init__(self, title: str, lead: str) -> None:
        self.title, self.lead = title, lead
        self.parts: list[dict[str, Any]] = []

    def section(self, title: str, text: str = "") -> None:
        self.parts.append({"kind": "section", "title": title, "text": text})

    def table(
        self,
        rows: Iterable[Any],
        columns: Columns,
        *,
        text_columns: Sequence[int] = (0,),
        caption: str = "",
        marked: Callable[[Any], bool] = lambda _: False,
    ) -> None:
        """A table with a line for each of `rows`. `text_columns` hold words and not numbers;
        the lines that are `marked` are bold."""
        rows = list(rows)
        self.parts.append(
            {
                "kind": "table",
                "head": list(columns),
                "rows": [[shown(row, what) for what in columns.values()] for row in rows],
                "text_columns": text_columns,
                "caption": caption,
                "marked": [i for i, row in enumerate(rows) if marked(row)],
            }
        )

    def figure(self, figure: dict[str, Any], caption: str) -> None:
        """A plotly figure; Markdown leaves it out."""
        self.parts.append({"kind": "figure", "figure": figure, "caption": caption})

    def html(self) -> str:
        """The whole page; plotly's script is in it if there is a figure."""
        plotly = ""
        if any(part["kind"] == "figure" for part in self.parts):
            from plotly.offline import get_plotlyjs

            plotly = get_plotlyjs()
        return _templates().get_template("report.html").render(vars(self), plotly=plotly)

    def markdown(self) -> str:
        return _templates().get_template("report.md").render(vars(self)).rstrip() + "\n"


@cache
def _templates() -> Environment:
    """HTML is escaped by jinja, Markdown by `cell`. No figure's JSON can end its script element."""
    from jinja2 import Environment, PackageLoader, select_autoescape

    found = Environment(
        loader=PackageLoader(__package__),
        autoescape=select_autoescape(["html"]),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.policies["json.dumps_kwargs"] = {"allow_nan": False}
    found.filters["cell"] = cell
    return found
