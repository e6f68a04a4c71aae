"""Pages of `flows/stages/templates`: HTML that needs no network and no other file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from textmill.progress import duration


def template(name: str) -> Template:
    """A page by its file's name; what a page names and is not given is an error."""
    environment = Environment(
        loader=PackageLoader("flows.stages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    environment.filters["kind"] = lambda block: type(block).__name__
    environment.filters["safe_svg"] = Markup
    environment.filters["duration"] = duration
    environment.tests["web_address"] = lambda address: address.startswith(("http://", "https://"))
    return environment.get_template(name)


def number(value: Any) -> str:
    """A number for people: thousands apart, four significant digits; anything else as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def flat_metrics(stats: Mapping[str, Any], prefix: str = "") -> dict[str, int | float | str]:
    """The numbers and short texts of `stats.json`, nested names joined by dots."""
    flat: dict[str, int | float | str] = {}
    for name, value in stats.items():
        if isinstance(value, Mapping):
            flat |= flat_metrics(value, f"{prefix}{name}.")
        elif isinstance(value, int | float) or (isinstance(value, str) and len(value) < 80):
            flat[prefix + name] = value
    return flat
