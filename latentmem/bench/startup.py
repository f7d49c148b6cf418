"""Our side of the rows about waiting for the program itself: the import, the help, the map of a large bank."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ..records import LatentmemError
from . import search
from .work import Side, Work


def importing(work: Work) -> Side:
    """Seconds of `import latentmem` in a fresh interpreter."""
    code = "import time; t = time.perf_counter(); import latentmem; print(time.perf_counter() - t)"
    return Side(lambda: float(_fresh("-c", code)[1]))


def help_text(work: Work) -> Side:
    """Seconds of `latentmem --help`, the start of the interpreter included."""
    return Side(lambda: _fresh("-m", "latentmem", "--help")[0], "with the start of the interpreter")


def _fresh(*arguments: str) -> tuple[float, str]:
    """Seconds and output of a Python process."""
    began = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment())
    took = time.perf_counter() - began
    if done.returncode:
        raise LatentmemError(f"`python {' '.join(arguments)[:60]}` failed: {done.stderr.strip().splitlines()[-1:]}")
    return took, done.stdout.strip()


def environment() -> dict[str, str]:
    """The environment with this very package first on the path, wherever the bench was started."""
    root = str(Path(__file__).parent.parent.parent)
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))}


def bank_map(work: Work) -> Side:
    """Seconds from opening the file of a bank to the JSON of its map's figure, as the app sends it."""
    folder = tempfile.TemporaryDirectory(prefix="latentmem-bench-")
    path = Path(folder.name) / "bank.sqlite"
    search.filled(work.mapped, work.seed, path).close()

    def run() -> float:
        assert folder.name, "the folder lives as long as this function"
        return draw_map(path)

    return Side(run, f"{work.mapped} memories, on the server: from opening the file to the figure's JSON, without the browser")


def draw_map(path: Path) -> float:
    """Seconds to open a bank, read its rows and keys, project them and write the figure."""
    from ..bank import Bank
    from ..ui.projection import pca
    from ..ui.views_map import map_figure

    began = time.perf_counter()
    with Bank(path, read_only=True) as bank:
        infos = {info.id: info for info in bank.infos()}
        ids, keys = bank.keys("input", include_quarantined=True)
        json.dumps(map_figure([infos[i] for i in ids], pca(keys)))
    return time.perf_counter() - began
