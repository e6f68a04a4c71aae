"""`textmill doctor`: what it finds, and the remedy it names."""

from __future__ import annotations

import importlib.metadata

from flows.service import doctor
from flows.service.doctor import examine
from scraping.crawling.rendering import chromium
from scraping.crawling.source import Source


def test_packages_that_are_missing_or_of_another_version_are_named_with_what_installs_them(monkeypatch):
    required = ["prefect>=1", "typer>=99,<100", "no-such-package>=2", "absent>=1; extra == 'test'"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: required)
    found = next(finding for finding in examine(None) if finding.subject == "packages")
    assert found.status == "problem"
    installed = importlib.metadata.version("typer")
    assert found.what == f"typer is {installed}, not <100,>=99; no-such-package is missing"
    assert found.remedy == "pip install 'typer<100,>=99' 'no-such-package>=2'"


def test_a_source_that_needs_a_browser_names_what_installs_it(monkeypatch, tmp_path):
    source = Source(name="mine", start=["https://example.org/"], contact="me@example.org", fetch="browser")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor, "shipped_sources", lambda: ["mine"])
    monkeypatch.setattr(doctor, "load_source", lambda _: source)
    monkeypatch.setattr(chromium.shutil, "which", lambda _: None)
    monkeypatch.setattr(chromium.importlib.util, "find_spec", lambda _: None)
    [found] = [finding for finding in examine(None) if finding.subject == "source"]
    assert found.what == "source mine: `fetch: browser` needs a package that is missing"
    assert found.remedy == "pip install 'textmill[browser]'"
