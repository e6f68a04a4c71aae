"""python -m benchmarks NAME [--quick] [--json]: run a comparison with the peers.

NAME is a module of this package with `run(quick: bool) -> list[Row]`. `--quick` ends within a minute; `--json` adds one
object as the last line.
"""

import argparse
import importlib
import sys
from pathlib import Path

from benchmarks.report import as_json, print_table


def available() -> list[str]:
    """Names of the benchmarks."""
    files = Path(__file__).parent.glob("*.py")
    return sorted(f.stem.replace("_", "-") for f in files if "\ndef run(" in f.read_text("utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Compare Textmill with its peers.")
    parser.add_argument("name", choices=available())
    parser.add_argument("--quick", action="store_true", help="fewer repetitions; ends within a minute")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    arguments = parser.parse_args()
    module = importlib.import_module(f"benchmarks.{arguments.name.replace('-', '_')}")
    rows = module.run(arguments.quick)
    print_table(rows)
    if arguments.json:
        print(as_json(arguments.name, rows))


if __name__ == "__main__":
    sys.exit(main())
