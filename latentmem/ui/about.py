"""The About panel: the method in one picture, the model, where memories are kept, the endpoints. Text and SVG only."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING

from . import api, hosting, parts
from .views import fragments
from .views_about import endpoints_table, kept_where, method, model_facts

if TYPE_CHECKING:
    from ..engine import Engine


def create_about(engine: Engine) -> None:
    """The panel, inside the Blocks and the Tab of the caller."""
    s = engine.settings
    parts.live("lm-about", fragments(
        ("method", method(s)),
        ("kept", kept_where(s.bank, s.hosted, s.hosted_memories, hosting.lasting(s.bank))),
        ("model", model_facts(s, hosting.limits(s))),
        ("api", endpoints_table([signature(fn) for fn in api.ENDPOINTS], s.mcp, s.hosted))), classes="about")


def signature(fn: Callable[..., object]) -> tuple[str, str, str]:
    """(name, parameters as a client gives them, the first sentence of what it does) of an endpoint."""
    parameters = [p for p in inspect.signature(fn).parameters.values() if p.name not in ("desk", "request")]
    written = [f"{p.name}: {p.annotation}" + ("" if p.default is p.empty else f" = {p.default!r}") for p in parameters]
    return fn.__name__, ", ".join(written), inspect.getdoc(fn).split("\n")[0]  # type: ignore[union-attr]
