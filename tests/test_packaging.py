"""The facts that stand in several files agree: README, requirements, pyproject, settings, CI."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from latentmem.settings import Settings

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
# The README and the pages that it leads to, by path.
PAGES = {
    name: (ROOT / name).read_text(encoding="utf-8")
    for name in (
        "README.md",
        "assets/results/README.md",
        ".github/CONTRIBUTING.md",
        *(f"assets/docs/{page.name}" for page in sorted((ROOT / "assets" / "docs").glob("*.md"))),
    )
}
SHELL = re.compile(r"^latentmem .+", re.M)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def requirements() -> dict[str, Requirement]:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    parsed = [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]
    assert len({r.name for r in parsed}) == len(parsed)
    return {r.name: r for r in parsed}


@pytest.fixture(scope="module")
def front_matter() -> dict[str, Any]:
    assert README.startswith("---\n")
    return yaml.safe_load(README.split("---\n")[1])


def test_dependencies_stand_in_one_place(requirements: dict[str, Requirement]) -> None:
    assert set(PROJECT["project"]["dynamic"]) == {"version", "dependencies"}
    assert PROJECT["tool"]["setuptools"]["dynamic"]["dependencies"] == {
        "file": ["requirements.txt"]
    }
    assert {"torch", "transformers", "peft", "gradio", "plotly", "math-verify", "gguf"} <= set(
        requirements
    )
    for extra in PROJECT["project"]["optional-dependencies"].values():
        for requirement in map(Requirement, extra):
            if requirement.name in requirements:
                assert requirement.specifier == requirements[requirement.name].specifier


def test_an_installed_package_is_whole_and_brings_the_examples(tmp_path: Path) -> None:
    """From a wheel, unpacked elsewhere: every file of the package, the starter memories and the
    problems, which the app finds there."""
    source, out, site = tmp_path / "source", tmp_path / "out", tmp_path / "site"
    for name in ("pyproject.toml", "requirements.txt", "README.md", "LICENSE"):
        source.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, source)
    for name in ("latentmem", "examples"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", build, str(out)], cwd=source, check=True, capture_output=True
    )
    with zipfile.ZipFile(next(out.glob("*.whl"))) as wheel:
        inside = set(wheel.namelist())
        wheel.extractall(site)
    files = {p.relative_to(source) for p in (source / "latentmem").rglob("*") if p.is_file()}
    assert {p.as_posix() for p in files} <= inside
    show = "from latentmem.files import example as e; print(e('bank.zip'), e('problems.jsonl'))"
    done = subprocess.run(
        [sys.executable, "-c", show],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=True,
    )
    examples = site.resolve() / "latentmem" / "examples"
    assert done.stdout.split() == [str(examples / n) for n in ("bank.zip", "problems.jsonl")]
    assert all(Path(name).is_file() for name in done.stdout.split())


def test_the_installed_versions_fit(requirements: dict[str, Requirement]) -> None:
    from importlib.metadata import version

    wrong = [
        f"{r} but {version(r.name)}"
        for r in requirements.values()
        if not r.specifier.contains(version(r.name))
    ]
    assert not wrong


def test_ci_installs_exact_versions_that_fit(requirements: dict[str, Requirement]) -> None:
    """With checksums, but for torch, whose builds differ by index."""
    blocks = re.findall(
        r"^([a-z][^ =\n]+)==([^ \n]+)(.*\n(?: .*\n)*)",
        (ROOT / ".ci" / "constraints.txt").read_text(encoding="utf-8"),
        re.M,
    )
    versions: dict[str, list[str]] = {}
    for name, version, rest in blocks:
        versions.setdefault(name, []).append(version)  # more than one where Pythons differ
        assert ("--hash=sha256:" in rest) == (name != "torch"), name
    extras = PROJECT["project"]["optional-dependencies"]
    installed = ("test", "evaluation", "mcp", "ray", "umap")
    wanted = [*requirements.values(), *(Requirement(r) for e in installed for r in extras[e])]
    for requirement in wanted:
        found = versions.get(requirement.name.lower().replace("_", "-"), [])
        assert found and all(map(requirement.specifier.contains, found)), requirement


def test_the_space_fits(front_matter: dict[str, Any], requirements: dict[str, Requirement]) -> None:
    assert requirements["gradio"].specifier.contains(front_matter["sdk_version"])
    assert SpecifierSet(PROJECT["project"]["requires-python"]).contains(
        front_matter["python_version"]
    )
    assert front_matter["sdk"] == "gradio" and front_matter["app_file"] == "app.py"
    assert len(front_matter["short_description"]) <= 60


def test_the_space_preloads_the_default_weights(front_matter: dict[str, Any]) -> None:
    from latentmem.model.weights.catalog import MODELS

    spec = MODELS[Settings.model_fields["model"].default]
    assert front_matter["preload_from_hub"] == [f"{spec.repo} {spec.files[0].path} {spec.revision}"]
    assert front_matter["models"] == [
        spec.repo,
        MODELS[Settings.model_fields["embedder"].default].repo,
    ]


def test_the_readme_is_short() -> None:
    assert len(README.split("---\n", 2)[2].splitlines()) <= 200


def test_the_settings_of_the_page_are_all_settings_and_their_defaults() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \|", PAGES["assets/docs/settings.md"], re.M)
    rows = rows[: len(Settings.model_fields)]  # other tables follow
    assert [name for name, _ in rows] == list(Settings.model_fields)
    for name, default in rows:
        if default.startswith("`"):
            assert default.strip("`") == str(Settings.model_fields[name].default), name


def test_the_systems_of_the_results_are_rows() -> None:
    from latentmem.evaluation.baselines.registry import SYSTEMS

    page = PAGES["assets/results/README.md"]
    section = page.split("\n### The systems\n")[1].split("\n## ")[0]
    told = {
        name
        for line in re.findall(r"^\| (`.+?) \|", section, re.M)
        for name in re.findall(r"`(\w+)`", line)
    }
    assert told == set(SYSTEMS)


def test_the_readme_tree_exists() -> None:
    tree = re.search(r"## Where things are\n\n```\n(.+?)```", README, re.S)
    assert tree
    folder = Path()
    for line in tree[1].splitlines():
        name = line.split()[0]
        path = folder / name if line.startswith("  ") else Path(name)
        folder = path if name.endswith("/") and not line.startswith("  ") else folder
        assert (ROOT / path).exists(), path


def test_the_programs_of_the_pages_use_what_there_is() -> None:
    import latentmem

    programs = [
        p for page in PAGES.values() for p in re.findall(r"```python\n(.+?)```", page, re.S)
    ]
    assert len(programs) >= 3 and len(programs[0].splitlines()) <= 15
    for program in programs:
        compile(program, "page", "exec")
        for module, names in re.findall(r"^from (latentmem[\w.]*) import (.+)", program, re.M):
            assert all(hasattr(import_module(module), name) for name in names.split(", ")), module
    for name in re.findall(r"engine\.(\w+)\(", programs[0]):
        assert callable(getattr(latentmem.Engine, name))


def test_the_commands_of_the_pages_and_their_options_exist() -> None:
    from typer.main import get_command

    from latentmem.cli.app import app

    known, used = get_command(app).commands, set()
    shown = [line for page in PAGES.values() for line in SHELL.findall(page.replace("\\\n", " "))]
    runs = re.findall(r"^\| [\w, -]+ \| `(--.+?)`", PAGES["assets/results/README.md"], re.M)
    shown += [f"latentmem evaluate {options}" for options in runs]
    for line in shown:
        words = line.split("  #")[0].split()
        used.add(words[1])
        command = known[words[1]]
        command = getattr(command, "commands", {}).get((words[2:] or [""])[0], command)
        options = {o for p in command.params for o in [*p.opts, *p.secondary_opts]}
        assert {w for w in words if w.startswith("--")} <= options, line
    assert used == set(known) and len(README.split("\nlatentmem ")) == 11


def test_the_endpoints_of_the_page_are_all_endpoints() -> None:
    from latentmem.ui.api import ENDPOINTS

    section = PAGES["assets/docs/api.md"].split("| endpoints |")[1].split("\n\n")[0]
    told = [name for row in re.findall(r"^\| (`.+?) \|", section, re.M) for name in row.split()]
    assert sorted(told) == sorted(f"`{name}`" for name in ENDPOINTS)


def test_the_tools_of_the_pages_exist() -> None:
    for page in PAGES.values():
        for module in re.findall(r"python -m (tests[\w.]+)", page):
            assert (ROOT / (module.replace(".", "/") + ".py")).exists(), module


def test_the_links_of_the_pages_lead_somewhere() -> None:
    for name, page in PAGES.items():
        for link in re.findall(r"\]\(([^)\s]+)\)", page):
            if "://" in link:
                continue
            file, _, anchor = link.partition("#")
            to = (ROOT / name).parent / file if file else ROOT / name
            assert to.exists(), f"{name}: {link}"
            heads = re.findall(r"^#+ (.+)", to.read_text("utf-8"), re.M) if anchor else []
            anchors = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in heads}
            assert not anchor or anchor in anchors, f"{name}: {link}"


def test_the_second_command_is_the_ci() -> None:
    blocks = re.findall(r"```sh\n(.+?)```", README, re.S)
    assert len(blocks[0].splitlines()) == 1 and blocks[0].endswith("&& .venv/bin/python app.py\n")
    assert blocks[1] == "bash .ci/run\n"
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
