"""Training as a process of its own: what it prints, and from where it imports."""

import json
import subprocess

import pytest

from modeling.config.finetune import FinetuneConfig
from modeling.device import training_environment
from modeling.training.process import command


def start(arguments, **options):
    options = {"env": training_environment()} | options
    return subprocess.run(arguments, capture_output=True, text=True, **options)


def test_progress_comes_as_json_lines(tokens, tokenizer_folder, tiny, tmp_path):
    out = tmp_path / "new" / "folder"
    config = tiny(steps=6, log_every=2, evaluate_every=6)
    done = start(command(config, tokens, tokenizer_folder, out))
    assert done.returncode == 0, done.stderr
    messages = [json.loads(line) for line in done.stdout.splitlines()]
    assert [message["done"] for message in messages] == [2, 4, 6, 6]
    assert all(message["total"] == 6 and message["unit"] == "steps" for message in messages)
    assert messages[0]["loss"] > 0 and "validation_loss" in messages[-1]
    assert (out / "stats.json").exists()


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_folder_called_like_a_package_of_ours_is_not_taken_for_it(
    processes, tokens, tokenizer_folder, tiny, tmp_path
):
    for name in ("modeling", "tokenization", "textmill"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('this is not the package')")
    config = tiny(steps=2, evaluate_every=2, processes=processes)
    done = start(command(config, tokens, tokenizer_folder, tmp_path / "out"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "out" / "stats.json").exists()


def test_a_users_mistake_is_one_message_and_status_2(tokens, tmp_path):
    done = start(command(FinetuneConfig(), tokens, tmp_path, tmp_path / "out"))
    assert done.returncode == 2
    assert "is not a checkpoint" in json.loads(done.stdout)["error"]
    wrong = command(FinetuneConfig(), tokens, tmp_path, tmp_path / "out")
    wrong[wrong.index("--config") + 1] = '{"steps": 0}'
    done = start(wrong)
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"].startswith("steps: ")
    wrong[wrong.index("--config") + 1] = str(tmp_path / "none.json")
    done = start(wrong)
    assert done.returncode == 2
    assert "none.json cannot be read" in json.loads(done.stdout)["error"]


WITH_LITTLE_DISK = """
import resource, sys
from modeling.training.process import main

resource.setrlimit(resource.RLIMIT_FSIZE, (100_000,) * 2)
sys.exit(main())
"""


def test_a_disk_that_is_full_while_a_checkpoint_is_saved_is_one_message(tokens, tokenizer_folder, tiny, tmp_path):
    arguments = command(tiny(steps=6, checkpoint_every=2, evaluate_every=6), tokens, tokenizer_folder, tmp_path)
    module = arguments.index("-m")
    done = start([*arguments[:module], "-c", WITH_LITTLE_DISK, *arguments[module + 2 :]])
    assert done.returncode == 2, done.stderr
    assert "the disk is full" in json.loads(done.stdout.splitlines()[-1])["error"]
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "checkpoints").iterdir())  # nothing half-written takes up what room there is
    assert start(arguments).returncode == 0


def test_a_mistake_that_another_rank_meets_is_told_too(tokens, tmp_path):
    wrong = command(FinetuneConfig(), tokens, tmp_path, tmp_path / "out")
    done = start(wrong, env=training_environment() | {"RANK": "1"})
    assert done.returncode == 2
    assert "is not a checkpoint" in json.loads(done.stdout)["error"]
