"""`textmill corpus`: a corpus that was crawled, ingested and prepared is asked by its configuration, name or folder."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from flows.cli import app
from flows.cli.blocks import print_blocks, print_title, wide_console
from flows.engine.materialize import materialize
from flows.engine.page import Sample
from flows.engine.stage import Context
from flows.pipeline.chain import chain
from flows.pipeline.config import load_config, parse_overrides
from flows.store.local import Store
from flows.store.manifest import MANIFEST
from flows.store.open import open_store
from scraping.shards import read_rows
from textmill.errors import UserError

pytestmark = pytest.mark.long

WORDS = ["river", "stone", "window", "letter", "garden", "morning", "winter", "captain", "market", "signal", "paper"]
STRICT = "prepare.filters.length.min_characters=900"
UNBUILT = "prepare.validation_fraction=0.5"


def prose(seed: int, sentences: int) -> str:
    word = random.Random(seed)
    return " ".join(
        "The " + " ".join(word.choice(WORDS) for _ in range(word.randrange(6, 14))) + "." for _ in range(sentences)
    )


def build(config, *overrides: str):
    """Everything up to the corpus, without a server."""
    loaded = load_config(config, parse_overrides(overrides))
    context = Context(open_store(loaded.store), loaded.name)

    def visit(stage, settings, /, **inputs):
        built = stage.name in ("scrape", "ingest", "prepare")
        return materialize(stage, settings, inputs, context).artifact if built else None

    chain(loaded, visit)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with a configuration of the Python documentation and a collection, and its corpora by two rules."""
    folder = tmp_path_factory.mktemp("project")
    texts = [prose(seed, 12) for seed in range(8)]
    (folder / "texts").mkdir()
    lines = [*texts, texts[0], "Short.", "", f"{prose(99, 12)} The secret of the island."]
    (folder / "texts" / "all.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in lines) + "{cut")
    document = {
        "name": "mine",
        "store": "store",
        "scrape": {"sources": ["python-docs"], "max_pages": 12},
        "ingest": {"path": "texts", "name": "stories"},
        "prepare": {"validation_fraction": 0.2, "workers": 1},
    }
    (folder / "texts" / "picture.png").write_bytes(b"\x89PNG")
    (folder / "mine.yaml").write_text(yaml.safe_dump(document))
    build(folder / "mine.yaml")
    build(folder / "mine.yaml", STRICT)
    return folder


@pytest.fixture
def config(project, monkeypatch):
    monkeypatch.chdir(project)
    return "mine.yaml"


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["corpus", *map(str, arguments)], env={"COLUMNS": "200"})
    if isinstance(result.exception, UserError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def document(*arguments: object):
    return json.loads(run(*arguments, "--json"))


def test_the_whole_way_from_urls_and_records_to_documents_adds_up(config):
    steps = document(config)["counts"]
    assert [(step["source"], step["name"]) for step in steps] == [
        ("python-docs", "crawl"), ("python-docs", "prepare"), ("stories", "ingest"), ("stories", "prepare"),
    ]  # fmt: skip
    assert "were not read: " in steps[2]["note"]  # the picture
    for step in steps:
        assert step["read"] + step["gained"] == step["written"] + sum(step["left_out"].values())
        assert "not accounted for" not in step["left_out"]
        assert bool(step["note"]) == (step["name"] != "prepare")  # the limit of pages, the picture
    crawl, of_pages, collection, of_texts = steps
    assert crawl["written"] == of_pages["read"] == 12 and crawl["read"] > 12
    assert collection["left_out"].pop("empty") == 1 and sum(collection["left_out"].values()) == 1
    assert collection["written"] == of_texts["read"] == 11
    assert of_texts["left_out"] == {"duplicate": 1, "too short": 1}


def test_a_configuration_its_artifact_its_fingerprint_and_its_folder_are_the_same_corpus(config, tmp_path):
    location = document(config)["corpus"]
    fingerprint = location.rsplit("/", 1)[-1]
    copy = shutil.copytree(location, tmp_path / "copy")
    (copy / "manifest.json").unlink()
    asked = [document(place, "--sample", "-n", 3)["sample"] for place in (config, location, fingerprint, copy)]
    assert len(asked[0]) == 3 and all(sample == asked[0] for sample in asked)
    [only] = [step for step in document(copy)["counts"] if step["source"] == "stories"]
    assert (only["name"], only["read"]) == ("prepare", 11)  # a mere folder leads to no records


def test_a_changed_filter_shows_what_went_and_why(config):
    told = document(config, "--set", STRICT, "--against", config, "-n", 2)["difference"]
    assert told["changes"] == ["corpus.filters.length.min_characters: 200 → 900"]
    went = sum(number for reasons in told["went"].values() for number in reasons.values())
    assert went and told["came"] == {} and told["before"] - went == told["after"]
    assert {row["reason"] for row in told["went_examples"]} == {"too short"} == set(told["went"]["python-docs"])
    shown = run(config, "--set", STRICT, "--against", config)
    assert "min_characters: 200 → 900" in shown and f"{went} went, 0 came" in shown and "now too short" in shown
    assert document(config, "--set", STRICT, "--against", "previous", "-n", 2)["difference"] == told
    back = document(config, "--against", document(config, "--set", STRICT)["corpus"])["difference"]
    assert back["came"] == told["went"] and back["went"] == {}


def test_questions_are_answered_together(config):
    told = document(config, "--search", "secret of  THE island", "--duplicates", "--dropped", "too short", "-n", 1)
    assert told.keys() == {"corpus", "search", "duplicates", "dropped"}
    assert sum(told["search"]["documents"]["stories"].values()) == 1
    assert "The secret of the island." in told["search"]["found"][0]["text"]
    assert told["dropped"]["documents"][0]["reason"] == "too short"
    assert told["duplicates"]["dropped"] >= 1


def test_a_reason_of_any_step_shows_what_was_left_out(config):
    steps = document(config)["counts"]
    [limit] = [reason for reason in steps[0]["left_out"] if "limit" in reason]
    urls = document(config, "--dropped", limit, "-n", 4)["dropped"]["urls"]
    assert len(urls) == 4 and {row["told"].partition(",")[0] for row in urls} == {limit}
    assert document(config, "--dropped", limit.partition(": ")[2], "-n", 4)["dropped"]["urls"] == urls
    [broken] = [reason for reason in steps[2]["left_out"] if reason != "empty"]
    [record] = document(config, "--dropped", broken)["dropped"]["records"]
    assert (record["file"], record["place"]) == ("all.jsonl", "line 13")
    unread = steps[2]["note"].partition(": ")[2].rpartition(" ")[0]
    [record] = document(config, "--dropped", unread)["dropped"]["records"]
    assert record["file"] == "picture.png"


def test_a_url_is_traced_through_crawl_and_filters(config, project):
    [page, *_] = document(config, "--sample", "--source", "python-docs")["sample"]
    assert document(config, "--url", page["url"])["url"]["conclusion"] == f"in the corpus ({page['split']})"
    found = list(read_rows((project / "store" / "scrape").glob("*/urls.parquet")))
    left = next(row for row in found if row["outcome"] == "skipped")
    traced = document(config, "--url", left["url"].removeprefix("http://") + "#part")["url"]
    assert traced["conclusion"].startswith(f"never a page of the corpus; skipped: {left['reason']}")
    assert [row["url"] for row in traced["crawled"]] == [left["url"]]


def test_what_was_taken_out_as_templates_is_shown_by_site(config):
    found = document(config, "--templates")["templates"]
    assert found["before"] > found["characters"] >= 0 and "taken out at pages' edges" in run(config, "--templates")


def test_the_page_needs_nothing_but_itself_and_texts_stay_text(config, project, tmp_path):
    page = tmp_path / "corpus.html"
    assert run(config, "--html", page).strip() == f"Wrote {page}"
    html = page.read_text()
    for told in ("Documents of python-docs", "Documents of stories", "Left out: too short", "crawl of URLs"):
        assert told in html
    assert "default-src 'none'" in html and "prefers-color-scheme: dark" in html
    assert not any(fetched in html for fetched in ("<script", "src=", "@import", "url("))
    run(config, "--search", "<b>river", "--html", page)
    assert "&lt;b&gt;river" in page.read_text() and "<b>river" not in page.read_text()


def test_a_corpus_in_a_bucket_answers_alike(config, tmp_path, monkeypatch):
    bucket = f"file://{tmp_path}/bucket"
    monkeypatch.setenv("TEXTMILL_CACHE", str(tmp_path / "first"))
    store = open_store(bucket)
    for artifact in Store(Path("store")).artifacts():
        work = shutil.copytree(artifact.path, store.workdir(*artifact.name))
        (work / MANIFEST).unlink()
        store.seal(work, artifact.manifest)
    monkeypatch.setenv("TEXTMILL_CACHE", str(tmp_path / "second"))
    asked = ("--sample", "--duplicates", "--url", "https://elsewhere.example/")
    here, there = document(config), document(config, "--set", f"store={bucket}")
    assert there["counts"] == here["counts"] and there["corpus"].startswith(bucket)
    assert document(there["corpus"], *asked) == {**document(config, *asked), "corpus": there["corpus"]}
    against = document(there["corpus"], "--against", here["corpus"])["difference"]
    assert against["same"] == against["before"] == against["after"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["mine.yaml", "--set", UNBUILT], "textmill run mine.yaml --only prepare --build-missing"),
        (["mine.yaml", "--set", UNBUILT], "the last one of mine, of other settings"),
        (["mine.yaml", "--dropped", "spam"], "; the reasons are, of crawl: "),
        (["mine.yaml", "--source", "web"], "its sources are python-docs, stories"),
        (["0123456789abcdef"], "is not a corpus: give a configuration"),
        (["texts"], "holds no corpus"),
        (["mine.yaml", "--html", "nowhere/page.html"], "choose another place for --html"),
        (["mine.yaml", "--against", "previous"], "is the first corpus of mine: name another"),
        (["texts", "--set", "name=x"], "--set goes with a configuration"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_to_do(config, arguments, told):
    with pytest.raises(UserError) as error:
        run(*arguments)
    assert told in str(error.value) and "\n" not in str(error.value)


def test_an_artifact_of_another_stage_is_refused_and_a_damaged_one_named(config, project):
    [snapshot] = (project / "store" / "scrape").glob("[!.]*")
    with pytest.raises(UserError, match="is not a corpus and was not made from one"):
        run(snapshot)
    location = document(config)["corpus"]
    shard = project / location / "train-00000.parquet"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:100])
    with pytest.raises(UserError, match=r"is damaged: train-00000\.parquet has 100 bytes"):
        run(config)
    shard.write_bytes(whole)


def test_a_text_is_neither_markup_nor_a_command_of_the_terminal(capsys):
    print_title(wide_console(), "[/]\x1b[1m")
    print_blocks(wide_console(), [Sample("[red]a\x1b[2J", "b\x1b]0;c\x07\n[/]d", "http://x/\x9b")])
    shown = capsys.readouterr().out
    assert "[red]a\ufffd[2J" in shown and "| b\ufffd]0;c\ufffd" in shown and "| [/]d" in shown
    assert not {"\x1b", "\x07", "\x9b"} & set(shown)


def test_a_snapshot_is_exported_as_web_archives_and_another_artifact_is_not(config, project, tmp_path):
    [snapshot] = (project / "store" / "scrape").glob("[!.]*")
    shown = CliRunner().invoke(app, ["export", str(snapshot), str(tmp_path / "archive")])
    assert shown.exit_code == 0 and "12 pages and 0 redirects in 1 WARC files" in shown.stdout
    assert [file.name for file in (tmp_path / "archive").iterdir()] == ["python-docs-00000.warc.gz"]
    for place, format, told in (
        (snapshot, "hf", "is a snapshot of a crawl: leave out --format hf"),
        (document(config)["corpus"], "warc", "is not a snapshot of a crawl: leave out --format warc"),
    ):
        refused = CliRunner().invoke(app, ["export", str(place), str(tmp_path / "other"), "--format", format])
        assert isinstance(refused.exception, UserError) and told in str(refused.exception)
