"""A longer run goes on from a finished one, to the bytes that it would have come to from the start; or says why not."""

import json
import logging
import shutil
from pathlib import Path

import pytest

from modeling.config.finetune import FinetuneConfig
from modeling.config.pretrain import PretrainConfig
from modeling.training import state
from modeling.training.checkpoints.extending import RESUMABLE, kept_step, reason_against, stable_steps
from modeling.training.finetune import finetune
from modeling.training.pretrain import pretrain
from textmill.errors import UserError

SMALL = {"layers": 2, "width": 32, "heads": 2, "context": 32}


def slow(*values: object):
    return pytest.param(*values, marks=pytest.mark.slow)


def files(folder: Path) -> dict[str, bytes]:
    """Those that the digest of an artifact covers."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != "timing.jsonl"}


@pytest.fixture
def trained(tokens, tokenizer_folder, tiny, tmp_path):
    """Trains into a folder of this name; what it told of steps."""

    def train(name: str, **changes) -> list[int]:
        told = []
        out = tmp_path / name
        pretrain(tokens, tokenizer_folder, tiny(log_every=1, **changes), out, lambda step, *_, **__: told.append(step))
        return told

    (tmp_path / "long").mkdir()
    (tmp_path / "short").mkdir()
    return train


@pytest.mark.parametrize(
    ("common", "goes_on_after"),
    [
        ({}, 20),
        slow({"ema": 0.9, "optimizer": {"name": "adamw"}, "model": SMALL | {"dropout": 0.1}}, 20),
        ({"schedule": {"shape": "constant", "warmup": 5}}, 40),
        slow({"schedule": {"shape": "wsd", "decay": 0.3, "warmup": 3}}, 28),
        slow({"progressive": {"layers": 1, "until": 0.9}}, 20),
    ],
    ids=["wsd", "averaged, with dropout", "constant", "at a step between checkpoints", "progressive"],
)  # fmt: skip
def test_a_longer_run_in_the_same_folder_comes_to_the_same_bytes(common, goes_on_after, trained, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    trained("short", **common)
    assert [path.name for path in (tmp_path / "short" / RESUMABLE).iterdir()] == [f"step-{goes_on_after:08d}"]
    told = trained("short", **common, steps=80)
    assert min(told) in (goes_on_after, goes_on_after + 1)
    assert f"going on from step {goes_on_after} of a finished run of 40 steps, to step 80" in caplog.text
    trained("long", **common, steps=80)
    assert files(tmp_path / "short") == files(tmp_path / "long")
    once_more = trained("short", **common, steps=80)
    assert not once_more  # it is finished


@pytest.mark.slow
def test_the_curve_of_a_longer_run_has_its_own_points(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(state, "CURVE_POINTS", 16)  # every 2nd step, then every 5th
    trained("short")
    trained("short", steps=80)
    trained("long", steps=80)
    assert files(tmp_path / "short") == files(tmp_path / "long")
    rows = [json.loads(line) for line in (tmp_path / "short" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == list(range(5, 81, 5))


@pytest.mark.slow
def test_a_run_that_was_killed_while_it_went_on_goes_on(trained, tokens, tokenizer_folder, tiny, tmp_path):
    trained("short")

    def dying(step: float, *_: object, **__: object) -> None:
        if step == 33:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(tokens, tokenizer_folder, tiny(log_every=1, steps=80), tmp_path / "short", dying)
    with pytest.raises(UserError, match="holds an unfinished run with other settings"):
        trained("short", steps=90)
    assert min(trained("short", steps=80)) > 30
    trained("long", steps=80)
    assert files(tmp_path / "short") == files(tmp_path / "long")


def test_a_finished_fine_tuning_is_gone_on_from(pretrained, tokens, tmp_path):
    def tune(name: str, steps: int) -> list[int]:
        told = []
        config = FinetuneConfig(
            steps=steps, batch=8, evaluate_every=20, evaluate_tokens=1024, checkpoint_every=10, log_every=1,
            schedule={"warmup": 4}, sample_blank="the cat s[MASK]es a tree",
        )  # fmt: skip
        (tmp_path / name).mkdir(exist_ok=True)
        finetune(pretrained, tokens, config, tmp_path / name, lambda step, *_, **__: told.append(step))
        return told

    tune("short", 40)
    assert min(tune("short", 60)) > 20
    tune("long", 60)
    assert files(tmp_path / "short") == files(tmp_path / "long")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"steps": 80, "seed": 1}, r"run\.seed: 1 here, 0 there.*\); give another folder"),
        ({"steps": 30}, "from step 20, but here the learning rate of step 17 is another"),
        ({"steps": 10}, "from step 20, but this run has 10"),
        ({"steps": 80, "schedule": {"shape": "cosine"}}, "a cosine schedule spreads over all steps"),
        ({"steps": 80, "schedule": {"warmup": 5}}, "here the learning rate of step 1 is another"),
        ({"steps": 80, "progressive": {"layers": 1, "until": 0.5}}, "here step 1 trains other layers"),
    ],
)
def test_a_run_that_cannot_go_on_is_refused_in_one_line(changes, reason, trained, tmp_path):
    trained("short")
    before = files(tmp_path / "short")
    with pytest.raises(UserError, match=reason) as told:
        trained("short", **changes)
    assert "\n" not in str(told.value)
    assert files(tmp_path / "short") == before


@pytest.mark.parametrize(
    ("common", "reason"),
    [
        ({"schedule": {"shape": "cosine"}}, "a cosine schedule spreads over all steps"),
        ({"multi_token": {"weights": [0.5]}}, "multi_token spreads over the steps"),
        ({"keep": "best", "evaluate_every": 10}, "with keep: best, the best weights may be those of a step before"),
        ({"schedule": {"decay": 1}}, "its learning rate falls from the first step"),
        ({"extendable": False}, "it kept no checkpoint to go on from, as `extendable: true` would"),
    ],
)
def test_a_run_that_nothing_can_go_on_from_says_so(common, reason, trained, tmp_path):
    trained("short", **common)
    with pytest.raises(UserError, match=reason):
        trained("short", **common, steps=80)


def test_damage_is_noticed_and_the_run_begins_anew(trained, tmp_path, caplog):
    trained("short")
    [kept] = (tmp_path / "short" / RESUMABLE).iterdir()
    weights = kept / "training.safetensors"
    content = bytearray(weights.read_bytes())
    content[-9] ^= 1
    weights.unlink()
    weights.write_bytes(content)
    with pytest.raises(UserError, match="it kept no checkpoint to go on from"):
        trained("short", steps=80)
    shutil.move(tmp_path / "short" / RESUMABLE, tmp_path / "long")
    assert min(trained("long", steps=80)) == 1
    assert [path.name for path in (tmp_path / "long" / RESUMABLE).iterdir()] == ["step-00000040"]


def test_what_is_kept_follows_from_the_schedule_and_the_size():
    def run(**changes) -> PretrainConfig:
        return PretrainConfig.model_validate({"steps": 200} | changes)

    assert stable_steps(run()) == 100
    assert stable_steps(run(schedule={"decay": 0})) == stable_steps(run(schedule={"shape": "constant"})) == 200
    assert stable_steps(run(schedule={"shape": "cosine"})) == 0
    assert stable_steps(run(mixture={"a": {"weight": 1}})) == 0
    assert kept_step(run(), 10**8) == 100 and kept_step(run(), 10**8 + 1) is None
    assert kept_step(run(extendable=True), 10**9) == 100 and kept_step(run(extendable=False), 1) is None
    assert kept_step(run(extendable=True, schedule={"shape": "cosine"}), 1) is None
    mixed = run(mixture={"a": {"weight": 1}})
    assert "a mixture is shared out over the run's steps" in (reason_against(mixed, mixed, 10) or "")
