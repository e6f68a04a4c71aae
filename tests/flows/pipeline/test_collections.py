"""Several collections: each an artifact of its own, so that adding one ingests that one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from flows.engine.assess import NotThere, assess, check_available
from flows.engine.materialize import materialize
from flows.engine.stage import Context
from flows.pipeline.chain import chain
from flows.pipeline.config import load_config, parse_overrides
from flows.pipeline.gc import garbage, references
from flows.pipeline.plan import plan
from flows.pipeline.reproduce import write_configuration
from flows.pipeline.selection import Selection
from flows.service.form import overrides_of, run_form
from flows.stages.ingest import ingest
from flows.store.open import open_store
from scraping.collections.config import IngestConfig
from textmill.errors import UserError

UNTIL_PREPARE = Selection(until="prepare")


def text(number: int) -> str:
    words = ["river", "stone", "window", "letter", "garden", "morning", "winter", "captain", "market", "signal"]
    return " ".join(f"The {words[number * place % 10]} of {number + place} is here." for place in range(1, 40))


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with three collections; writes a configuration of some of them."""
    monkeypatch.chdir(tmp_path)
    for place, name in enumerate(("a", "b", "c")):
        lines = [json.dumps({"text": text(10 * place + number)}) for number in range(8)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))

    def write(*names: str, **settings) -> Path:
        collections = [{"path": f"{name}.jsonl", "name": name, **settings} for name in names]
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump({"store": "store", "ingest": collections}))
        return path

    return write


def build(path: Path, stages: tuple[str, ...] = ("ingest", "prepare")) -> list[tuple[str, bool]]:
    """Build some stages; the title of each, and whether it was reused."""
    config, seen = load_config(path), []
    store = open_store(config.store)

    def visit(stage, settings, /, **inputs):
        if stage.name not in stages:
            return None
        try:
            assess(stage, settings, inputs, Context(store))
            check_available(stage, settings)
        except NotThere:
            return None
        outcome = materialize(stage, settings, inputs, Context(store, pipeline=config.name))
        seen.append((stage.title(settings), outcome.reused))
        return outcome.artifact

    chain(config, visit)
    return seen


def actions(path: Path) -> dict[str, str]:
    return {step.title: step.action for step in plan(load_config(path), UNTIL_PREPARE)}


def test_adding_a_collection_ingests_that_one_and_the_order_of_the_list_changes_nothing(project):
    assert build(project("b", "a")) == [("ingest a", False), ("ingest b", False), ("prepare", False)]
    assert actions(project("a", "b")) == {"ingest a": "reuse", "ingest b": "reuse", "prepare": "reuse"}
    added = project("c", "b", "a")
    assert actions(added) == {"ingest a": "reuse", "ingest b": "reuse", "ingest c": "build", "prepare": "build"}
    assert build(added) == [("ingest a", True), ("ingest b", True), ("ingest c", False), ("prepare", False)]
    store = open_store("store")
    [*_, corpus] = store.artifacts("prepare")
    assert {name: source["documents"] for name, source in corpus.stats["sources"].items()} == {"a": 8, "b": 8, "c": 8}


def test_optional_collections_that_are_away_are_each_left_out_and_gc_keeps_what_was_made_with_or_without(project):
    config = project("a", "b", "c", required=False)
    build(config)
    for away in ("a", "b"):
        Path(f"{away}.jsonl").rename(f"{away}.away")
    assert actions(config) == {"ingest a": "skip", "ingest b": "skip", "ingest c": "reuse", "prepare": "build"}
    assert build(config) == [("ingest c", True), ("prepare", False)]
    assert not list(garbage(open_store("store"), [load_config(config)]))
    Path("a.away").rename("a.jsonl")
    assert not list(garbage(open_store("store"), [load_config(config)]))


def test_gc_of_many_optional_collections_asks_only_for_what_was_made_of_them(project, monkeypatch):
    config = load_config(project(*"abc", required=False))
    build(project(*"abc", required=False))
    Path("b.jsonl").rename("b.away")
    build(project(*"abc", required=False))
    seen = []
    monkeypatch.setattr("flows.pipeline.gc.chain", lambda config, visit: (seen.append(visit), chain(config, visit)))
    store = open_store("store")
    corpora = {made.name for made in store.artifacts("prepare")}
    assert len(corpora) == 2
    for away in "ac":
        Path(f"{away}.jsonl").rename(f"{away}.away")
    assert references(store, config) >= corpora
    assert len(seen) <= 4  # now, with all, and without b; nothing was made of the other five
    many = IngestConfig(path="nowhere.txt", required=False)
    config.ingest += [many.model_copy(update={"name": f"n{number}"}) for number in range(40)]
    assert references(store, config) >= corpora


def test_the_collections_of_a_corpus_are_found_again(project):
    build(project("a", "b"))
    [corpus] = open_store("store").artifacts("prepare")
    again = write_configuration(corpus, Path("then"))
    assert {step.action for step in plan(load_config(again), UNTIL_PREPARE)} == {"reuse"}


def test_one_collection_may_be_written_without_the_list(project, tmp_path):
    path = project("a")
    listed = load_config(path).ingest
    path.write_text("ingest: {path: a.jsonl, name: a}\n")
    assert load_config(path).ingest == listed
    assert [item.limit for item in load_config(path, parse_overrides(["ingest.limit=3"])).ingest] == [3]
    for nothing in ("null", "[]"):
        assert load_config(path, parse_overrides([f"ingest={nothing}"])).ingest == []


def test_an_override_names_a_collection_by_its_number(project, tmp_path):
    path = project("b", "a")
    loaded = load_config(path, parse_overrides(["ingest.0.path=c.jsonl", "ingest.1.limit=3"]))
    assert [(Path(item.path).name, item.limit) for item in loaded.ingest] == [("c.jsonl", None), ("a.jsonl", 3)]
    assert Path(loaded.ingest[0].path) == tmp_path / "c.jsonl"
    with pytest.raises(UserError, match=r"ingest.path: ingest is a list of 2, whose first item is ingest.0: write "):
        load_config(path, parse_overrides(["ingest.path=c.jsonl"]))
    with pytest.raises(UserError, match=r"^ingest.2: there is no such item: ingest is a list of 2, ingest.0 to "):
        load_config(path, parse_overrides(["ingest.2.limit=3"]))
    with pytest.raises(UserError, match=r"^setting ingest.0.limit: input should be greater than 0"):
        load_config(project("a"), parse_overrides(["ingest.limit=0"]))
    path = project("b", "a")
    with pytest.raises(UserError, match=r"^setting ingest.0.limt: unknown key; did you mean ingest.0.limit\?"):
        load_config(path, parse_overrides(["ingest.0.limt=3"]))
    path.write_text(path.read_text().replace("name: b", "nam: b"))
    with pytest.raises(UserError, match=r"mine.yaml:\d: ingest.0.nam: unknown key; did you mean ingest.0.name\?"):
        load_config(path)


def test_no_two_sources_of_documents_have_one_name(project):
    with pytest.raises(UserError, match="two sources of documents are called a: give the collection another `name`"):
        load_config(project("a", "b", "a"))
    twice = {"scrape": {"sources": ["python-docs"]}, "ingest": {"0": {"name": "python-docs"}}}
    with pytest.raises(UserError, match="two sources of documents are called python-docs"):
        plan(load_config(project("a"), twice))


def test_the_form_of_one_collection_has_its_fields_and_that_of_several_takes_json(project):
    fields = run_form("ingest", project("a"))["properties"]
    assert fields["name"]["description"].endswith(": a")
    form = overrides_of("ingest", {"limit": 3}, None)  # of a list of one, too
    assert [item.limit for item in load_config(project("a"), form).ingest] == [3]
    form = overrides_of("ingest", {"limit": 3}, {"ingest": {"0": {"limit": 4, "name": "z"}}})
    assert [(item.name, item.limit) for item in load_config(project("a"), form).ingest] == [("z", 3)]
    for deployed in ({"limit": 7}, {"0": {"limit": 7}}, [{"path": "a.jsonl", "limit": 7}]):
        fields = run_form("ingest", project("a"), {"ingest": deployed})["properties"]
        assert fields["limit"]["description"].endswith("this deployment: 7")
    fields = run_form("ingest", project("b", "a"))["properties"]
    assert set(fields) == {"force", "overrides", "build_missing", "verify", "config"}
    assert "0 is b, 1 is a" in fields["overrides"]["description"]
    assert ingest.timeline("a", "mine") != ingest.timeline("b", "mine")
