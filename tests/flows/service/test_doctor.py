"""`textmill doctor`: what it finds, and the remedy it names."""

from __future__ import annotations

import importlib.metadata

from flows.service.doctor import examine


def test_packages_that_are_missing_or_of_another_version_are_named_with_what_installs_them(monkeypatch):
    required = ["prefect>=1", "typer>=99,<100", "no-such-package>=2", "absent>=1; extra == 'test'"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: required)
    found = next(finding for finding in examine(None) if finding.subject == "packages")
    assert found.status == "problem"
    installed = importlib.metadata.version("typer")
    assert found.what == f"typer is {installed}, not <100,>=99; no-such-package is missing"
    assert found.remedy == "pip install 'typer<100,>=99' 'no-such-package>=2'"
