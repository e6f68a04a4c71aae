"""`textmill reproduce`, `fetch`, `verify` and `gc`: what the artifacts of a store say, and which of them may go."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.document import AsJson, print_document, steps_of

if TYPE_CHECKING:
    from flows.pipeline.config import PipelineConfig
    from flows.store.local import Store


def register(app: typer.Typer) -> None:
    app.command()(reproduce)
    app.command()(fetch)
    app.command()(verify)
    app.command()(gc)


Location = Annotated[str, typer.Argument(metavar="ARTIFACT", help="STORE/STAGE/FINGERPRINT; the store may be a URL")]


def reproduce(
    artifact: Location,
    out: Annotated[
        Path | None, typer.Option(help="New folder for the configuration; reproduced-FINGERPRINT if left out")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write the configuration that an artifact was made with, its sources included, and say what a run would do now."""
    from flows.cli.pipeline import print_steps
    from flows.engine.materialize import code_version
    from flows.pipeline.config import load_config
    from flows.pipeline.plan import plan
    from flows.pipeline.reproduce import write_configuration
    from flows.pipeline.selection import Selection
    from flows.store.open import open_artifact
    from textmill.errors import UserError

    found = open_artifact(artifact)
    stage, made_by = found.manifest.stage, found.manifest.code
    configuration = write_configuration(found, out or Path(f"reproduced-{found.manifest.fingerprint}"))
    try:
        loaded = load_config(configuration)
        steps = plan(loaded, Selection(until=stage))
    except UserError as error:
        if as_json:
            print_document({"configuration": configuration, "mistake": str(error)})
            return
        typer.echo(f"Wrote {configuration}. Before it can be run: {error}")
        return
    if as_json:
        versions = {"made_by": made_by, "this_is": code_version()}
        print_document({"configuration": configuration, **versions, "plan": steps_of(steps)})
        return
    print_steps(steps, loaded.name)
    if made_by != code_version():
        typer.echo(f"It was made by textmill {made_by}; this is {code_version()}.")
    stands = all(step.action in ("reuse", "skip") for step in steps if step.stage != stage)
    again = f"--only {stage} --force {stage}" if stands else ""
    typer.echo(f"Wrote {configuration}. Build it again: textmill run {configuration} {again}".strip())


def fetch(artifact: Location) -> None:
    """Have the files of an artifact on this machine, and print their folder. Those of a bucket are downloaded, once."""
    from flows.store.open import open_artifact

    typer.echo(str(open_artifact(artifact).fetch()))


def verify(
    config: Annotated[
        Path | None, typer.Argument(metavar="[CONFIG]", help="Read only the artifacts that this configuration uses")
    ] = None,
    store: Annotated[str, typer.Option(help="The store, where no CONFIG names one: a folder or a URL")] = "store",
    as_json: AsJson = False,
) -> None:
    """Read every file of a store and compare it with what was sealed; exit code 1 if any is damaged."""
    from dataclasses import asdict

    from flows.cli.progress import progress_bar
    from flows.pipeline.verify import to_read
    from flows.pipeline.verify import verify as verify_artifacts

    opened, names = to_read(config, store)
    with progress_bar("reading") as progress:
        verification = verify_artifacts(opened, names, progress)
    if as_json:
        print_document(asdict(verification))
    else:
        for found in verification.damaged:
            typer.echo(f"{found.location} ({found.title}) is damaged: {found.damage}")
        typer.echo(verification.summary)
        if verification.damaged:
            typer.echo(verification.remedy(str(config or "")))
    raise typer.Exit(1 if verification.damaged else 0)


def gc(
    configs: Annotated[
        list[Path] | None, typer.Argument(metavar="[CONFIG]...", help="What to keep for; configs/*.yaml if left out")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be deleted")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete the artifacts that no configuration refers to, and what interrupted builds left behind.

    Runs with `--set` or a changed form made artifacts of their own: they go too, unless a configuration names the same
    settings. The last comparison of each experiment stays, with its models. Use it while nothing runs.
    """
    from rich.console import Console
    from rich.markup import escape

    from flows.pipeline.config import load_config
    from flows.pipeline.gc import garbage
    from flows.store.open import open_store
    from textmill.disk import one_line_of_disk
    from textmill.errors import UserError

    paths = configs or sorted(Path("configs").glob("*.yaml"))
    if not paths:
        raise UserError("there is no configs/*.yaml here: name the configurations whose artifacts are to be kept")
    loaded = [load_config(path) for path in paths]
    console = Console(highlight=False, soft_wrap=True)
    removed: list[dict[str, Any]] = []
    stores: dict[Path, tuple[Store, list[PipelineConfig]]] = {}
    for config in loaded:
        store = open_store(config.store)
        stores.setdefault(store.root.resolve(), (store, []))[1].append(config)
    for store, keeping in stores.values():
        for item in list(garbage(store, keeping)):
            if not dry_run:
                with one_line_of_disk(store.root):
                    item.remove()
            removed.append({"location": item.location, "bytes": item.size, "why": item.why})
            if not as_json:
                console.print(f"{escape(str(item.location))}  {item.size / 1e6:,.1f} MB  [dim]{escape(item.why)}[/]")
    freed = sum(item["bytes"] for item in removed)
    if as_json:
        print_document({"dry_run": dry_run, "bytes": freed, "removed": removed, "kept_for": paths})
        return
    done = "would be freed" if dry_run else "freed"
    typer.echo(f"{freed / 1e6:,.1f} MB {done}; kept what belongs to {', '.join(map(str, paths))}")
