"""Which experiments there are: the chapter's, by name, and anybody's own, by the path of a YAML or Python file."""

from __future__ import annotations

import ast
import hashlib
import runpy
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from pkgutil import walk_packages

from pydantic import ValidationError

from experiments import claims, declaration
from experiments.data import Data
from experiments.declaration import Experiment
from textmill.errors import UserError
from textmill.imports import imported_names
from textmill.settings import read_settings

__all__ = ["NAMES", "code_of", "load", "name_of"]

_CLAIMS = {
    module.name.rpartition(".")[2]: module.name
    for module in walk_packages(claims.__path__, f"{claims.__name__}.")
    if not module.ispkg
}
NAMES = tuple(sorted(_CLAIMS))


def name_of(which: str) -> str:
    """The name of an experiment that is given by name or path."""
    return Path(which).stem


def file_of(which: str) -> Path:
    """The file that declares an experiment.

    Raises:
        UserError: it is not there.
    """
    path = Path(str(import_module(_CLAIMS[which]).__file__)) if which in NAMES else Path(which)
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; give the path of a YAML or Python file of an experiment")
    return path


def code_of(which: str) -> str:
    """SHA-256 of the code that measures: an experiment's file without its EXPERIMENT, and the modules of `experiments`
    that it imports. What these import from the rest of Textmill is versioned otherwise.

    Raises:
        UserError: its file is not there.
    """
    file = file_of(which)
    parts = {"": "\n".join(ast.unparse(_measuring(node)) for node in ast.parse(file.read_text("utf-8")).body)}
    waiting = {*_imported(file)}
    while waiting:
        name = waiting.pop()
        helper = Path(str(import_module(name).__file__))
        parts[name] = helper.read_text("utf-8")
        waiting |= {*_imported(helper)} - parts.keys()
    return hashlib.sha256("\0".join(f"{name}\0{parts[name]}" for name in sorted(parts)).encode()).hexdigest()


def _measuring(node: ast.stmt) -> ast.AST:
    """A statement as it is; of the EXPERIMENT only what it gives as `measure`: another claim about what is measured
    asks for no other measurement."""
    if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["EXPERIMENT"]:
        given = node.value.keywords if isinstance(node.value, ast.Call) else []
        return ast.List([each.value for each in given if each.arg == "measure"], ast.Load())
    return node


def _imported(file: Path) -> Iterator[str]:
    """Names of the modules of `experiments` that a file imports, anywhere; how claims are declared does not count."""
    for name in imported_names(file):
        if name.startswith("experiments.") and name != declaration.__name__ and _is_module(name):
            yield name


def _is_module(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # a name within a module
        return False


def load(which: str, data: Callable[[], Data] = Data) -> Experiment:
    """The experiment of a name, or that a file declares.

    Args:
        which: name or path.
        data: gives what the configuration says about its text, to an experiment that is about it.

    Raises:
        UserError: there is none of that name, the file cannot be read, or has a mistake.
    """
    if which in NAMES:
        module = import_module(_CLAIMS[which])
        declared: Experiment = module.experiment(data()) if hasattr(module, "experiment") else module.EXPERIMENT
        return declared
    path = Path(which)
    match path.suffix:
        case ".yaml" | ".yml":
            return read_settings(path, Experiment, context="yaml")
        case ".py":
            return _of_module(path)
    raise UserError(
        f"there is no experiment {which!r}; the experiments are {', '.join(NAMES)}, or give the path of a .yaml or .py "
        "file of your own"
    )


def _of_module(path: Path) -> Experiment:
    """What a Python file gives as EXPERIMENT. It is run, as any program is."""
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; give the path of a Python file with an EXPERIMENT")
    try:
        declared = runpy.run_path(str(path)).get("EXPERIMENT")
    except ValidationError as error:
        [mistake, *_] = error.errors(include_url=False)
        place = ".".join(map(str, mistake["loc"]))
        raise UserError(
            f"{path}: {place}: {mistake['msg'].removeprefix('Value error, ')}".replace(": : ", ": ")
        ) from error
    except Exception as error:
        raise UserError(f"{path}: {type(error).__name__}: {error}") from error
    if not isinstance(declared, Experiment):
        raise UserError(f"{path}: it gives no EXPERIMENT = Experiment(...), from experiments.declaration")
    return declared
