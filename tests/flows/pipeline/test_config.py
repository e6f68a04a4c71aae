"""Configuration: what is read, what can be set, and what a mistake is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flows.engine.assess import fingerprint_of, identify
from flows.pipeline.config import PipelineConfig, load_config, parse_overrides
from flows.pipeline.plan import plan
from flows.pipeline.selection import Selection
from flows.stages.ingest import ingest
from flows.stages.prepare import PrepareSettings, prepare
from flows.stages.scrape import scrape
from flows.store.fingerprint import canonical
from flows.store.local import Store
from textmill.errors import UserError

CONFIGS = Path(__file__).parents[3] / "configs"


@pytest.fixture
def write(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "my.yaml"
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_configuration_loads(path):
    assert load_config(path).name == path.stem


def test_settings_override_keys_of_the_file(write):
    path = write("pretrain: {preset: nano, steps: 10}\n")
    texts = ["pretrain.steps=20", "scrape.sources=[python-docs]", "pretrain.optimizer.head_lr=3e-4", "finetune=null"]
    config = load_config(path, parse_overrides(texts))
    assert config.pretrain.steps == 20
    assert config.scrape.sources == ["python-docs"]
    assert config.pretrain.optimizer.head_lr == 3e-4
    assert config.finetune is None


def test_fine_tuning_goes_on_with_the_optimizer_of_pretraining_at_a_tenth_of_its_rates(write):
    config = load_config(write("pretrain: {preset: nano, optimizer: {momentum: 0.9}}\nfinetune: {steps: 50}\n"))
    assert config.finetune.optimizer.name == "muon"
    assert (config.finetune.optimizer.matrix_lr, config.finetune.optimizer.momentum) == (0.002, 0.9)
    assert config.finetune.schedule.warmup == 5
    nothing = load_config(write("finetune: {schedule: {warmup: 0}}\n")).finetune
    assert nothing.schedule.warmup == 0


def test_a_partly_given_optimizer_of_fine_tuning_is_laid_over_that_of_pretraining(write):
    texts = ["pretrain.preset=chimera", "finetune.optimizer.lr=1e-4"]
    given = load_config(write(""), parse_overrides(texts))
    pretraining = given.pretrain.optimizer
    assert (pretraining.name, pretraining.lr) == ("adamw", 3e-4)
    assert given.finetune.optimizer.model_dump() == pretraining.model_dump() | {
        "lr": 1e-4, "matrix_lr": 0.002, "embedding_lr": 0.03, "head_lr": 0.0008, "scalar_lr": 0.002
    }  # fmt: skip
    again = type(given.finetune).model_validate_json(given.finetune.model_dump_json())
    assert again == given.finetune  # the process that trains reads what the pipeline decided
    other = load_config(write("pretrain: {optimizer: {name: adamw}}\nfinetune: {optimizer: {name: muon}}\n"))
    assert other.finetune.optimizer.name == "muon"
    with pytest.raises(UserError, match=r"finetune\.optimizer: lr would change nothing: muon has matrix_lr"):
        load_config(write(""), parse_overrides(["finetune.optimizer.lr=1e-4"]))


def test_where_dropout_is_drawn_the_windows_of_a_pass_belong_to_the_fingerprint(write):
    small = {"micro_batch": 2, "processes": 2}
    for preset, differs in (("nano", False), ("chimera", True)):
        path = write(f"pretrain: {{preset: {preset}}}\n")
        for stage in ("pretrain", "finetune"):
            sections = [getattr(load_config(path, overrides), stage) for overrides in ({}, {stage: small})]
            assert (canonical(sections[0]) != canonical(sections[1])) == differs
    own = load_config(write("pretrain: {preset: chimera}\nfinetune: {dropout: 0}\n")).finetune
    assert not own.draws_dropout


def test_where_a_blank_is_predicted_is_as_in_pretraining_unless_said(write):
    in_place = "pretrain: {objective: masked, masking: {shift: false}}\n"
    for text, expected in (("", True), (in_place, False), (in_place + "finetune: {shift: true}\n", True)):
        assert load_config(write(text)).finetune.shift is expected  # and so in the fingerprint
    assert load_config(write("finetune: {from: weights}\n")).finetune.shift is None  # the checkpoint says it


def test_the_report_s_presets_can_be_chosen(write):
    test = load_config(write(""), {"pretrain": {"preset": "test"}}).pretrain
    assert (test.model.width, test.model.context, test.model.heads, test.model.layers) == (8, 4, 4, 3)
    assert (test.batch, test.optimizer.lr, test.steps, test.model.dropout) == (8, 1e-3, 5000, 0.1)
    chimera = load_config(write(""), {"pretrain": {"preset": "chimera"}}).pretrain
    assert (chimera.model.width, chimera.model.context, chimera.model.heads, chimera.model.layers) == (384, 256, 6, 6)
    assert (chimera.batch, chimera.optimizer.lr, chimera.steps, chimera.model.dropout) == (64, 3e-4, 5000, 0.2)


@pytest.mark.parametrize(
    ("text", "settings", "expected"),
    [
        (
            "name: x\npretrain:\n  stepps: 3\n",
            [],
            r"my.yaml:3: pretrain.stepps: unknown key; did you mean pretrain.steps\?",
        ),
        ("pretran: {steps: 3}\n", [], r"my.yaml:1: pretran: unknown key; did you mean pretrain\?"),
        ("vocab_size: 300\n", [], r"my.yaml:1: vocab_size: unknown key; did you mean train_tokenizer.vocab_size\?"),
        ("pretrain:\n  model:\n    layerz: 3\n", [], r"my.yaml:3: .*did you mean pretrain.model.layers\?"),
        (
            "pretrain:\n  model:\n    kind: recurrent\n    celll: gru\n",
            [],
            r"my.yaml:4: pretrain.model.celll: unknown key; did you mean pretrain.model.cell\?",
        ),
        (
            "",
            ["pretrain.model.kind=recurrent", "pretrain.model.heads=2"],
            r"setting pretrain.model.heads: unknown key of this kind, though another has it; known: .*cell",
        ),
        (
            "",
            ["pretrain.model.kind=recurent"],
            r"setting pretrain.model: there is no such kind of network; choose from transformer, recurrent",
        ),
        ("pretrain:\n  steps: many\n", [], r"my.yaml:2: pretrain.steps: .*integer.*\(got 'many'\)"),
        ("", ["pretrain.steps=-3"], r"setting pretrain.steps: .*greater than 0 \(got -3\)"),
        ("", ["pretrain.setps=3"], r"setting pretrain.setps: unknown key.*did you mean pretrain.steps\?"),
        (
            "",
            ["pretrain.mixture={}", "pretrain.mixture.a.weight=1"],
            r"pretrain.mixture.a: another setting makes pretrain.mixture \{\}, .* write pretrain.mixture into the file",
        ),
        (
            "",
            ["finetune=null", "finetune.steps=3"],
            r"finetune.steps: another setting makes finetune null, and the",
        ),
        ("", ["pretrain"], r"--set pretrain: write section.key=value"),
        ("", ["scrape.sources=[python-doc]"], r"no source python-doc.*did you mean python-docs\?"),
        ("name: [\n", [], r"my.yaml:\d+: not valid YAML"),
        ("- a\n- b\n", [], r"a mapping of `key: value` lines is wanted"),
        ("train_tokenizer: {vocab_size: 256}\n", [], r"my.yaml:1: train_tokenizer: vocab_size 256 is too small"),
    ],
)
def test_a_mistake_is_named_with_its_place_and_remedy(write, text, settings, expected):
    with pytest.raises(UserError, match=expected):
        load_config(write(text), parse_overrides(settings))


def test_two_sources_of_one_name_are_refused(write, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "docs.yaml").write_text("start: [http://example.org]\ncontact: me@example.org\n")
    entries = [str(tmp_path / folder / "docs.yaml") for folder in ("a", "b")]
    with pytest.raises(UserError, match=r"scrape.sources: \S*a/docs.yaml and \S*b/docs.yaml are both called docs"):
        load_config(write(""), {"scrape": {"sources": entries}})
    (tmp_path / "b/docs.yaml").write_text("name: others\nstart: [http://example.org]\ncontact: me@example.org\n")
    assert load_config(write(""), {"scrape": {"sources": entries}}).scrape.sources == entries


def project_in(folder: Path) -> Path:
    """A project whose configuration names everything by relative paths; the configuration."""
    for name, text in {
        "configs/mine.yaml": "store: ../store\ningest: {path: ../texts.txt}\n"
        "scrape: {sources: [docs, ../other.yaml]}\n",
        "sources/docs.yaml": "start: [http://example.org]\ncontact: me@example.org\n",
        "other.yaml": "start: [http://example.com]\ncontact: me@example.org\n",
        "texts.txt": "one<|endoftext|>two",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder / "configs/mine.yaml"


def test_paths_are_relative_to_the_file_that_names_them_and_those_of_a_command_line_to_where_one_is(
    tmp_path, monkeypatch
):
    path = project_in(tmp_path / "project")
    project = path.parents[1]
    loaded = load_config(path)
    assert (Path(loaded.store), Path(loaded.ingest[0].path)) == (project / "store", project / "texts.txt")
    assert [Path(source) for source in loaded.scrape.sources] == [project / "sources/docs.yaml", project / "other.yaml"]
    monkeypatch.chdir(project)
    loaded = load_config(Path("configs/mine.yaml"))
    assert (loaded.store, loaded.scrape.sources) == ("store", ["sources/docs.yaml", "other.yaml"])
    (project / "elsewhere").mkdir()
    monkeypatch.chdir(project / "elsewhere")
    given = {"store": "here", "scrape": {"sources": ["../other.yaml", "docs"]}, "ingest": {"path": "../texts.txt"}}
    loaded = load_config(Path("../configs/mine.yaml"), given)
    assert Path(loaded.store) == project / "elsewhere/here"
    assert Path(loaded.ingest[0].path).samefile(project / "texts.txt")
    assert [source.name for source in loaded.scrape.load()] == ["docs", "other"]
    listed = path.read_text().replace("{path: ../texts.txt}", "[{path: ../texts.txt}]")
    path.write_text(listed + "prepare: {decontaminate: {paths: [../one.jsonl, ../two.jsonl]}}\n")
    numbered = ["prepare.decontaminate.paths.1=q.jsonl", "scrape.sources.0=../other.yaml", "scrape.sources.1=docs"]
    loaded = load_config(Path("../configs/mine.yaml"), parse_overrides([*numbered, "ingest.0.path=q.txt"]))
    assert [Path(item).resolve() for item in loaded.prepare.decontaminate.paths] == [
        project / "one.jsonl",
        project / "elsewhere/q.jsonl",
    ]
    assert Path(loaded.ingest[0].path) == project / "elsewhere/q.txt"
    assert [source.name for source in loaded.scrape.load()] == ["docs", "other"]
    for place in ("s3://bucket/prefix", "${TEXTMILL_STORE}", "/store"):
        assert load_config(path, {"store": place}).store == place
    with pytest.raises(UserError, match=rf"no source dogs: did you mean docs\? \(looked in {project}/sources"):
        load_config(path, {"scrape": {"sources": ["dogs"]}})


def test_where_a_project_lies_is_in_no_fingerprint(tmp_path):
    def fingerprints(folder: Path) -> list[str]:
        config = load_config(project_in(folder))
        store = Store(Path(config.store))
        identities = [identify(scrape, source, {}, store) for source in config.scrape.load()]
        return [fingerprint_of(identity) for identity in (*identities, identify(ingest, config.ingest[0], {}, store))]

    assert fingerprints(tmp_path / "a") == fingerprints(tmp_path / "b")


def test_the_code_of_a_record_reader_decides_what_is_prepared(write, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    reader, site = tmp_path / "reader_of_this_test.py", tmp_path / "site.yaml"
    site.write_text(
        "start: [http://example.org/]\ncontact: a@example.org\n"
        "extractor: {kind: records, reader: 'reader_of_this_test:Reader'}\n"
    )
    config = write(f"scrape: {{sources: ['{site}']}}\n")
    with pytest.raises(UserError, match="no record reader reader_of_this_test:Reader"):
        load_config(config)
    reader.write_text("class Reader:\n    pass\n")
    [source] = load_config(config).scrape.load()
    settings = PrepareSettings(extractors={source.name: source.extractor})
    before = prepare.identity(settings, None)
    reader.write_text("class Reader:\n    pass  # reads better\n")
    assert prepare.identity(settings, None) != before
    plain = PrepareSettings()
    assert prepare.identity(plain, None) is plain


def test_evaluation_texts_decide_a_corpus_by_name_and_contents_wherever_they_lie(write, tmp_path, monkeypatch):
    def identity(folder: Path, name: str, text: str) -> Any:
        (folder / "tests").mkdir(parents=True, exist_ok=True)
        (folder / "tests" / name).write_text(text)
        (folder / "pipeline.yaml").write_text(f"prepare: {{decontaminate: {{paths: [tests/{name}]}}}}\n")
        settings = PrepareSettings(corpus=load_config(folder / "pipeline.yaml").prepare)
        return fingerprint_of(identify(prepare, settings, {}, Store(tmp_path / "store")))

    monkeypatch.chdir(tmp_path)
    first = identity(tmp_path / "a", "quiz.txt", "What is it?")
    assert identity(Path("b"), "quiz.txt", "What is it?") == first
    assert identity(tmp_path / "c", "test.txt", "What is it?") != first
    assert identity(tmp_path / "a", "quiz.txt", "What is that?") != first
    crawl = "scrape: {sources: [python-docs]}\n"  # which would take its time before
    config = load_config(write(f"store: {tmp_path}\n{crawl}prepare: {{decontaminate: {{paths: [nowhere.txt]}}}}\n"))
    with pytest.raises(UserError, match=r"prepare.decontaminate.paths: \S*nowhere.txt holds no .txt, "):
        plan(config)


def test_a_recurrent_model_is_planned_but_not_fine_tuned(write, tmp_path):
    recurrent = f"store: {tmp_path}\nscrape: {{sources: [python-docs]}}\npretrain: {{model: {{kind: recurrent}}}}\n"
    with pytest.raises(
        UserError, match=r"finetune: a recurrent network does not see what follows a blank, .*; set finetune: null"
    ):
        plan(load_config(write(recurrent)))
    assert "pretrain" in [step.stage for step in plan(load_config(write(recurrent + "finetune: null\n")))]
    assert plan(load_config(write(recurrent)), Selection(until="pretrain"))


def test_what_to_do_is_told_where_an_encoder_decoder_would_be_made_a_masked_model(write, tmp_path):
    writing = f"store: {tmp_path}\nscrape: {{sources: [python-docs]}}\npretrain: {{model: {{kind: encoder-decoder}}}}\n"
    told = r"finetune: an encoder-decoder fills blanks without fine-tuning; set finetune: null, or give text_pairs to "
    with pytest.raises(UserError, match=told):
        plan(load_config(write(writing)))


def test_a_missing_file_is_named():
    with pytest.raises(UserError, match=r"nowhere.yaml: No such file.*give the path of a YAML file"):
        load_config(Path("nowhere.yaml"))


def test_every_mistake_is_told_at_once(write):
    with pytest.raises(UserError) as caught:
        load_config(write("pretrain:\n  stepps: 3\nfinetune:\n  steps: x\n"))
    assert len(str(caught.value).splitlines()) == 2


ENCODER_DECODER = {"pretrain": {"model": {"kind": "encoder-decoder"}}, "finetune": None}


def test_the_tokenizer_gets_the_sentinels_that_an_encoder_decoder_needs():
    config = PipelineConfig.model_validate(ENCODER_DECODER)
    assert config.train_tokenizer.sentinels == config.pretrain.sentinels() == 14
    assert "<extra_id_13>" in config.train_tokenizer.special_names()
    given = PipelineConfig.model_validate(ENCODER_DECODER | {"train_tokenizer": {"sentinels": 3, "vocab_size": 999}})
    assert (given.train_tokenizer.sentinels, given.train_tokenizer.vocab_size) == (3, 999)
    named = PipelineConfig.model_validate(ENCODER_DECODER | {"train_tokenizer": {"special_tokens": ["<extra_id_0>"]}})
    assert named.train_tokenizer.sentinels is None
    assert PipelineConfig().train_tokenizer.sentinels is None  # and its fingerprint is what it was


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"pairs": {}}, "encoder-decoder models are not tuned on pairs of sentences"),
        ({"text_pairs": {"paths": "a.csv"}}, "no fine-tuning that uses them; set text_pairs.use: pretrain"),
        ({"text_pairs": {"paths": "a.csv", "use": "pretrain"}, "finetune": {}}, "set finetune: null"),
        (
            {"text_pairs": {"paths": "a.csv"}, "finetune": {"mixture": {"a": {"weight": 1}}}},
            "finetune.mixture: sources",
        ),
        ({"train_tokenizer": {"vocab_size": 270}}, "vocab_size 270 is too small"),
    ],
)
def test_what_does_not_suit_an_encoder_decoder_is_refused(sections, message):
    with pytest.raises(ValueError, match=message):
        PipelineConfig.model_validate(ENCODER_DECODER | sections)
    with pytest.raises(ValueError, match="sources and targets need pretrain"):
        PipelineConfig.model_validate({"text_pairs": {"paths": "a.csv"}})
