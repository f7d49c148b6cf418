"""The About panel: the method in one picture, the model, and where memories are kept. Text and SVG only."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from . import parts
from .views import fragments
from .views_about import kept_where, method, model_facts

if TYPE_CHECKING:
    from ..engine import Engine


def create_about(engine: Engine) -> None:
    """The panel, inside the Blocks and the Tab of the caller."""
    s = engine.settings
    parts.live("lm-about", fragments(
        ("method", method()),
        ("kept", kept_where(Path(s.bank).expanduser())),
        ("model", model_facts(s))), classes="about")


