"""The command line of the benchmarks: finds them, reads their options, prints their rows."""

from __future__ import annotations

import argparse
import ast
import importlib
import sys
from pathlib import Path
from typing import NoReturn

from benchmarks.support.report import as_json, print_table


class Parser(argparse.ArgumentParser):
    """A parser that says what is wrong in one line, without the usage before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def benchmarks() -> dict[str, str]:
    """Docstrings of the benchmarks by name, read without importing them, which would take seconds."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        module = ast.parse(path.read_text("utf-8"))
        if any(isinstance(node, ast.FunctionDef) and node.name == "run" for node in module.body):
            found[path.stem.replace("_", "-")] = ast.get_docstring(module) or ""
    return found


def main() -> None:
    """Run one benchmark."""
    parser = Parser(prog="python -m benchmarks", description="Compare Textmill with its peers.")
    names = parser.add_subparsers(dest="name", metavar="NAME", required=True, title="benchmarks")
    wanted = sys.argv[1] if len(sys.argv) > 1 else None
    for name, description in benchmarks().items():
        one = names.add_parser(
            name,
            help=description.partition("\n\n")[0].replace("\n", " "),
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        one.add_argument("--quick", action="store_true", help="fewer repetitions and sizes; ends within a minute")
        one.add_argument("--json", action="store_true", help="end with one line of JSON")
        if name == wanted:
            module = importlib.import_module(f"benchmarks.{name.replace('-', '_')}")
            if hasattr(module, "options"):
                module.options(one)
    arguments = vars(parser.parse_args())
    name, json = arguments.pop("name"), arguments.pop("json")
    rows = module.run(**arguments)
    print_table(rows)
    if json:
        print(as_json(name, rows))


if __name__ == "__main__":
    main()
