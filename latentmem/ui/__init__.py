"""The web app: panels over the engine's stream of records. `build(engine)` composes it; nothing
here needs a model."""

from .app import build
from .hosting import prepare
from .server import launch_options

__all__ = ["build", "launch_options", "prepare"]
