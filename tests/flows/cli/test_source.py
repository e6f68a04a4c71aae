"""`textmill source`: how a schedule comes alive, said where a source is written and checked."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from flows.cli.source import _schedule, _show_page
from scraping.crawling.preview import PagePreview
from scraping.crawling.source import load_source
from scraping.extraction.extract import Extracted

SITE = "start: [http://example.org]\ncontact: me@example.org\nschedule: {cron: '0 3 * * 0'}\n"


@pytest.fixture
def said(tmp_path, monkeypatch):
    """What is said of the source that a file declares, in the project's folder."""
    monkeypatch.chdir(tmp_path)

    def said(path: str, text: str = SITE) -> str:
        Path(path).parent.mkdir(exist_ok=True)
        Path(path).write_text(text)
        return _schedule(load_source(path))

    return said


def test_the_schedule_of_a_source_is_said_with_what_is_missing_for_it(said):
    assert "0 3 * * 0 UTC, once it is part of a project (there is no configs/*.yaml in" in said("mine.yaml")
    Path("configs").mkdir()
    Path("configs/a.yaml").touch()
    assert said("mine.yaml") == "0 3 * * 0 UTC, once the file lies in sources/ or a file of configs/ names it"
    assert said("sources/mine.yaml") == ("textmill deploy (or up), then it is crawled at 0 3 * * 0 UTC by scrape/mine")
    assert said("sources/mine.yaml", SITE.partition("schedule")[0]).startswith("none; write `schedule: {cron:")


def test_a_source_of_textmill_s_own_waits_for_a_configuration_that_names_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("configs").mkdir()
    Path("configs/a.yaml").touch()
    assert "until then scrape/umb is switched off" in _schedule(load_source("umb"))
    Path("configs/a.yaml").write_text("scrape: {sources: [umb]}\n")
    assert "by scrape/umb" in _schedule(load_source("umb"))


def test_a_page_that_the_filters_of_prepare_would_drop_is_said(capsys):
    menu = "\n".join(
        f"{place} {thing}" for place in ("Garden", "Kitchen", "Bathroom") for thing in ("tables", "chairs")
    )
    prose = (
        "The library opens at nine in the morning. On Saturday it closes at one, and on Sunday it stays closed. " * 2
    )
    for text, said in ((menu * 3, True), (prose, False)):
        page = PagePreview("http://a.example/", "stored", 200, [Extracted("http://a.example/", "", text, "main")])
        _show_page(Console(highlight=False, soft_wrap=True), page, 40)
        assert ("would be dropped: no sentences (" in capsys.readouterr().out) == said
