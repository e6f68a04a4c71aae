"""Who may import whom (pyproject.toml, ARCHITECTURE.md): the contracts hold, no circles, no crowded rooms."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = [*PYPROJECT["tool"]["importlinter"]["root_packages"], "benchmarks"]
MOST_MODULES = 16  # of a room


def modules() -> dict[str, Path]:
    """Files of the packages by the name under which they are imported."""
    files = [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files]
    return dict(zip(names, files, strict=True))


def imported(source: str) -> set[str]:
    """Names that a file imports anywhere: at the top, inside functions, for type checkers."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"write whole names, not `from {'.' * node.level}{node.module or ''} import`"
            names |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def circle(graph: dict[str, set[str]]) -> list[str] | None:
    """Modules that import each other in a circle, if there are any."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return None


def test_the_import_contracts_hold():
    contracts = PYPROJECT["tool"]["importlinter"]["contracts"]
    lint = Path(sys.executable).parent / "lint-imports"
    result = subprocess.run([lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
    assert f"{len(contracts)} kept, 0 broken" in result.stdout


def test_no_files_import_each_other_in_a_circle():
    files = modules()
    graph = {name: imported(file.read_text("utf-8")) & files.keys() - {name} for name, file in files.items()}
    assert sum(map(len, graph.values())) > 100
    assert circle(graph) is None


@pytest.mark.parametrize(
    "source",
    [
        "import a.b",
        "from a import b",
        "from a.b import c",
        "def f():\n    import a.b",
        "if TYPE_CHECKING:\n    import a.b",
    ],
)
def test_an_import_is_found_wherever_it_stands(source):
    assert circle({"a.b": {"d"}, "d": imported(source) & {"a.b"}})


def test_the_ground_floor_stands_on_the_standard_library_pydantic_and_yaml():
    allowed = {"textmill", "pydantic", "pydantic_core", "yaml", *sys.stdlib_module_names}
    kernels = "textmill.kernels"  # which have a contract of their own
    names = [name for name in modules() if name.startswith("textmill") and not name.startswith(kernels)]
    sources = [modules()[name].read_text("utf-8") for name in names]
    assert {name.partition(".")[0] for source in sources for name in imported(source)} <= allowed


def test_no_room_is_crowded():
    rooms = Counter(file.parent.relative_to(ROOT) for file in modules().values() if file.name != "__init__.py")
    assert not {str(room): count for room, count in rooms.items() if count > MOST_MODULES}
