"""The pages of reports and comparisons, rendered from what their stages give them."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from selectolax.lexbor import LexborHTMLParser

from flows.engine.figures import attention_maps, learned_functions, loss_curves, vocabulary_curve
from flows.engine.materialize import materialize
from flows.engine.page import Bars, Picture, Sample, Table, Text, Tokens
from flows.engine.stage import Context, Stage
from flows.stages.comparison import ComparisonConfig, comparison
from flows.stages.html import flat_metrics, number
from flows.stages.prepare import prepare
from flows.stages.report import ReportConfig, report
from flows.store.local import Store
from modeling.checkpoint import WEIGHTS, CheckpointConfig, write_tensors
from modeling.config.network import TransformerConfig
from scraping.crawling.rendering.chromium import find_chromium
from textmill.errors import UserError
from tokenization.config import SPECIAL_TOKENS
from tokenization.formats import save_tokenizer
from tokenization.tokenizer import Tokenizer

METRICS = [{"step": 1, "loss": 4.0}, {"step": 2, "loss": 3.0, "validation_loss": 3.5}]


class Trained(Stage[ReportConfig]):
    """Stands for a training: as many bits per byte as its configuration's title says."""

    name = "trained"
    version = 1

    def build(self, job):
        (job.out / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in METRICS))
        stats = {"bits_per_byte": float(job.config.title), "nested": {"steps": 2000}, "name": "a <b> c"}
        (job.out / "stats.json").write_text(json.dumps(stats))

    def headline(self, stats):
        return "trained"


@pytest.fixture
def context(tmp_path) -> Context:
    return Context(Store(tmp_path))


def trained(context: Context, value: str):
    return materialize(Trained(), ReportConfig(title=value), {}, context).artifact


def test_a_comparison_shows_the_claim_the_verdict_every_value_and_what_others_found(context):
    declared = {
        "claim": "Ours is better.", "variants": {"ours": {}, "theirs": {"x": 1}},
        "contrasts": [{"better": "ours", "than": "theirs"}], "published": [{"source": "They 2024", "says": "It is."}],
    }  # fmt: skip
    runs = [(name, (), seed) for seed in (0, 1, 2) for name in ("ours", "theirs")]
    config = ComparisonConfig(experiment="tried", declared=declared, quick=False, runs=runs, stages=[[0]] * 6)
    results = [trained(context, value) for value in ("1.5", "2.25", "1.75", "2.5", "1.625", "2.5")]
    outcome = materialize(comparison, config, {"results": results, "stages": results[:1]}, context)
    assert outcome.headline == "The figures agree with the claim"
    page = (outcome.artifact.path / "index.html").read_text()
    for wanted in ("Ours is better.", "<b>Agree</b>", "bits per byte", "1.625", "2.417", "They 2024", "95% interval"):
        assert wanted in page, wanted
    kinds = [type(block) for block in comparison.page(outcome.artifact)]
    assert kinds == [Text, Text, Table, Text]
    work = outcome.artifact.stats["work"]
    assert work["built"] == work["variants"]["ours"]["built"] == round(results[0].manifest.seconds, 1)
    assert work["variants"]["theirs"]["built"] == 0  # the stage was there by then


def test_a_report_shows_an_artifact_whose_stage_this_version_does_not_have(context):
    artifact = trained(context, "1.5")
    outcome = materialize(report, ReportConfig(title="All & sundry"), {"corpus": artifact}, context)
    anchor = f"trained-{artifact.manifest.fingerprint}"
    page = (outcome.artifact.path / "index.html").read_text()
    for wanted in (
        "All &amp; sundry",
        f'href="#{anchor}"',
        f'<section id="{anchor}">',
        "<h2>trained</h2>",
        "nested.steps",
        "2,000",
        "a &lt;b&gt; c",
    ):
        assert wanted in page, wanted
    assert outcome.artifact.stats == {"figures": 0, "stages": 1}


class Refined(Trained):
    """Stands for a training that begins with another's result."""

    name = "refined"
    inputs = ("first",)

    def highlight(self, stats):
        return "97 %", "of blanks filled"


def test_a_report_draws_the_chain_and_links_each_artifact_to_what_it_was_made_from(context, monkeypatch):
    monkeypatch.setattr("flows.stages.report.stage_named", {"trained": Trained(), "refined": Refined()}.get)
    first = trained(context, "1.5")
    second = materialize(Refined(), ReportConfig(title="1.25"), {"first": first}, context).artifact
    outcome = materialize(report, ReportConfig(), {"finetuned": second}, context)
    page = LexborHTMLParser((outcome.artifact.path / "index.html").read_text())

    levels = [[box.attributes["href"] for box in level.css("a.stage")] for level in page.css(".chain .level")]
    assert levels == [[f"#{'-'.join(first.name)}"], [f"#{'-'.join(second.name)}"]]
    assert page.css(".chain a.stage")[1].text(separator=" ", strip=True) == "refined 97 % of blanks filled"
    assert [link.attributes["href"] for link in page.css(".lineage a")] == [f"#{'-'.join(first.name)}"]
    assert first.manifest.fingerprint in page.css(".lineage")[0].text()


@pytest.mark.parametrize(
    ("block", "wanted", "unwanted"),
    [
        (Table(("split", "tokens"), [("train", 12345)]), ["<th>split</th>", '<td class="n">12,345</td>'], []),
        (Bars("dropped", {"few <words>": 3, "spam": 12}), ["width: 100.0%", "width: 25.0%", "few &lt;words&gt;"], []),
        (Bars("dropped", {"spam": 0}), [], ["dropped"]),
        (Bars("dropped", {}), [], ["dropped"]),
        (Text("1 < 2"), ["<p>1 &lt; 2</p>"], []),
        (Bars("guesses", {"' type'": 62.5, "' list'": 31.25}, "%"), ["width: 50.0%", ">62.5<", ">%<"], []),
        (Sample("It writes", "<script>"), ["It writes", "&lt;script&gt;"], ["<script>"]),
        (
            Sample("A <document>", "text", "https://a.org/?a=1&b=2"),
            ['href="https://a.org/?a=1&amp;b=2"'],
            ["<document>"],
        ),
        (Sample("A document", "text", "javascript:alert(1)"), [" · javascript:alert(1)"], ['href="javascript']),
        (Sample("A document", "text", 'http://a.org/"onclick="x'), ["a.org/&#34;onclick="], ['"onclick']),
        (
            Tokens("2 tokens", [("<b>", 7), (" the", 9)]),
            ['<span title="7">&lt;b&gt;</span><span title="9"> the<'],
            ["<b>"],
        ),
        (Picture("Loss", "<svg></svg>"), ["<svg></svg>", "<figcaption>Loss"], []),
    ],
)
def test_every_kind_of_block_is_drawn_and_nothing_of_a_text_becomes_markup(
    context, monkeypatch, block, wanted, unwanted
):
    monkeypatch.setattr(Trained, "page", lambda self, artifact: iter([block]))
    monkeypatch.setattr("flows.stages.report.stage_named", lambda name: Trained())
    outcome = materialize(report, ReportConfig(), {"corpus": trained(context, "1.5")}, context)
    page = Path(outcome.artifact.path / "index.html").read_text()
    assert all(text in page for text in wanted)
    assert not any(text in page for text in unwanted)


def test_numbers_are_for_people_and_texts_stay():
    assert [number(value) for value in (1234567, 0.123456, True, "x")] == ["1,234,567", "0.1235", "True", "x"]
    assert flat_metrics({"a": {"b": 1}, "c": "short", "d": "long" * 40, "e": [1]}) == {"a.b": 1, "c": "short"}


@dataclass
class Corpus:
    """What `prepare` left, with a hostile page in it."""

    manifest: SimpleNamespace
    stats: dict
    path: Path

    def open(self, name):
        return (self.path / name).open("rb")


HOSTILE = "</blockquote></style><script src='http://evil.example/x.js'></script><img src=http://evil.example/p.png>"


@pytest.fixture
def corpus(tmp_path) -> Corpus:
    """Two documents of one source among many of another, and what was dropped for three reasons."""
    sources = ["news"] * 40 + ["docs"] * 2
    rows = [
        {"source": name, "url": f"http://{name}/{i}", "text": f"{name} {i} {HOSTILE}"} for i, name in enumerate(sources)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train-00000.parquet")
    reasons = ["spam"] * 30 + ["too short"]
    dropped = [
        {"reason": reason, "detail": str(i), "excerpt": HOSTILE, "url": "javascript:x()"}
        for i, reason in enumerate(reasons)
    ]
    dropped.append({"reason": "no text", "detail": "", "excerpt": None, "url": "http://news/empty"})
    (tmp_path / "dropped").mkdir()
    pq.write_table(pa.Table.from_pylist(dropped), tmp_path / "dropped" / "part-00000.parquet")
    counts = {"spam": 30, "too short": 1, "no text": 1}
    files = dict.fromkeys(["train-00000.parquet", "dropped/part-00000.parquet"])
    return Corpus(
        SimpleNamespace(files=files, fingerprint="0123abcd"),
        {"sources": {}, "dropped": counts, "templates": []},
        tmp_path,
    )


def test_documents_of_every_source_and_examples_of_every_reason_are_shown(corpus):
    samples = [block for block in prepare.page(corpus) if isinstance(block, Sample)]
    titles = [sample.title for sample in samples]
    assert "A document of docs" in titles
    assert "A document of news" in titles
    assert [title for title in titles if title.startswith("Dropped")] == [
        "Dropped: no text",
        "Dropped: spam (0)",
        "Dropped: spam (1)",
        "Dropped: too short (30)",
    ]
    assert list(prepare.page(corpus)) == list(prepare.page(corpus))
    assert any("textmill corpus 0123abcd" in block.text for block in prepare.page(corpus) if isinstance(block, Text))


def test_a_report_loads_nothing_and_runs_nothing_whatever_pages_hold(context, monkeypatch, corpus):
    monkeypatch.setattr(Trained, "page", lambda self, artifact: prepare.page(corpus))
    monkeypatch.setattr("flows.stages.report.stage_named", lambda name: Trained())
    outcome = materialize(report, ReportConfig(title=HOSTILE), {"corpus": trained(context, "1.5")}, context)
    page = (outcome.artifact.path / "index.html").read_text()
    hostile = [block for block in prepare.page(corpus) if isinstance(block, Sample) and HOSTILE in block.text]
    assert page.count("&lt;script src=") == len(hostile) + 2  # and the title, twice

    parsed = LexborHTMLParser(page)
    assert {node.tag for node in parsed.css("script, img, iframe, object, link, base, form, video")} == set()
    assert parsed.css_first('meta[http-equiv="Content-Security-Policy"]').attributes["content"] == (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    )
    links = [node.attributes["href"] for node in parsed.css("[href], [src]")]
    assert all(link.startswith(("#", "http://docs/", "http://news/")) for link in links)
    assert {link[1:] for link in links if link[0] == "#"} == {node.attributes["id"] for node in parsed.css("section")}
    assert "url(" not in page
    assert "@import" not in page


def test_figures_take_the_color_of_the_page_and_are_the_same_bytes_each_time(context):
    artifact = trained(context, "1.5")
    svg = loss_curves(artifact)
    assert svg == loss_curves(artifact)
    assert "currentColor" in svg
    assert "#000000" not in svg
    assert "#ffffff" not in svg
    assert "learning rate" in svg
    assert vocabulary_curve([(256, 1.0), (512, 2.0)]).startswith("<svg")


class Kan(Stage[ReportConfig]):
    """Stands for a training that left an untrained model, its feed-forward of the kind that the title says."""

    name = "kan"
    version = 1

    def build(self, job):
        shape = {"layers": 3, "width": 32, "heads": 2, "context": 16, "feed_forward": job.config.title}
        config = CheckpointConfig(
            TransformerConfig.model_validate(shape), 256 + len(SPECIAL_TOKENS), "causal", False, {}
        )
        tokens = {bytes([value]): value for value in range(256)}
        special = {name: 256 + place for place, name in enumerate(SPECIAL_TOKENS)}
        save_tokenizer(Tokenizer(tokens, "gpt2", special), job.out)
        torch.manual_seed(0)
        write_tensors(job.out / WEIGHTS, config.build_model().state_dict())
        (job.out / "config.json").write_text(config.to_json())
        (job.out / "stats.json").write_text(
            json.dumps({"sample_prompt": "A", "sample": " text\nof 字 & <$1$>.", "bits_per_byte": 1.0})
        )

    def headline(self, stats):
        return "built"


@pytest.mark.parametrize(
    ("kind", "titles"),
    [
        ("kan-spline", {"block 1, up": 4, "block 1, down": 4, "block 3, up": 4, "block 3, down": 4}),
        ("kan-rational", {"block 1, before": 1, "block 1, between": 1, "block 3, before": 1, "block 3, between": 1}),
        ("mlp", {}),
    ],
)
def test_the_functions_of_a_kan_are_drawn_the_same_each_time(context, kind, titles):
    artifact = materialize(Kan(), ReportConfig(title=kind), {}, context).artifact
    pictures = list(learned_functions(artifact, "A text to read."))
    assert pictures == list(learned_functions(artifact, "A text to read."))
    assert len(pictures) == bool(titles)
    for picture in pictures:
        assert {title: picture.svg.count(f">{title}") for title in titles} == titles
        assert "block 2" not in picture.svg and picture.svg.startswith("<svg")


def test_maps_of_attention_are_drawn_the_same_each_time_with_every_token_readable(context, recwarn):
    artifact = materialize(Kan(), ReportConfig(title="mlp"), {}, context).artifact
    [picture] = attention_maps(artifact, "A text\nof 字 & <$1$>.")
    assert [picture] == list(attention_maps(artifact, "A text\nof 字 & <$1$>."))
    labels = [node.text() for node in LexborHTMLParser(picture.svg).css("text")]
    assert labels[:8] == ["A", "·", "t", "e", "x", "t", "↵", "o"]
    assert labels[-2:] == ["block 2, head 1", "block 2, head 2"] or "block 2, head 2" in labels
    assert picture.svg.count("<image") == 2
    assert len(picture.svg) < 20_000
    assert not recwarn.list


def test_a_browser_shows_what_the_figures_of_a_page_hold(context, tmp_path):
    """Its policy forbids a page to load anything; the images within its own figures are not to be caught by that."""
    try:
        chromium = find_chromium()
    except UserError as error:
        pytest.skip(str(error))
    artifact = materialize(Kan(), ReportConfig(title="mlp"), {}, context).artifact
    [picture] = attention_maps(artifact, "A text\nof 字 & <$1$>.")
    config = ComparisonConfig(
        experiment="tried", quick=False, runs=[("a", (), 0), ("b", (), 0)], stages=[[0], [0]],
        declared={
            "claim": "c", "contrasts": [{"better": "a", "than": "b"}],
            "variants": {"a": {}, "b": {"pretrain": {"model": {"heads": 2}}}},
        },
    )  # fmt: skip
    made = materialize(comparison, config, {"results": [artifact] * 2, "stages": [artifact]}, context).artifact
    page = (made.path / "index.html").read_text()
    policy = re.compile(r"<meta http-equiv=.Content-Security-Policy.[^>]*>")
    assert page.count("<image") == 2 * picture.svg.count("<image") > 0
    shots = {}
    for name, text in {"as it is": page, "without a policy": policy.sub("", page)}.items():
        (tmp_path / "page.html").write_text(text)
        command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
        command += [f"--screenshot={tmp_path / 'shot.png'}", "--window-size=1000,2000", f"file://{tmp_path}/page.html"]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        shots[name] = (tmp_path / "shot.png").read_bytes()
    assert page != policy.sub("", page)
    assert shots["as it is"] == shots["without a policy"]


@pytest.mark.parametrize(
    ("model", "shown"),
    [({"heads": 2}, ["the middle block"]), ({"feed_forward": "kan-rbf"}, ["Learned functions"]), ({"width": 32}, [])],
)
def test_a_comparison_shows_the_insides_of_models_that_differ_in_them(context, model, shown):
    declared = {
        "claim": "It is so.", "variants": {"a": {}, "b": {"pretrain": {"model": model}}},
        "contrasts": [{"better": "a", "than": "b"}],
    }  # fmt: skip
    made = materialize(Kan(), ReportConfig(title="kan-rbf"), {}, context).artifact
    runs = [("a", (), 0), ("b", (), 0)]
    config = ComparisonConfig(experiment="tried", declared=declared, quick=False, runs=runs, stages=[[0], [0]])
    stats = materialize(comparison, config, {"results": [made, made], "stages": [made]}, context).artifact.stats
    assert [title.partition(":")[0] for title in stats["pictures"]] == ["a", "b"][: 2 * len(shown)]
    assert all(part in title for part in shown for title in stats["pictures"])
