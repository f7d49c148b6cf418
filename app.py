"""The web app: `python app.py`, and the object (`demo`) that a Hugging Face Space runs."""

from __future__ import annotations

import sys

from latentmem.engine import Engine
from latentmem.records import LatentmemError
from latentmem.settings import Settings
from latentmem.ui import build, launch_options, prepare

try:
    # No model is loaded yet; every setting can come from the environment.
    engine = prepare(Engine(Settings()))
    options = launch_options(engine)
except LatentmemError as e:
    sys.exit(str(e))
demo = build(engine)

if __name__ == "__main__":
    demo.launch(**options)
