"""A mixture in a pipeline: mistakes are found in the file, and what a run would see is in its plan and on its page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from flows.engine.materialize import materialize
from flows.engine.mixture import fallen_short, sources_table
from flows.engine.page import Table
from flows.engine.stage import Context, Job, Stage
from flows.pipeline.chain import chain
from flows.pipeline.config import load_config, parse_overrides
from flows.pipeline.plan import plan
from flows.pipeline.reproduce import write_configuration
from flows.pipeline.selection import Selection
from flows.store.open import open_store
from modeling.config.pretrain import PretrainConfig
from modeling.mixture import seen_of
from textmill.errors import UserError

ALL = {"python-docs": {"weight": 1}, "stories": {"weight": 2}, "letters": {"weight": 3}}


@pytest.fixture
def write(tmp_path):
    """Write a configuration with a site and two collections."""

    def write(**sections) -> Path:
        (tmp_path / "a.txt").write_text("A text.")
        collections = [{"path": "a.txt", "name": "stories"}, {"path": "a.txt", "name": "letters"}]
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump({"scrape": {"sources": ["python-docs"]}, "ingest": collections, **sections}))
        return path

    return write


def test_a_command_line_can_clear_the_mixture_of_a_file(write):
    path = write(pretrain={"mixture": ALL})
    assert load_config(path, parse_overrides(["pretrain.mixture={}"])).pretrain.mixture == {}


def test_sites_and_collections_are_mixed_by_their_names(write):
    config = load_config(write(pretrain={"mixture": ALL}), parse_overrides(["pretrain.mixture.stories.weight=5"]))
    assert {name: source.weight for name, source in config.pretrain.mixture.items()} == {
        "python-docs": 1, "stories": 5, "letters": 3,
    }  # fmt: skip
    assert load_config(write()).pretrain.mixture == {}


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"pretrain": {"mixture": {**ALL, "storys": {"weight": 1}}}},
         r"pretrain.mixture.storys: no source or collection has this name; did you mean stories\?"),
        ({"pretrain": {"mixture": {"xyz": {"repeat": 2}}}}, "there are letters, python-docs, stories"),
        ({"finetune": {"mixture": {"stories": {"weight": 1}}}},
         "finetune.mixture: letters has no weight but others have: give it one, 0 leaves it out"),
        ({"pretrain": {"mixture": {"stories": {"wieght": 1}}}},
         r"mine.yaml:\d+: pretrain.mixture.stories.wieght: unknown key"),
        ({"finetune": {"mixture": {"stories": {"repeat": 1}}}, "pairs": {}},
         "finetune.mixture: pairs of sentences are not mixed by source; leave it out"),
        ({"finetune": {"attend": "document"}, "pairs": {}}, "finetune.attend: a pair of sentences is seen whole"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_mixture_is_one_line(write, sections, message):
    with pytest.raises(UserError, match=message) as error:
        load_config(write(**sections))
    assert "\n" not in str(error.value)


def test_a_crawl_of_one_site_asks_for_no_other_and_a_training_does(write, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TEXTMILL_CONTACT", "a@example.org")
    path = write(store="store", pretrain={"mixture": ALL})
    other_site = load_config(path, parse_overrides(["scrape.sources=[umb]"]))
    [step] = plan(other_site, Selection(only="scrape"))
    assert step.title == "scrape umb"
    assert [step.stage for step in plan(other_site, Selection(until="prepare"))][-1] == "prepare"
    with pytest.raises(UserError, match=r"^pretrain.mixture.python-docs: no source or collection has this name; there"):
        plan(other_site)
    called_alike = load_config(path, parse_overrides(["scrape.sources=[umb]", "ingest.0.name=umb"]))
    assert len(plan(called_alike, Selection(only="scrape"))) == 1
    with pytest.raises(UserError, match=r"^two sources of documents are called umb"):
        plan(called_alike, Selection(until="prepare"))


def test_a_plan_says_what_each_source_gives_and_refuses_what_cannot_be_had(write, monkeypatch, tmp_path):
    """Until the token arrays, stages are replaced by ones that only leave counts."""
    monkeypatch.chdir(tmp_path)
    sizes = {"stories": 10_001, "letters": 30_001, "python-docs": 60_001}
    sources = {name: {"documents": 1, "tokens": tokens} for name, tokens in sizes.items()}

    def build(self: Stage, job: Job) -> None:
        train = {"sources": sources, "tokens": sum(sizes.values()), "bytes_per_token": 1}
        stats = {"train": train, "validation": {"tokens": 1}}
        (job.out / "stats.json").write_text(json.dumps(stats))

    def visit(stage, settings, /, **inputs):
        if stage.name in ("pretrain", "finetune", "report", "pairs"):
            return None
        with monkeypatch.context() as patched:
            patched.setattr(type(stage), "build", build)
            patched.setattr(type(stage), "incomplete", lambda self, out: "")
            patched.setattr(type(stage), "expired", lambda self, config, artifact: None)
            return materialize(stage, settings, inputs, Context(store)).artifact

    path = write(store="store", pretrain={"mixture": ALL, "steps": 60, "batch": 10, "model": {"context": 10}})
    config = load_config(path)
    store = open_store(config.store)
    chain(config, visit)
    monkeypatch.setattr("flows.stages.scrape.Scrape.expired", lambda self, config, artifact: None)
    [*_, step] = plan(config, Selection(until="pretrain"))
    assert step.stage == "pretrain" and step.reason == (
        "not built yet; letters 3,000 tokens (50.0%, 0.10 epochs), python-docs 1,000 tokens (16.7%, 0.02 epochs), "
        "stories 2,000 tokens (33.3%, 0.20 epochs)"
    )
    recurrent = parse_overrides(["pretrain.mixture={}", "pretrain.model.kind=recurrent", "pretrain.batch=6000"])
    with pytest.raises(UserError, match=r"6000 rows need 12000 windows of 10 tokens but the train split has 9999; low"):
        plan(load_config(path, recurrent), Selection(until="pretrain"))
    limited = [f"pretrain.mixture.{name}.repeat=0.05" for name in ALL]
    with pytest.raises(UserError, match=r"the run asks for 6,000 tokens but the mixture has 4,\d{3}: lower steps or"):
        plan(load_config(path, parse_overrides(limited)), Selection(until="pretrain"))
    too_much = [f"finetune.mixture.{name}={{weight: {int(name == 'stories')}, max_tokens: 10}}" for name in ALL]
    with pytest.raises(UserError, match=r"the run asks for [0-9,]+ tokens but the mixture has 10: "):
        plan(load_config(path, parse_overrides(too_much)), Selection())  # although pretraining is yet to come


def test_a_page_shows_what_was_seen_of_each_source_and_what_was_asked_for(tmp_path):
    class Shown(Stage[PretrainConfig]):
        name, version = "shown", 1

        def build(self, job: Job[PretrainConfig]) -> None:
            sizes, seen = {"stories": 1_000, "letters": 5_000}, {"stories": 3_200, "letters": 800}
            sources = {name: found._asdict() for name, found in seen_of(sizes, seen, job.config.mixture).items()}
            (job.out / "stats.json").write_text(json.dumps({"sources": sources}))

        def headline(self, stats: dict) -> str:
            return ""

    mixture = {"stories": {"weight": 4, "repeat": 4}, "letters": {"weight": 1}, "away": {"weight": 1}}
    settings = PretrainConfig.model_validate({"mixture": mixture})
    artifact = materialize(Shown(), settings, {}, Context(open_store(str(tmp_path / "store")))).artifact
    assert fallen_short(artifact.stats) == ", less than its weight asks for: away 0.0% of 16.7%"
    [table] = sources_table(artifact)
    assert isinstance(table, Table) and table.head[0] == "source"
    assert [tuple(row) for row in table.rows] == [
        ("away", 0, 0, "0.0%", "0.00", "weight 1"),
        ("letters", 5_000, 800, "20.0%", "0.16", "weight 1"),
        ("stories", 1_000, 3_200, "80.0%", "3.20", "weight 4, repeat 4"),
    ]


def test_what_was_trained_while_a_collection_was_away_is_found_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.txt").write_text("A text.")
    document = {
        "store": "store",
        "ingest": [{"path": "here.txt", "name": "here"}, {"path": "away.txt", "name": "away", "required": False}],
        "pretrain": {"mixture": {"here": {"weight": 1}, "away": {"weight": 1}}},
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(document))

    def build(self: Stage, job: Job) -> None:
        (job.out / "stats.json").write_text('{"train": {}}')

    def visit(stage, settings, /, **inputs):
        if stage.name == "finetune" or getattr(settings, "name", "") == "away":
            return None
        with monkeypatch.context() as patched:
            patched.setattr(type(stage), "build", build)
            return materialize(stage, settings, inputs, Context(store)).artifact

    config = load_config(tmp_path / "mine.yaml")
    store = open_store(config.store)
    chain(config, visit)
    [trained] = store.artifacts("pretrain")
    again = load_config(write_configuration(trained, tmp_path / "then"))
    [*_, step] = plan(again, Selection(until="pretrain"))
    assert step.artifact and step.artifact.name == trained.name
