"""Which choices about data a pipeline has, as variants of it: each differs from the configuration in one choice.

Every switch of a configuration is turned: a filter that is on goes off, one that is off goes on. Personal data that is
replaced, and texts that models are tested on, are no matter of what is better, and stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Data", "choices", "cleanest"]

Settings = dict[str, Any]

FILTERS = {
    "length": "too short or too long",
    "symbols": "not made of words",
    "prose": "menus, notices, keyword lists",
    "repetition": "repeating themselves",
}
EXTRACTORS: dict[str, tuple[str, Settings]] = {
    "auto": ("text of pages by a model of kinds of pages", {"kind": "auto"}),
    "article": ("text of pages by their looks", {"kind": "article"}),
}
WHOLE_PAGE = {"kind": "main", "selector": "body"}
MOSTLY = 0.75  # share of a training that is from one source, where it is "mostly" that


@dataclass(frozen=True)
class Data:
    """What a configuration says about its text.

    Attributes:
        prepare: its section.
        extractors: how pages are read, by site; sites that hold records are left out.
        sites: entry of `scrape.sources` of each site, by its name.
        collections: settings of each collection by its name.
        there: names of the sites and collections that a run would have: an optional collection may not be there.
        mixture: of pretraining, by name.
    """

    prepare: Mapping[str, Any] = field(default_factory=dict)
    extractors: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    sites: Mapping[str, str] = field(default_factory=dict)
    collections: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    there: tuple[str, ...] = ()
    mixture: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def is_on(self, *place: str) -> bool:
        """Whether a switch of `prepare` is on; one that is not given is."""
        value: Any = self.prepare
        for key in place:
            value = value.get(key, {}) if isinstance(value, Mapping) else {}
        return value if isinstance(value, bool) else True

    @property
    def keeps_languages(self) -> list[str]:
        """The languages that are kept; empty: all."""
        languages: list[str] = self.prepare.get("filters", {}).get("language", {}).get("keep", [])
        return languages


def cleanest(data: Data) -> Settings:
    """Settings that turn every switch on which a configuration has off; empty if none is."""
    return _prepare(
        {name: True for name in ("template", *FILTERS) if not data.is_on(*_place(name))}
        | {name: True for name in ("exact", "near") if not data.is_on("dedup", name)}
    )


def choices(data: Data) -> Iterator[tuple[str, Settings]]:
    """The variants by name, each with what it sets."""
    yield from _extractors(data)
    yield from _cleaning(data)
    if len(data.there) > 1:
        yield from _sources(data)


def _extractors(data: Data) -> Iterator[tuple[str, Settings]]:
    kinds = {extractor.get("kind") for extractor in data.extractors.values()}
    if not kinds:
        return
    for kind, (name, extractor) in EXTRACTORS.items():
        if kinds != {kind}:
            yield name, {"prepare": {"extractor": extractor}}
    yield "all text of pages", {"prepare": {"extractor": WHOLE_PAGE}}


def _cleaning(data: Data) -> Iterator[tuple[str, Settings]]:
    on = data.is_on("template", "enabled")
    yield f"templates {'kept' if on else 'removed'}", _prepare({"template": not on})
    if data.is_on("dedup", "near"):
        yield "near-duplicates kept", _prepare({"near": False})
        if data.is_on("dedup", "exact"):
            yield "duplicates kept", _prepare({"near": False, "exact": False})
    else:
        yield "near-duplicates dropped", _prepare({"near": True})
        if not data.is_on("dedup", "exact"):
            yield "duplicates dropped", _prepare({"exact": True})
    are_on = [name for name in FILTERS if data.is_on(*_place(name))]
    for name, what in FILTERS.items():
        kept = "kept" if name in are_on else "dropped"
        yield f"{kept}: {what}", _prepare({name: name not in are_on})
    language: Settings = {"prepare": {"filters": {"language": {"keep": []}}}} if data.keeps_languages else {}
    if language:
        yield "kept: other languages", language
    if len(are_on) + bool(language) > 1:
        everything = _prepare(dict.fromkeys(are_on, False))
        filters = everything["prepare"]["filters"] | (language["prepare"]["filters"] if language else {})
        yield "nothing filtered", {"prepare": {"filters": filters}}


def _sources(data: Data) -> Iterator[tuple[str, Settings]]:
    """Each source left out, and other weights than the configuration has."""
    weights = {name: source.get("weight") for name, source in data.mixture.items()}
    weighted = any(weight is not None for weight in weights.values())
    names = [*data.sites, *data.collections]
    used = [name for name in data.there if not weighted or weights.get(name)]
    for name in used if len(used) > 1 else []:
        yield f"without {name}", _without(data, name)
    if weighted:
        yield "sources by their size", _mixture(dict.fromkeys(names))
    if not weighted or len({weights.get(name) for name in data.there}) > 1:
        yield "sources in equal parts", _mixture({name: float(name in data.there) for name in names})
    for name in data.there:
        rest = (1 - MOSTLY) / (len(data.there) - 1)
        parts = {other: MOSTLY if other == name else rest if other in data.there else 0.0 for other in names}
        if parts != weights:
            yield f"mostly {name}", _mixture(parts)


def _without(data: Data, name: str) -> Settings:
    """Settings that leave a source out: of all stages, or, where the configuration has a mixture that names the
    sources, of the training."""
    if data.mixture:
        of_source: Settings = {"max_tokens": 0}
        if any(source.get("weight") is not None for source in data.mixture.values()):
            of_source = {"weight": 0}
        return {"pretrain": {"mixture": {name: of_source}}}
    if name in data.sites:
        return {"scrape": {"sources": [entry for other, entry in data.sites.items() if other != name]}}
    return {"ingest": [dict(settings) for other, settings in data.collections.items() if other != name]}


def _mixture(weights: Mapping[str, float | None]) -> Settings:
    return {"pretrain": {"mixture": {name: {"weight": weight} for name, weight in weights.items()}}}


def _place(name: str) -> tuple[str, ...]:
    """The switch of template removal, or of a filter, in `prepare`."""
    return ("template", "enabled") if name == "template" else ("filters", name, "enabled")


def _prepare(switches: Mapping[str, bool]) -> Settings:
    """Settings of switches by their names."""
    prepare: Settings = {}
    for name, value in switches.items():
        if name in ("exact", "near"):
            prepare.setdefault("dedup", {})[name] = value
        elif name == "template":
            prepare["template"] = {"enabled": value}
        else:
            prepare.setdefault("filters", {})[name] = {"enabled": value}
    return {"prepare": prepare} if prepare else {}
