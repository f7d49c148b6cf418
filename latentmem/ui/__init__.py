"""The web app: panels over the engine's stream of records. `build(engine)` composes it; nothing
here needs a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import gradio as gr

    from ..engine import Engine

__all__ = ["build", "launch_options", "prepare"]


def prepare(engine: Engine) -> Engine:
    """The engine as the app uses it: a new bank begins with the shipped memories; a shared one is
    only read."""
    from .hosting import prepare as ready

    return ready(engine)


def build(engine: Engine) -> gr.Blocks:
    """The whole app over one engine, ready for `.launch(**launch_options())`."""
    from .app import build as compose

    return compose(engine)


def launch_options(engine: Engine | None = None) -> dict[str, Any]:
    """Keyword arguments for `Blocks.launch`: look, scripts and hardening. With an engine, its bank
    is never served."""
    from .server import launch_options as options

    return options(engine)
