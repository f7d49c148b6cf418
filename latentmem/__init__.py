"""latentmem: watch a language model learn from its own thinking, and ask of any answer which memory
answered this.

    from latentmem import Engine, Problem, Settings

The names below are imported on first use, so that `import latentmem` is quick and loads no
deep-learning library.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .bank import Bank
    from .engine import Engine
    from .records import LatentmemError, Memory, Problem, Receipt
    from .settings import Settings

# Read once, when torch loads its thread pool. By default idle threads spin for work, and beside any
# other busy process (a web server, a second visitor) every small operation then waits for a time
# slice: 1,500 ms a decode step on two cores with one neighbour, against 130 ms with passive
# waiting. Who has the machine alone can set GOMP_SPINCOUNT=20000: 116 against 80 tokens/s at 8
# rows, but 8 against 29 beside one busy process.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ |= {
        "OMP_WAIT_POLICY": "passive",
        "LATENTMEM_WAITS": "1",
    }  # it was us: the bench's peers wait as they would
# Large temporary tensors cost page faults; huge pages halve them.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


__version__ = "0.1.0"
__all__ = [
    "Bank",
    "Engine",
    "LatentmemError",
    "Memory",
    "Problem",
    "Receipt",
    "Settings",
    "__version__",
]

_HOME = {
    "Bank": "bank",
    "Engine": "engine",
    "LatentmemError": "records",
    "Memory": "records",
    "Problem": "records",
    "Receipt": "records",
    "Settings": "settings",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
