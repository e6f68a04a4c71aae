"""Pipelines that start from weights of others: what a configuration says, what is refused before a run, a whole run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from flows.cli.model import cost
from flows.engine.assess import identify
from flows.engine.materialize import materialize
from flows.engine.stage import Context
from flows.pipeline.config import load_config, parse_overrides
from flows.pipeline.plan import plan
from flows.pipeline.project import Project
from flows.pipeline.reproduce import write_configuration
from flows.pipeline.selection import Selection
from flows.service.deployments import declared
from flows.stages.comparison import result_of
from flows.stages.import_checkpoint import import_checkpoint
from flows.store.local import Store
from modeling.checkpoint import CheckpointConfig
from modeling.config.pretrain import ImportConfig
from modeling.cost import flops_per_token
from textmill.errors import UserError
from tokenization.formats import save_tokenizer
from tokenization.tokenizer import Tokenizer

transformers = pytest.importorskip("transformers")

NO_OWN = {"train_tokenizer": None, "pretrain": None}


def a_gpt2(folder: Path, seed: int = 0) -> Path:
    """A small GPT-2 of random weights with a tokenizer of bytes, as transformers saves it."""
    torch.manual_seed(seed)
    settings = {"vocab_size": 257, "n_layer": 2, "n_head": 2, "n_embd": 32, "n_positions": 32}
    config = transformers.GPT2Config(**settings, bos_token_id=256, eos_token_id=256)
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    save_tokenizer(Tokenizer({bytes([b]): b for b in range(256)}, "gpt2", {"<|endoftext|>": 256}), folder)
    for name in ("ranks.tiktoken", "tokenizer.yaml"):  # as it would come
        (folder / name).unlink()
    return folder


def test_a_pipeline_from_weights_of_others_has_no_tokenizer_and_no_pretraining_of_its_own(write_config, tmp_path):
    a_gpt2(tmp_path / "gpt2")
    config = load_config(write_config(**NO_OWN, finetune={"from": "gpt2"}, pairs={}))
    assert config.import_checkpoint == ImportConfig(path=str(tmp_path / "gpt2"))
    assert [step.stage for step in plan(config)] == [
        "scrape", "prepare", "import_checkpoint", "pretokenize", "pairs", "finetune", "report",
    ]  # fmt: skip
    assert {"train_tokenizer", "pretrain", "pretokenize"} <= Selection(only="finetune").leaves_out(config)
    with pytest.raises(UserError, match="the configuration has no pretrain: import_checkpoint stands in its place"):
        plan(config, Selection(only="pretrain"))
    with pytest.raises(UserError, match=f"has no pretraining: it starts from {tmp_path / 'gpt2'}"):
        cost(tmp_path / "small.yaml")


def test_its_deployments_are_those_of_its_stages(small_config, tmp_path):
    (tmp_path / "configs").mkdir()
    small_config(tmp_path / "configs", **NO_OWN, finetune={"from": "gpt2"})
    titles = {deployment.title for deployment in declared(Project.open(tmp_path))}
    assert "import_checkpoint/import_checkpoint" in titles and "finetune/finetune" in titles
    assert not titles & {"pretrain/pretrain", "train_tokenizer/train_tokenizer"}


@pytest.mark.parametrize(
    ("sections", "settings", "message"),
    [
        ({"train_tokenizer": None}, [], r"pretrain: a checkpoint is imported .* or set pretrain=null"),
        ({"pretrain": None}, [], r"train_tokenizer: a checkpoint is imported .* or set train_tokenizer=null"),
        (NO_OWN, ["pretrain.steps=3"], r"pretrain: a checkpoint is imported .* leave it out"),
        (NO_OWN, ["import_checkpoint.path=gpt2"], r"finetune\.from is short for import_checkpoint\.path; give one"),
        (NO_OWN, ["finetune.from=7"], r"finetune\.from: give the path of a folder"),
    ],
)
def test_settings_without_use_are_refused(sections, settings, message, write_config):
    with pytest.raises(UserError, match=message):
        load_config(write_config(**sections, finetune={"from": "gpt2"}), parse_overrides(settings))


def test_a_folder_that_is_missing_or_refused_is_told_before_any_work(write_config, tmp_path):
    config = load_config(write_config(**NO_OWN, finetune={"from": "gpt2"}))
    with pytest.raises(UserError, match=f"^{tmp_path / 'gpt2'} is no folder; give one that [^\n]+$"):
        plan(config)
    a_gpt2(tmp_path / "gpt2")
    path = tmp_path / "gpt2" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"activation_function": "gelu"}))
    with pytest.raises(UserError, match=r"^[^\n]+config.json: activation_function is 'gelu': our models have [^\n]+$"):
        plan(config)


def test_a_folder_counts_by_what_is_in_it(tmp_path):
    store = Store(tmp_path / "store")

    def identity(path: Path) -> dict:
        return identify(import_checkpoint, ImportConfig(path=str(path)), {}, store)

    first = identity(a_gpt2(tmp_path / "a"))
    (tmp_path / "a" / "README.md").write_text("not read")
    assert identity(a_gpt2(tmp_path / "b")) == first == identity(tmp_path / "a")
    assert identity(a_gpt2(tmp_path / "c", seed=1)) != first
    made = materialize(import_checkpoint, ImportConfig(path=str(tmp_path / "a")), {}, Context(store))
    assert made.headline.startswith("causal, 2 layers, width 32, ") and made.headline.endswith("[PAD] of them added")
    assert materialize(import_checkpoint, ImportConfig(path=str(tmp_path / "b")), {}, Context(store)).reused


@pytest.mark.slow
def test_a_run_fine_tunes_weights_of_others(write_config, textmill, tmp_path):
    a_gpt2(tmp_path / "gpt2")
    path = write_config(**NO_OWN, finetune={"from": "gpt2"}, pairs={})
    process = textmill("run", path)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    found = {artifact.manifest.stage: artifact for artifact in Store(tmp_path / "store").artifacts()}
    assert found.keys() == {"scrape", "prepare", "import_checkpoint", "pretokenize", "pairs", "finetune", "report"}
    imported, tuned = found["import_checkpoint"], found["finetune"]
    origins = {entry.stage for entry in found["pretokenize"].manifest.origins}
    assert origins == {"prepare", "import_checkpoint"}
    assert [entry.fingerprint for entry in tuned.manifest.inputs["checkpoint"]] == [imported.manifest.fingerprint]
    assert imported.stats["vocab_size"] == 261
    cost = flops_per_token(CheckpointConfig.read(tuned.path).model, 261)
    assert result_of("tuned", (), 0, tuned).spent["flops"] == cost * tuned.stats["tokens_seen"]
    page = (found["report"].path / "index.html").read_text()
    assert "special token that was added" in page
    assert {step.action for step in plan(load_config(path))} == {"reuse"}
    again = load_config(write_configuration(tuned, tmp_path / "again"))
    steps = {step.stage: step.fingerprint for step in plan(again, Selection(until="finetune"))}
    assert steps["finetune"] == tuned.manifest.fingerprint
    filled = textmill("fill", tuned.path, "The [MASK] of it.")
    assert filled.communicate(timeout=120)[0].strip().startswith("The")
