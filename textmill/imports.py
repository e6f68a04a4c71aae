"""Which of a user's own files a module runs on: itself, and what it imports from other files of the user's.

Found by reading, without running anything: every `import` counts, inside functions too, relative ones and packages
included. What belongs to the standard library, to an installed distribution (site-packages) or to Textmill does not:
those are versioned otherwise. An import that is computed at run time (`importlib.import_module(name)`) cannot be seen,
and neither can a file that is read as data.
"""

from __future__ import annotations

import ast
import importlib.util
import pkgutil
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

__all__ = ["imported_names", "own_files"]

TEXTMILL = {"flows", "modeling", "scraping", "textmill", "tokenization"}  # a `benchmarks` may well be the user's
READERS = "scraping.sources."  # the readers that come with Textmill, each with what lies beside it
INSTALLED = {"site-packages", "dist-packages"}


def own_files(*modules: str) -> dict[str, Path]:
    """The user's own files among these modules and what they import, transitively, by the modules' names.

    Packages that a module lies in are among them, as they run first.
    """
    found: dict[str, Path] = {}
    waiting = [name for module in modules for name in _with_packages(module)]
    seen = set(waiting)
    while waiting:
        name = waiting.pop()
        spec = _find(name) if _may_be_own(name) else None
        if spec is None or not spec.origin or INSTALLED & set(Path(spec.origin).parts):
            continue
        file = Path(spec.origin)
        if not file.is_file():  # a module that is built in, or in an archive
            continue
        found[name] = file
        package = name if spec.submodule_search_locations is not None else name.rpartition(".")[0]
        imported = set(imported_names(file, package)) if file.suffix == ".py" else set()
        waiting += imported - seen
        seen |= imported
    return found


def _may_be_own(name: str) -> bool:
    top = name.partition(".")[0]
    return name.startswith(READERS) if top in TEXTMILL else top not in sys.stdlib_module_names


def _with_packages(name: str) -> list[str]:
    """A module's name after those of the packages that it lies in: a, a.b, a.b.c."""
    parts = name.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts) + 1)]


def imported_names(file: Path, package: str = "") -> Iterator[str]:
    """Names of the modules that the source in `file` may import, each after the packages that it lies in. What `from a
    import b` names may be a module or not. Nothing of a source that cannot be parsed.

    Args:
        file: the source.
        package: the one that it lies in, or is, from which relative imports go.
    """
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):  # nothing is imported from where it fails
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _with_packages(alias.name)
        elif isinstance(node, ast.ImportFrom):
            try:
                module = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            except ImportError:  # beyond the outermost package: it fails where it is run
                continue
            yield from _with_packages(module)
            for alias in node.names:
                names = [alias.name] if alias.name != "*" else _submodules(module)
                yield from (f"{module}.{name}" for name in names)


def _submodules(package: str) -> list[str]:
    """What `from package import *` may import, if its `__all__` says so."""
    spec = _find(package) if _may_be_own(package) else None
    return [module.name for module in pkgutil.iter_modules((spec and spec.submodule_search_locations) or [])]


def _find(name: str) -> ModuleSpec | None:
    """Where the import of a module would find it; unlike `importlib.util.find_spec` it imports no package for that."""
    top, *inner = name.split(".")
    # the finders beside Python's own know packages that were installed as editable
    others = (finder.find_spec(top, None) for finder in sys.meta_path)
    spec = PathFinder.find_spec(top) or next(filter(None, others), None)
    for part in inner:
        if spec is None or spec.submodule_search_locations is None:
            return None
        spec = PathFinder.find_spec(part, list(spec.submodule_search_locations))
    if spec is not None:
        spec.name = name
    return spec
