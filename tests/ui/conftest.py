"""What several tests of the app start from."""

from __future__ import annotations

import pytest

from latentmem.ui.panels import stream
from latentmem.ui.session import AppSession
from tests.evaluation_samples import FakeSystem, fake_cast
from tests.ui_samples import hurry, new_session


@pytest.fixture(autouse=True)
def without_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """The systems of a stream are toys."""
    monkeypatch.setattr(stream, "enter_systems", fake_cast)


@pytest.fixture
def session() -> AppSession:
    """An app over two memories."""
    return new_session()


@pytest.fixture
def quick_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture every hundredth of a second, so that a quick engine is seen at its steps, too."""
    hurry(monkeypatch)


@pytest.fixture
def replies(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The name of a system for each of its replies."""
    found: list[str] = []
    old = FakeSystem.reply
    monkeypatch.setattr(
        FakeSystem,
        "reply",
        lambda self, those, mode: found.append(self.name) or old(self, those, mode),
    )
    return found
