"""The shape of the project: imports go one way, files stay small, nothing unsafe is called, the
import is quick."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "latentmem"

# A room may import the rooms of lower rows only. A folder stands for all its files, which may
# import each other.
LEVELS: tuple[tuple[str, ...], ...] = (
    ("records", "settings", "files"),
    ("model", "bank"),
    ("method",),
    ("engine",),
    ("evaluation",),
    ("ui",),
    ("bench",),
    ("cli",),
    ("__main__", "app"),
)
LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}
TOP_LEVEL = {
    "app.py",
    "latentmem",
    "assets",
    "examples",
    "tests",
    "requirements.txt",
    "README.md",
    "pyproject.toml",
    "LICENSE",
}
FORBIDDEN_IMPORTS = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal"}
FORBIDDEN_CALLS = {"eval", "exec"}
HEAVY = (
    "torch",
    "transformers",
    "gradio",
    "sentence_transformers",
    "sklearn",
    "plotly",
    "peft",
    "pydantic",
    "numpy",
)
MAX_FILE, MAX_FUNCTION = 700, 65


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(tree(path)))


def sources(*folders: str) -> list[Path]:
    """The Python files of the repository, or of some of its folders."""
    found = [ROOT / "app.py"] if not folders and (ROOT / "app.py").exists() else []
    return found + [
        p
        for f in folders or ("latentmem", "examples", "tests")
        for p in sorted((ROOT / f).rglob("*.py"))
    ]


def package_files() -> list[Path]:
    return [*sources("latentmem"), *(p for p in [ROOT / "app.py"] if p.exists())]


def unit(path: Path) -> str:
    """The name that stands in LEVELS for a file: its module, or its first folder."""
    return (
        path.relative_to(PACKAGE).with_suffix("").parts[0]
        if path.is_relative_to(PACKAGE)
        else path.stem
    )


@cache
def imports(path: Path) -> tuple[tuple[str, int], ...]:
    """(absolute name, line) of all that a file imports at run time, also inside functions; not
    under TYPE_CHECKING."""
    return tuple(_imports(path))


def _imports(path: Path, also_for_types: bool = False) -> Iterator[tuple[str, int]]:
    inside = (
        ["latentmem", *path.relative_to(PACKAGE).parts[:-1]] if path.is_relative_to(PACKAGE) else []
    )
    typing_only = {
        id(n)
        for block in nodes(path)
        if isinstance(block, ast.If)
        and isinstance(block.test, (ast.Name, ast.Attribute))
        and "TYPE_CHECKING" in ast.unparse(block.test)
        for s in block.body
        for n in ast.walk(s)
    }
    for node in nodes(path):
        if id(node) in typing_only and not also_for_types:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = inside[: len(inside) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            # `from . import x` and `from latentmem import x` name modules or exports of the package
            yield from ((f"{module}.{alias.name}", node.lineno) for alias in node.names)


def own_unit(name: str) -> str | None:
    """The unit of our own package that an import names, None for all others and for the package's
    exports."""
    parts = name.split(".")
    return parts[1] if parts[0] == "latentmem" and len(parts) > 1 and parts[1] in LEVEL else None


def test_every_module_has_a_level() -> None:
    units = {unit(p) for p in sources("latentmem")} - {"__init__"}
    assert units <= set(LEVEL), f"put {sorted(units - set(LEVEL))} into LEVELS"
    assert len(LEVEL) == sum(map(len, LEVELS)), "a name stands in LEVELS twice"


def test_imports_go_one_way() -> None:
    wrong = []
    for path in [p for p in package_files() if unit(p) in LEVEL]:
        for name, line in imports(path):
            theirs = own_unit(name)
            peers = ("records", "settings", "files")
            inside = theirs == unit(path) or (theirs in peers and unit(path) in peers)
            if theirs and not inside and LEVEL[theirs] >= LEVEL[unit(path)]:
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    assert not wrong, wrong


def test_no_imports_go_in_a_circle() -> None:
    """Not even those for types."""
    names = {
        ".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p
        for p in sources("latentmem")
    }
    graph = {
        name: {
            found if found in names else found.rpartition(".")[0]
            for found, _ in _imports(path, also_for_types=True)
        }
        - {name}
        for name, path in names.items()
    }
    TopologicalSorter(graph).prepare()  # raises CycleError, which lists the circle


def test_the_package_never_imports_tests_or_examples() -> None:
    wrong = [
        f"{p}:{line} imports {name}"
        for p in sources("latentmem")
        for name, line in imports(p)
        if name.split(".")[0] in ("tests", "examples", "app")
    ]
    assert not wrong, wrong


def test_nothing_reads_pickles() -> None:
    wrong = [
        f"{p}:{line} imports {name}"
        for p in sources()
        for name, line in imports(p)
        if name.split(".")[0] in FORBIDDEN_IMPORTS
    ]
    assert not wrong, wrong


def test_no_foreign_code_is_run() -> None:
    wrong = []
    for path in sources():
        for node in nodes(path):
            if not isinstance(node, ast.Call):
                continue
            if isinstance(node.func, ast.Name) and node.func.id in FORBIDDEN_CALLS:
                wrong.append(f"{path}:{node.lineno} calls {node.func.id}")
            for keyword in node.keywords:
                if keyword.arg == "trust_remote_code" and ast.unparse(keyword.value) != "False":
                    wrong.append(
                        f"{path}:{node.lineno} trust_remote_code={ast.unparse(keyword.value)}"
                    )
                if keyword.arg == "weights_only" and ast.unparse(keyword.value) != "True":
                    wrong.append(f"{path}:{node.lineno} weights_only={ast.unparse(keyword.value)}")
    assert not wrong, wrong


def test_files_and_functions_stay_small() -> None:
    wrong = []
    for path in sources():
        name = path.relative_to(ROOT).as_posix()
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > MAX_FILE:
            wrong.append(f"{name}: {lines} lines")
        wrong += [
            f"{name}: {n.name}: {n.end_lineno - n.lineno + 1} lines"
            for n in nodes(path)
            if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))
            and n.end_lineno - n.lineno + 1 > MAX_FUNCTION
        ]
    assert not wrong, wrong


def test_the_top_level_is_as_agreed() -> None:
    done = subprocess.run(
        ["git", "-c", f"safe.directory={ROOT}", "ls-files"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    tracked = {line.split("/")[0] for line in done.stdout.splitlines()}
    assert {name for name in tracked if not name.startswith(".")} <= TOP_LEVEL


def test_import_is_quick_and_light() -> None:
    """Judged by what is loaded and by the process's own CPU time, which other work on the machine
    does not lengthen."""
    code = (
        "import time; t = time.process_time(); import latentmem, sys; t = time.process_time() - t; "
        f"print(t, [m for m in {HEAVY} if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    seconds, _, loaded = done.stdout.strip().partition(" ")
    assert loaded == "[]"
    assert float(seconds) < 0.3


def test_the_lazy_names_are_there() -> None:
    import latentmem
    from latentmem import records, settings

    assert latentmem.Problem is records.Problem and latentmem.Settings is settings.Settings
    assert set(latentmem.__all__) == set(dir(latentmem))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = latentmem.nothing
