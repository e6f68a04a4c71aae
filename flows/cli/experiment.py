"""`textmill experiment`: list, plan, run, all, report."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows.cli.document import AsJson, print_document, steps_of
from flows.cli.pipeline import Overrides

if TYPE_CHECKING:
    from flows.pipeline.experiments.estimate import PlannedRun
    from flows.pipeline.experiments.trials import Campaign

app = typer.Typer(help="Put claims to the test: the report's, or your own.", no_args_is_help=True)

Names = Annotated[
    list[str], typer.Argument(metavar="NAME…", help="Experiments by name, or paths of YAML or Python files of your own")
]
Config = Annotated[
    Path | None,
    typer.Option("--config", help="The pipeline that the variants change, where an experiment names none itself"),
]
Seeds = Annotated[int | None, typer.Option(help="Run every variant so many times, in place of what is declared")]
Quick = Annotated[bool, typer.Option("--quick", help="Only try whether it runs: small settings, one seed, no verdict")]
Extend = Annotated[
    bool, typer.Option("--extend", help="Go on where the best value of a sweep is the last of those tried")
]


ROOM_FOR_COSTS = 140  # columns of a terminal


def register(to: typer.Typer) -> None:
    to.add_typer(app, name="experiment")


@app.command("list")
def list_experiments(as_json: AsJson = False) -> None:
    """The claims of the report, and what the kept figures say of each."""
    from experiments.catalog import NAMES, load
    from flows.pipeline.experiments.keeping import verdicts

    known = verdicts()
    if as_json:
        print_document([{"experiment": n, "claim": load(n).claim, "verdicts": known.get(n, {})} for n in NAMES])
        return
    table = Table("experiment", "claim", "verdict", box=None)
    for name in NAMES:
        verdict = ", ".join(f"{verdict} (on {pipeline})" for pipeline, verdict in known.get(name, {}).items())
        table.add_row(name, escape(load(name).claim), escape(verdict) or "not run")
    Console().print(table)


@app.command()
def plan(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME…]", help="Those; without names all of the report")
    ] = None,
    config: Config = None,
    overrides: Overrides = [],  # noqa: B006
    seeds: Seeds = None,
    quick: Quick = False,
    extend: Extend = False,
    as_json: AsJson = False,
) -> None:
    """What would be reused and built, and how long that will take, by what was built before."""
    from experiments.catalog import NAMES
    from flows.pipeline.experiments.estimate import planned

    which = functools.partial(_campaigns, config=config, overrides=overrides, seeds=seeds, quick=quick, extend=extend)
    asked = which(names) if names else _that_fit(NAMES, which)[0]
    plans = {each.name: planned(each) for each in asked}
    if as_json:
        print_document([{"experiment": name, "runs": [_run_of(run) for run in runs]} for name, runs in plans.items()])
        return
    if len(plans) > 1:
        _print_plans(plans)
        return
    for name, runs in plans.items():
        _print_plan(name, runs)


@app.command()
def run(
    names: Names,
    config: Config = None,
    overrides: Overrides = [],  # noqa: B006
    seeds: Seeds = None,
    quick: Quick = False,
    extend: Extend = False,
    as_json: AsJson = False,
) -> None:
    """Run experiments, and keep what they come to in experiments/results. One that was killed goes on where it was."""
    _run_all(_campaigns(names, config, overrides, seeds=seeds, quick=quick, extend=extend), as_json=as_json)


@app.command("all")
def run_all(
    config: Config = None,
    overrides: Overrides = [],  # noqa: B006
    seeds: Seeds = None,
    quick: Quick = False,
    extend: Extend = False,
    as_json: AsJson = False,
) -> None:
    """Run every experiment of the report, one after the other."""
    from experiments.catalog import NAMES

    which = functools.partial(_campaigns, config=config, overrides=overrides, seeds=seeds, quick=quick, extend=extend)
    asked, unfit = _that_fit(NAMES, which)
    _run_all(asked, as_json=as_json, unfit=unfit)


@app.command()
def report(
    quick: Annotated[bool, typer.Option("--quick", help="Of what was only tried")] = False,
    results: Annotated[Path | None, typer.Option(help="Folder of the kept figures")] = None,
    out: Annotated[Path | None, typer.Option(help="The page to write; RESULTS.md is written beside it")] = None,
) -> None:
    """Write one page of all verdicts from the kept figures, and RESULTS.md beside it."""
    from flows.pipeline.experiments.chapter import write_chapter
    from flows.pipeline.experiments.keeping import RESULTS, kept

    folder = results or RESULTS
    page = out or (folder if quick else folder.parent) / "report.html"
    text = page.with_name("RESULTS.md")
    write_chapter(kept(folder, quick=quick), page, text)
    Console().print(f"Page: {page}\nText: {text}", soft_wrap=True)


def _campaigns(
    names: Sequence[str], config: Path | None, overrides: list[str], *, seeds: int | None, quick: bool, extend: bool
) -> list[Campaign]:
    from flows.pipeline.config import parse_overrides
    from flows.pipeline.experiments.trials import campaign
    from flows.pipeline.project import Project

    given = parse_overrides(overrides)
    path = config or Path(Project.open().main)
    return [campaign(name, path, given, seeds=seeds, quick=quick, extend=extend) for name in names]


def _that_fit(
    names: Sequence[str], which: Callable[[Sequence[str]], list[Campaign]]
) -> tuple[list[Campaign], dict[str, BaseException]]:
    """The experiments that can be run on a configuration, and why the others cannot, which is told at once."""
    from textmill.errors import UserError

    fit: list[Campaign] = []
    unfit: dict[str, BaseException] = {}
    for name in names:
        try:
            fit += which([name])
        except UserError as error:
            unfit[name] = error
            told = escape(f"{name} cannot be run on this configuration: {error}")
            Console(stderr=True).print(told, soft_wrap=True)
    if not fit:
        raise UserError(str(next(iter(unfit.values()))))
    return fit, unfit


def _run_all(asked: list[Campaign], *, as_json: bool, unfit: Mapping[str, BaseException] = {}) -> None:
    """Run them all; what fails does not keep the others from running, nor what does not fit."""
    from flows.service.embedded import served
    from flows.service.experiment import experiment as flow
    from flows.service.form import checked
    from textmill.errors import UserError

    for each in asked:
        checked(each.overrides)
    documents, failed = [], dict(unfit)
    with served():
        for each in asked:
            parameters = {
                "name": each.which, "seeds": each.experiment.seeds, "quick": each.quick, "extend": each.extend,
                "overrides": dict(each.overrides), "config": str(each.pipeline.path),
            }  # fmt: skip
            state: Any = flow(**parameters, return_state=True)
            outcome = state.result(raise_on_failure=len(asked) == 1)
            if isinstance(outcome, BaseException):
                failed[each.name] = outcome
                continue
            documents.append({"location": outcome.artifact.location, **outcome.artifact.stats})
            if not as_json:
                _print_result(outcome.artifact.stats)
                Console().print(f"Page: {outcome.artifact.location}/index.html", soft_wrap=True)
    if as_json:
        print_document(documents[0] if len(asked) == 1 else documents)
    if failed:
        raise UserError("; ".join(f"{name} failed: {error}" for name, error in failed.items()))


def _run_of(run: PlannedRun) -> dict[str, Any]:
    return {
        "variant": run.trial.variant, "point": dict(run.trial.point), "seed": run.trial.seed, "assumed": run.assumed,
        "reuse": run.reused, "build": run.built, "seconds": run.seconds, "plan": steps_of(run.steps),
    }  # fmt: skip


def _print_plans(plans: Mapping[str, Sequence[PlannedRun]]) -> None:
    """One line for each experiment. What two of them have in common is counted for both."""
    table = Table()
    for column in ("experiment", "runs", "reuse", "build", "about"):
        table.add_column(column, justify="left" if column in ("experiment", "about") else "right")
    for name, runs in plans.items():
        table.add_row(escape(name), *_counts(runs))
    everything = [run for runs in plans.values() for run in runs]
    table.add_section()
    table.add_row(f"{len(plans)} experiments", *_counts(everything))
    Console().print(table)


def _counts(runs: Sequence[PlannedRun]) -> tuple[str, str, str, str]:
    """How many runs, stages that are reused and built, and how long that takes."""
    reused, built = sum(run.reused for run in runs), sum(run.built for run in runs)
    return str(len(runs)), str(reused), str(built), _how_long(runs)


def _how_long(runs: Sequence[PlannedRun]) -> str:
    from textmill.progress import duration

    known = [run.seconds for run in runs if run.seconds is not None]
    unknown = len(runs) - len(known)
    told = [duration(sum(known))] * (sum(known) > 0) + [f"{unknown} runs like none before"] * (unknown > 0)
    return " and ".join(told)


def _print_plan(name: str, runs: Sequence[PlannedRun]) -> None:
    from textmill.progress import duration

    total = _how_long(runs)
    title = f"{name}: {len(runs)} runs" + f", about {total}" * bool(total)
    table = Table(title=escape(title), title_justify="left")
    for column in ("run", "reuse", "build", "about"):
        table.add_column(column, justify="left" if column == "run" else "right")
    for run in runs:
        title = run.trial.title + (" (if the sweep says so)" if run.assumed else "")
        seconds = "?" if run.seconds is None else duration(run.seconds) if run.built else ""
        table.add_row(escape(title), str(run.reused), str(run.built), seconds)
    Console().print(table)


def _print_result(stats: Mapping[str, Any]) -> None:
    from flows.engine.page import Text
    from flows.stages.comparison import findings_of, verdict_in_words
    from flows.stages.html import number

    lines = [stats["claim"], f"{verdict_in_words(stats)}."]
    lines += [f"- {each['says']}: {each['verdict']}. {each['because']}" for each in stats["judgements"]]
    lines += [f"- Not fair: {fault}" for fault in stats["faults"]]
    console = Console()
    console.print(escape("\n".join(lines)))
    for finding in findings_of(stats, costs=not console.is_terminal or console.width >= ROOM_FOR_COSTS):
        if isinstance(finding, Text):
            console.print(escape(finding.text))
            continue
        table = Table()
        for column in finding.head:
            table.add_column(column, justify="left" if column == "variant" else "right")
        for row in finding.rows:
            table.add_row(*(escape(number(cell)) for cell in row))
        console.print(table)
