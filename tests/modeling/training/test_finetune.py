"""Masked fine-tuning from causal weights."""

import json
import logging
import shutil

import pytest

from modeling.checkpoint import CONFIG, load_model
from modeling.config.finetune import FinetuneConfig
from modeling.training.finetune import finetune
from textmill.errors import UserError
from textmill.progress import quiet


def test_it_fills_blanks_far_better_than_the_most_frequent_token(finetuned):
    stats = json.loads((finetuned / "stats.json").read_text())
    assert stats["most_frequent_accuracy"] < 0.3  # a space or an e, in this language
    assert stats["masked_accuracy"] > stats["most_frequent_accuracy"] + 0.3


def test_the_checkpoint_says_what_it_is(finetuned, pretrained):
    model, config = load_model(finetuned)
    assert config.objective == "masked"
    assert not model.causal
    assert config.model == load_model(pretrained)[1].model


def test_the_weights_it_starts_from_matter(pretrained, finetuned, tokens, tiny, tmp_path):
    # as many steps from weights that have seen almost nothing
    from modeling.training.pretrain import pretrain

    raw = tmp_path / "raw"
    raw.mkdir()
    pretrain(tokens, pretrained, tiny(steps=1, evaluate_every=1), raw, quiet)
    few = FinetuneConfig(steps=20, batch=8, evaluate_every=20, evaluate_tokens=1024)
    accuracy = {}
    for name, start in {"raw": raw, "trained": pretrained}.items():
        out = tmp_path / f"from-{name}"
        out.mkdir()
        finetune(start, tokens, few, out, quiet)
        accuracy[name] = json.loads((out / "stats.json").read_text())["masked_accuracy"]
    assert accuracy["trained"] > accuracy["raw"] + 0.1


def test_what_is_no_checkpoint_is_an_error_at_once(tokens, tmp_path):
    with pytest.raises(UserError, match=r"is not a checkpoint \(config.json is missing\); give the folder"):
        finetune(tokens, tokens, FinetuneConfig(), tmp_path, pytest.fail)
    (tmp_path / "config.json").write_text('{"architectures": ["GPT2LMHeadModel"]}')
    with pytest.raises(UserError, match="is not a checkpoint this version reads"):
        finetune(tmp_path, tokens, FinetuneConfig(), tmp_path, pytest.fail)


FEW = {"steps": 4, "batch": 8, "evaluate_every": 4, "evaluate_tokens": 256}


def test_a_sample_text_that_does_not_fit_is_an_error_before_training(pretrained, tokens, tmp_path):
    config = FinetuneConfig(**FEW, sample_blank="the " + "漢" * 60 + "[MASK] tree")
    with pytest.raises(UserError, match=r"sample_blank comes to 182 tokens but the window holds 32; shorten sample"):
        finetune(pretrained, tokens, config, tmp_path, pytest.fail)
    assert not list(tmp_path.iterdir())


class Stopped(BaseException):
    """A kill."""


def stop(*_: object, **__: object) -> None:
    raise Stopped


def test_an_unfinished_run_goes_on_with_another_sample_text(pretrained, tokens, tmp_path):
    with pytest.raises(Stopped):
        finetune(pretrained, tokens, FinetuneConfig(**FEW), tmp_path, stop)
    other = FinetuneConfig(**FEW, sample_blank="a [MASK] sees")
    finetune(pretrained, tokens, other, tmp_path, quiet)
    assert json.loads((tmp_path / "stats.json").read_text())["sample_blank"] == "a [MASK] sees"
    assert load_model(tmp_path)[1].run["sample_blank"] == "a [MASK] sees"
    with pytest.raises(UserError, match=r"finished run with other settings \(run.sample_blank: The"):
        finetune(pretrained, tokens, FinetuneConfig(**FEW), tmp_path, pytest.fail)


def test_a_finished_folder_of_a_version_that_recorded_less_is_finished(pretrained, tokens, tmp_path, caplog):
    out = tmp_path / "out"
    out.mkdir()
    finetune(pretrained, tokens, FinetuneConfig(**FEW, dropout=0.1), out, quiet)
    fields = json.loads((out / CONFIG).read_text())
    for name in ("dropout", "micro_batch", "processes", "inputs"):
        del fields["run"][name]
    (out / CONFIG).write_text(json.dumps(fields))
    caplog.set_level(logging.INFO)
    finetune(pretrained, tokens, FinetuneConfig(**FEW, dropout=0.1), out, pytest.fail)
    assert f"{out} is finished; nothing to do" in caplog.text
    with pytest.raises(UserError, match=r"\(model.dropout: 0.2 here, 0.1 there\)"):
        finetune(pretrained, tokens, FinetuneConfig(**FEW, dropout=0.2), out, pytest.fail)
    del fields["run"]["mask_rate"]
    (out / CONFIG).write_text(json.dumps(fields))
    with pytest.raises(UserError, match=r"\(run.mask_rate: 0.3 here, not recorded \(another version wrote it\) there"):
        finetune(pretrained, tokens, FinetuneConfig(**FEW, dropout=0.1), out, pytest.fail)


def test_a_finished_folder_refuses_another_origin(pretrained, tokens, tokenizer_folder, tiny, tmp_path):
    from modeling.training.pretrain import pretrain

    other, out = tmp_path / "other", tmp_path / "out"
    for folder in (other, out):
        folder.mkdir()
    pretrain(tokens, tokenizer_folder, tiny(steps=1, evaluate_every=1, sample_tokens=0), other, quiet)
    finetune(pretrained, tokens, FinetuneConfig(**FEW), out, quiet)
    finetune(shutil.copytree(pretrained, tmp_path / "moved"), tokens, FinetuneConfig(**FEW), out, pytest.fail)
    with pytest.raises(UserError, match=r"holds a finished run with other settings \(run.inputs.origin: \w{16} here"):
        finetune(other, tokens, FinetuneConfig(**FEW), out, pytest.fail)


def test_what_positions_see_is_that_of_pretraining_unless_said(tokens, tokenizer_folder, tiny, tmp_path):
    from modeling.inference.evaluate import Windows, evaluate
    from modeling.training.pretrain import pretrain

    folders = {}
    for attend in ("window", "document"):
        folders[attend] = out = tmp_path / attend
        out.mkdir()
        config = tiny(steps=20, attend=attend, window_start="document" if attend == "document" else "anywhere")
        pretrain(tokens, tokenizer_folder, config, out, quiet)
        assert load_model(out)[1].attends_documents == (attend == "document")
        if attend == "document":  # other commands read windows as training did
            stats = json.loads((out / "stats.json").read_text())
            found = evaluate(out, tokens, Windows(stride=32), device="cpu")
            assert found["loss"] == pytest.approx(stats["validation_loss"], rel=0.05)
    for name, given, expected in (("as it was", {}, True), ("said", {"attend": "window"}, False)):
        (tmp_path / name).mkdir()
        finetune(folders["document"], tokens, FinetuneConfig(**FEW, **given), tmp_path / name, quiet)
        assert load_model(tmp_path / name)[1].attends_documents == expected
    recorded = json.loads((folders["window"] / CONFIG).read_text())["run"]
    assert not {"attend", "window_start"} & recorded.keys()  # as before there was the choice
