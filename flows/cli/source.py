"""`textmill source`: the declared web sites."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.document import AsJson, print_document

if TYPE_CHECKING:
    from rich.console import Console

    from scraping.crawling.preview import PagePreview, SitePreview
    from scraping.crawling.source import Source

app = typer.Typer(no_args_is_help=True)

Contact = Annotated[str, typer.Option(help="Where the site's owner can reach you, if the source does not say")]
Private = Annotated[bool, typer.Option("--private", help="Also connect to addresses that are not public")]


@app.command("list")
def list_sources(as_json: AsJson = False) -> None:
    """List the sources of the project in the working directory, and those that come with Textmill."""
    from rich.console import Console
    from rich.markup import escape

    from scraping.crawling.source import OWN, load_source, shipped_sources

    own = sorted(path.stem for path in OWN.glob("*.yaml"))
    sources = {name: load_source(name) for name in dict.fromkeys([*own, *shipped_sources()])}
    if as_json:
        print_document([source.model_dump(mode="json") for source in sources.values()])
        return
    console = Console(highlight=False, soft_wrap=True)
    for name, source in sources.items():
        schedule = f"crawled at {source.schedule}" if source.schedule else "no schedule"
        console.print(f"[bold]{name}[/bold]  {escape(source.description)}")
        console.print(
            f"    {', '.join(source.hosts)}; extractor {source.extractor.kind}; {source.delay:g} s between requests; "
            f"fresh for {source.max_age.total_seconds() / 86400:g} days; {schedule}"
        )


@app.command()
def check(
    source: Annotated[str, typer.Argument(help="A shipped source, the path of a YAML file, or a URL")],
    pages: Annotated[int, typer.Option(min=1, max=50, help="How many pages to look at")] = 4,
    chars: Annotated[int, typer.Option(min=0, help="How many characters of each text to show")] = 600,
    contact: Contact = "$TEXTMILL_CONTACT",
    private: Private = False,
) -> None:
    """Fetch a handful of pages politely and show what a crawl would make of them; nothing is kept."""
    from rich.console import Console
    from rich.markup import escape

    from scraping.crawling.preview import Preview
    from scraping.crawling.source import load_source, source_of_url

    is_url = "://" in source
    declared = source_of_url(source, contact, private_addresses=private) if is_url else load_source(source)
    console = Console(highlight=False, soft_wrap=True)
    with Preview(declared) as preview:
        _show_site(console, declared, preview.site())
        for page in preview.pages(pages):
            _show_page(console, page, chars)
    if not is_url:
        console.print(f"\n  schedule  {escape(_schedule(declared))}")


@app.command()
def new(
    url: Annotated[str, typer.Argument(help="The site's URL")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write this file instead of printing")] = None,
    contact: Contact = "$TEXTMILL_CONTACT",
    private: Private = False,
) -> None:
    """Look at a site and print a commented source for it."""
    from scraping.crawling.declare import declare
    from scraping.crawling.source import OWN, load_source
    from textmill.errors import UserError

    if output and output.exists():
        raise UserError(f"{output} exists already: choose another file.")
    if output and output.parent != OWN and not output.parent.is_dir():
        raise UserError(f"there is no folder {output.parent}: create it, or choose another file.")
    text = declare(url, contact, str(output or "FILE.yaml"), private_addresses=private)
    if output:
        output.parent.mkdir(exist_ok=True)  # sources/, if it is not there yet
        output.write_text(text)
        typer.echo(f"Wrote {output}. Read it, then try it: textmill source check {output}", err=True)
        typer.echo(f"Schedule: {_schedule(load_source(output))}", err=True)
    else:
        typer.echo(text, nl=False)


def _schedule(source: Source) -> str:
    """How a source comes to be crawled by itself, from the working directory."""
    from flows.pipeline.project import Project
    from textmill.errors import UserError

    if source.schedule is None:
        return f"none; write `schedule: {{cron: '0 3 * * 0'}}` into the file to have scrape/{source.name} run by itself"
    try:
        crawls = {crawl.source.name: crawl for crawl in Project.open().crawls()}
    except UserError as error:
        return f"{source.schedule}, once it is part of a project ({error})"
    crawl = crawls.get(source.name)
    if crawl is None or crawl.source != source:
        return f"{source.schedule}, once the file lies in sources/ or a file of configs/ names it"
    if not crawl.wanted:
        return f"{source.schedule}, once a file of configs/ names it; until then scrape/{source.name} is switched off"
    return f"textmill deploy (or up), then it is crawled at {source.schedule} by scrape/{source.name}"


def _show_site(console: Console, source: Source, site: SitePreview) -> None:
    from rich.markup import escape

    console.print(f"[bold]{source.name}[/bold]  {escape(source.description)}")
    console.print(f"  User-Agent  {escape(source.user_agent_header())}")
    allowed = "allowed" if site.allowed else "[red]not allowed[/red]"
    console.print(f"  robots.txt  {escape(site.robots)}; the start URL is {allowed}")
    asked = f" (the site asks for {site.crawl_delay:g} s)" if site.crawl_delay else ""
    console.print(f"  delay       {site.delay:g} s between requests{asked}")
    listed = f"{len(site.listed)} URLs in the first files" if site.listed else "none found"
    console.print(f"  sitemaps    {', '.join(map(escape, site.sitemaps)) or 'no mention in robots.txt'}; {listed}")
    for sitemap, problem in site.unread.items():
        console.print(f"              [yellow]{escape(sitemap)}: {escape(problem)}[/yellow]")


_REASONS = 8  # why pieces of a page are kept or dropped, that are shown


def _dropped(text: str) -> str:
    """Why the default filters of `prepare` would drop a text, and the number that decides; empty if they keep it."""
    from scraping.corpus.config import FilterConfig
    from scraping.corpus.recipe import apply_filters, recipe
    from scraping.extraction.normalize import normalize

    found = apply_filters(normalize(text), recipe(FilterConfig()))
    return f"{found.reason} ({found.detail})" if found.reason else ""


def _javascript(page: PagePreview) -> Iterator[str]:
    """What to know of a page that lives by JavaScript."""
    rendered = page.response is not None and page.response.not_loaded is not None
    if page.emptiness:
        advice = "rendered, the page is still empty" if rendered else "try `fetch: browser`"
        yield f"{page.emptiness}; {advice}"
    for reason, count in (page.response.not_loaded or {}).items() if page.response else ():
        advice = "; if the page needs them, name it in resource_hosts" if reason.startswith("other host") else ""
        yield f"{count:,} not loaded: {reason}{advice}"


def _show_page(console: Console, page: PagePreview, chars: int) -> None:
    from rich.markup import escape

    color = "green" if page.outcome.startswith("stored") else "yellow"
    status = f" ({page.status})" if page.status else ""
    console.print(f"\n[bold]{escape(page.url)}[/bold]")
    console.print(f"  outcome   [{color}]{escape(page.outcome)}[/{color}]{status}")
    for problem in _javascript(page):
        console.print(f"  scripts   [yellow]{escape(problem)}[/yellow]")
    for document in page.documents[:3]:
        console.print(f"  title     {escape(document.title) or '-'}")
        shown = document.text[:chars] + ("…" if len(document.text) > chars else "")
        console.print(f"  text      {len(document.text):,} characters by the extractor `{document.extractor}`")
        for line in shown.splitlines():
            console.print(f"    [dim]|[/dim] {escape(line)}")
        if dropped := _dropped(document.text):
            console.print(f"  filters   [yellow]would be dropped: {escape(dropped)}[/yellow]")
    if len(page.documents) > 3:
        console.print(f"  …         {len(page.documents) - 3} more documents on this page")
    if page.stripped:
        console.print(
            f"  stripped  {sum(map(len, page.stripped)):,} characters: {escape(' | '.join(page.stripped)[:chars])}"
        )
    reasons: dict[str, list[str]] = {}
    for piece in page.judged:
        reasons.setdefault(("kept: " if piece.kept else "dropped: ") + piece.why, []).append(piece.text)
    for reason, texts in sorted(reasons.items(), key=lambda item: -sum(map(len, item[1])))[:_REASONS]:
        example = " ".join(max(texts, key=len).split())[:80]
        console.print(f"            {escape(reason)}: {len(texts)} blocks, as [dim]{escape(example)}[/dim]")
    if page.follow or page.skipped:
        console.print(f"  links     {len(page.follow)} to follow: {escape(' '.join(page.follow[:4]))}")
    for reason, links in page.skipped.items():
        console.print(f"            {len(links)} not ({reason}): {escape(' '.join(links[:3]))}")
