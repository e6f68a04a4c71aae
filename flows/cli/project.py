"""`textmill init`: a project of one's own; `textmill compile`: what an installation needs once."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

TEMPLATES = Path(__file__).parent / "templates"
DEMO_SOURCE = "python-docs"


def register(app: typer.Typer) -> None:
    app.command()(init)
    app.command("compile")(compile_kernels)


def init(
    folder: Annotated[Path, typer.Argument(help="New folder of the project, or an empty one")],
    site: Annotated[
        str | None, typer.Option(metavar="URL", help="The site to crawl; some of its pages are looked at")
    ] = None,
    demo: Annotated[bool, typer.Option("--demo", help="Crawl the Python documentation that Textmill serves")] = False,
    contact: Annotated[str, typer.Option(help="Where the site's owner can reach you")] = "$TEXTMILL_CONTACT",
    private: Annotated[bool, typer.Option("--private", help="Also connect to addresses that are not public")] = False,
) -> None:
    """Begin a project: a pipeline in configs/, a source in sources/, a README. On a terminal it asks what is not given.

    `textmill run` and `textmill up` work in its folder.
    """
    from textmill.errors import UserError

    if site and demo:
        raise UserError("--site and --demo are two projects: leave out one of them")
    if not (site or demo):
        if not sys.stdin.isatty():
            raise UserError("what is to be crawled? Say --site URL, or --demo for the Python documentation")
        site = typer.prompt("The site to crawl (empty: the Python documentation, as a demo)", default="").strip()
    with _refusals():
        if folder.is_file():
            raise UserError(f"{folder} is a file: choose another folder")
    if site and "$" in contact and os.path.expandvars(contact) == contact and sys.stdin.isatty():
        contact = typer.prompt("Where its owner can reach you: an e-mail address or a URL")
    files = _demo() if not site else _of_site(site, folder, contact, private=private)
    with _refusals():
        taken = [name for name in files if (folder / name).exists()]
        if taken:
            raise UserError(f"{folder} has a {taken[0]} already: choose another folder")
        for name, text in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    config = next(name for name in files if name.startswith("configs/"))
    typer.echo(f"Wrote {', '.join(str(folder / name) for name in files)}")
    typer.echo(f"Now: cd {folder} && textmill run {config}, or textmill up for schedules and pages to watch")


@contextmanager
def _refusals() -> Iterator[None]:
    """Say in one line what the file system refuses."""
    from textmill.errors import UserError

    try:
        yield
    except OSError as error:
        raise UserError(f"cannot use {error.filename}: {error.strerror}; choose another folder") from error


def _demo() -> dict[str, str]:
    described = {
        "name": "demo",
        "description": "The Python documentation, from web pages to a small language model",
        "source": DEMO_SOURCE,
        "blank": "The function returns a [MASK] of strings.",
    }
    return _rendered(described, demo=True)


def _of_site(site: str, folder: Path, contact: str, *, private: bool) -> dict[str, str]:
    from scraping.crawling.declare import declare
    from scraping.crawling.source import name_from

    host = urlsplit(site if "://" in site else f"https://{site}").hostname or ""
    source = name_from(host.removeprefix("www.")) or "site"
    declaration = declare(site, contact, f"sources/{source}.yaml", private_addresses=private)
    described = {
        "name": name_from(folder.absolute().name) or source,
        "description": f"{host}, from web pages to a small language model",
        "source": source,
        "blank": "This page is about the [MASK].",
    }
    return {**_rendered(described, demo=False), f"sources/{source}.yaml": declaration}


def _rendered(described: dict[str, str], *, demo: bool) -> dict[str, str]:
    """The files of a project by their paths."""
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(loader=FileSystemLoader(TEMPLATES), keep_trailing_newline=True, autoescape=False)
    places = {
        f"configs/{described['name']}.yaml": "pipeline.yaml",
        "README.md": "README.md",
        ".gitignore": "gitignore",
    }
    return {
        place: environment.get_template(template).render(**described, demo=demo) for place, template in places.items()
    }


def compile_kernels() -> None:
    """Compile the inner loops now, once for an installation, and not when they are first needed. Takes a minute."""
    from flows.engine.precompile import precompile

    precompile()
    typer.echo("All kernels are compiled.")
