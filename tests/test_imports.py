"""Structure of the package: imports run one way, the command line starts light, only it prints."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import elastictool

PACKAGE = Path(elastictool.__file__).parent
ROOMS = (
    "cli", "recipes", "reporting", "evaluation", "inference", "training", "checkpoint",
    "pretrained", "models", "data", "packing", "metrics", "corpora", "audio", "config", "utils",
)  # fmt: skip
FILES = sorted(PACKAGE.rglob("*.py"))
TESTS = Path(__file__).parent


def _floor(parts: tuple[str, ...]) -> int:
    """Height of a module in the house; the version is on the ground."""
    if not parts or parts[0] == "__version__":
        return 0
    return len(ROOMS) - ROOMS.index(parts[0])


def _imports(tree: ast.AST) -> Iterator[tuple[str, ...]]:
    """Modules of the package that a file imports anywhere, as paths below the package."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where a room reaches"
            names = [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from (
            tuple(name.split(".")[1:]) for name in names if name.split(".")[0] == "elastictool"
        )


def _ids(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


@pytest.mark.parametrize("path", FILES, ids=_ids)
def test_a_room_imports_only_rooms_below_it(path: Path) -> None:
    here = path.relative_to(PACKAGE).with_suffix("").parts
    if here in (("__main__",), ("__init__",)):
        return
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for target in _imports(tree):
        same_room = len(here) > 1 and target[:1] == here[:1]
        assert same_room or _floor(target) < _floor(here), (
            f"{'.'.join(here)} imports {'.'.join(target)}"
        )


def test_no_circle_of_files() -> None:
    """Imports within functions count too: they may delay a library, not hide a circle."""
    modules = {path.relative_to(PACKAGE).with_suffix("").parts for path in FILES}
    graph: dict[tuple[str, ...], set[tuple[str, ...]]] = {}
    for path in FILES:
        here = path.relative_to(PACKAGE).with_suffix("").parts
        if here == ("__init__",):  # the public names, imported when they are asked for
            continue
        targets = set(_imports(ast.parse(path.read_text(encoding="utf-8"))))
        graph[here] = {target for target in targets if target in modules and target != here}
    sorter = TopologicalSorter(graph)
    try:
        sorter.prepare()
    except CycleError as error:
        pytest.fail(" -> ".join("/".join(module) for module in error.args[1]))


def test_test_modules_share_code_through_helpers_only() -> None:
    """What two test modules need lies in ``tests/helpers/``: each can be run and changed alone."""
    for path in TESTS.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                continue
            wrong = [name for name in names if name.startswith("tests.test_")]
            assert not wrong, f"{path.relative_to(TESTS)} imports {wrong[0]}"


def test_every_folder_is_a_room_of_the_house() -> None:
    folders = {path.relative_to(PACKAGE).parts[0] for path in FILES if path.parent != PACKAGE}
    modules = {path.stem for path in FILES if path.parent == PACKAGE}
    assert folders <= {*ROOMS}
    assert modules <= {"__init__", "__main__"}


@pytest.mark.parametrize("path", FILES, ids=_ids)
def test_only_the_command_line_prints_and_knows_typer(path: Path) -> None:
    if path.relative_to(PACKAGE).parts[0] in ("cli", "__main__.py"):
        return
    tree = ast.parse(path.read_text(encoding="utf-8"))
    called = {
        node.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert "print" not in called
    imported = {
        alias.name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    } | {
        str(node.module).split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
    }
    assert not imported & {"typer", "rich"}


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        (
            "elastictool.cli.app",
            ("torch", "torchaudio", "numpy", "scipy", "sklearn", "matplotlib", "pyarrow"),
        ),
        ("elastictool.config.loader", ("torch", "numpy")),
        ("elastictool.packing.batching", ("torch",)),
        ("elastictool.reporting.runs", ("torch", "matplotlib", "sklearn", "scipy", "pyarrow")),
        ("elastictool.evaluation.tokens", ("torch", "matplotlib", "pyarrow")),
    ],
)
def test_light_modules_do_not_load_heavy_ones(module: str, heavy: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print(*[m for m in {heavy!r} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == []
