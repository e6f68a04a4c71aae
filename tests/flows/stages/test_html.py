"""The pages of reports and comparisons, rendered from what their stages give them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flows.engine.materialize import materialize
from flows.engine.page import Bars, Picture, Sample, Table, Text
from flows.engine.stage import Context, Stage
from flows.stages.comparison import ComparisonConfig, comparison
from flows.stages.html import flat_metrics, number
from flows.stages.report import ReportConfig, report
from flows.store.local import Store

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


def test_a_comparison_names_the_favored_variant_the_conclusion_and_every_value(context):
    runs = [("ours", 0), ("theirs", 0), ("ours", 1), ("theirs", 1)]
    config = ComparisonConfig(
        experiment="tried",
        claim="Ours is better.",
        favored="ours",
        metric="bits_per_byte",
        lower_is_better=True,
        runs=runs,
    )
    results = [trained(context, value) for value in ("1.5", "2.25", "1.75", "2.5")]
    outcome = materialize(comparison, config, {"results": results}, context)
    assert outcome.headline == "the claim holds (with 2 of 2 seeds; fewer than 3 may be luck: --seeds 3)"
    page = (outcome.artifact.path / "index.html").read_text()
    for wanted in (
        "Ours is better.",
        "<b>ours</b>",
        "holds (with 2 of 2 seeds",
        "bits per byte",
        "1.625",
        "2.25",
        "<svg",
    ):
        assert wanted in page, wanted
    kinds = [type(block) for block in comparison.page(outcome.artifact)]
    assert kinds == [Text, Picture, Table]


def test_a_report_shows_an_artifact_whose_stage_this_version_does_not_have(context):
    outcome = materialize(report, ReportConfig(title="All & sundry"), {"corpus": trained(context, "1.5")}, context)
    page = (outcome.artifact.path / "index.html").read_text()
    for wanted in ("All &amp; sundry", "<h2>trained</h2>", "nested.steps", "2,000", "a &lt;b&gt; c"):
        assert wanted in page, wanted
    assert outcome.artifact.stats == {"figures": 0, "stages": 1}


@pytest.mark.parametrize(
    ("block", "wanted", "unwanted"),
    [
        (Table(("split", "tokens"), [("train", 12345)]), ["<th>split</th>", '<td class="n">12,345</td>'], []),
        (Bars("dropped", {"few <words>": 3, "spam": 12}), ["width: 100.0%", "width: 25.0%", "few &lt;words&gt;"], []),
        (Bars("dropped", {"spam": 0}), [], ["dropped"]),
        (Bars("dropped", {}), [], ["dropped"]),
        (Text("1 < 2"), ["<p>1 &lt; 2</p>"], []),
        (Sample("It writes", "<script>"), ["It writes", "&lt;script&gt;"], ["<script>"]),
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
