"""Files to download: who makes many of them leaves few behind, also in the folder where gradio
keeps what it serves."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from latentmem.bank import notes as bank_notes
from latentmem.records import LatentmemError
from latentmem.ui import build, launch_options
from latentmem.ui.api import Endpoints
from latentmem.ui.map import actions
from latentmem.ui.panels import memories
from latentmem.ui.session import EXPORTS_KEPT, AppSession
from tests.ui.test_hosted import shared_engine
from tests.ui_samples import ANN, new_desk, visitor


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of what gradio serves."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    return tmp_path / "gradio"


def files(folder: Path, name: str = "*") -> list[Path]:
    return [f for f in folder.rglob(name) if f.is_file()]


@pytest.mark.parametrize("kind", ["bank", "peft", "button", "adapter"])
def test_only_the_last_two_exports_of_a_kind_are_kept(kind: str, served: Path) -> None:
    desk = new_desk()
    one = desk.engine.bank.infos()[0].id
    make: Any = {
        "bank": lambda: Endpoints(desk).export_bank(),
        "peft": lambda: Endpoints(desk).export_peft(one),
        "button": lambda: memories.export_all(desk)[0]["value"],
        "adapter": lambda: memories.export_peft(desk, one)[0]["value"],
    }[kind]
    made = [make() for _ in range(6)]
    assert [Path(f).exists() for f in made] == [False] * 4 + [
        True
    ] * EXPORTS_KEPT and EXPORTS_KEPT == 2
    assert sorted(files(served)) == sorted(map(Path, made[-2:])) and all(
        zipfile.is_zipfile(f) for f in made[-2:]
    )


def test_an_export_of_another_kind_does_not_push_one_out(served: Path) -> None:
    desk = new_desk()
    bank = Endpoints(desk).export_bank()
    for info in desk.engine.bank.infos() * 3:
        Endpoints(desk).export_peft(info.id)
    assert zipfile.is_zipfile(bank) and len(files(served)) == 3


def test_an_export_that_fails_leaves_nothing_and_takes_nothing_away(served: Path) -> None:
    desk = new_desk()
    kept = [Endpoints(desk).export_peft(i.id) for i in desk.engine.bank.infos()]
    for _ in range(3):
        with pytest.raises(gr.Error, match="no memory"):
            Endpoints(desk).export_peft("m000nothere")
        assert not memories.export_peft(desk, "m000nothere")[0]["visible"]
    assert sorted(files(served)) == sorted(map(Path, kept))
    assert not [f for f in next(served.iterdir()).iterdir() if not any(f.iterdir())], (
        "not even an empty folder"
    )


def test_what_a_visitor_exported_goes_with_the_visitor(served: Path) -> None:
    desk = AppSession(shared_engine())
    a, b = desk.at(visitor("a")), desk.at(visitor("b"))
    Endpoints(a).distil(ANN, request=visitor("a"))
    mine, theirs = (
        Endpoints(a).export_bank(),
        Endpoints(b).export_peft(desk.engine.bank.infos()[0].id),
    )
    desk.leave(visitor("a"))
    assert not Path(mine).exists() and files(served) == [Path(theirs)]
    desk.leave(visitor("b"))
    assert not files(served)


def test_the_open_adapter_is_zipped_and_no_more(served: Path, tmp_path: Path) -> None:
    desk = new_desk()
    made = actions.adapter_zip(desk, desk.engine.bank.infos()[0].id[:8], tmp_path)
    assert files(tmp_path, "*.safetensors") == [] and zipfile.is_zipfile(made)
    with pytest.raises(LatentmemError, match="no memory"):
        actions.adapter_zip(desk, "m000nothere", tmp_path)


def test_a_client_that_exports_over_and_over_does_not_fill_the_disk(
    served: Path, tmp_path: Path
) -> None:
    """Through a server: gradio copies a file that lies elsewhere, and keeps each copy of other
    bytes for a day."""
    from gradio_client import Client

    desk = new_desk()
    app = build(desk.engine)  # type: ignore[arg-type]
    bank = app.latentmem_session.engine.bank
    _, url, _ = app.launch(prevent_thread_lock=True, quiet=True, **launch_options(desk.engine))  # type: ignore[arg-type]
    try:
        client, got = Client(url, verbose=False, download_files=tmp_path / "got"), []
        for n in range(5):
            bank_notes.tag(bank, [bank.infos()[0].id], f"tag {n}")  # other bytes each time
            got.append(client.predict(api_name="/export_bank"))
            shutil.copy(got[-1], tmp_path / f"{n}.zip")
        assert len({(tmp_path / f"{n}.zip").read_bytes() for n in range(5)}) == 5, (
            "each came through, as it was then"
        )
        assert len(files(served, "*.zip")) == EXPORTS_KEPT
    finally:
        app.close(verbose=False)
