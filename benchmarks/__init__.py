"""Comparisons with the peers: `python -m benchmarks NAME [--quick] [--json]`, `--help` for the options of each.

A benchmark is a module of this package with

    def run(quick: bool, ...) -> list[Row]                  # measures, and ends within a minute if `quick`
    def options(parser: argparse.ArgumentParser) -> None    # declares the further parameters of `run`, if it has any

Its name on the command line is that of the module, with hyphens. `support` has what they share: texts, training data,
timing in turn, rows. Results are kept in RESULTS.md.
"""
