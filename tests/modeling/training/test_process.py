"""Where training runs: device and precision, the environment, and the process of its own."""

import json
import os
import subprocess
import sys

import pytest
import torch

from modeling.config import FinetuneConfig
from modeling.device import GPUS, choose, fast_bf16, gpu_called, training_environment
from modeling.training.process import command
from textmill.errors import UserError


def start(arguments, **options):
    options = {"env": training_environment()} | options
    return subprocess.run(arguments, capture_output=True, text=True, **options)


def test_the_cpu_computes_in_bf16_where_it_has_instructions_for_it(monkeypatch):
    for name, native in ({"avx512_bf16": True}, True), ({"amx_bf16": True}, True), ({"avx2": True}, False):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda name=name: name)
        assert fast_bf16("cpu") is native
        assert choose("cpu").dtype == (torch.bfloat16 if native else torch.float32)
    assert choose("cpu", "fp32").dtype == torch.float32


def test_auto_takes_the_best_device_there_is(monkeypatch):
    for there in ("cuda", "mps", "cpu"):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there == "cuda")
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda there=there: there == "mps")
        assert choose("auto", "fp32", local_rank=0).device.type == there
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="'cuda' is not available here; use device: auto or cpu"):
        choose("cuda")
    with pytest.raises(UserError, match="there is no device 'tpu'; use auto, cuda, mps, cpu"):
        choose("tpu")


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100-PCIE"),
        ("NVIDIA A100-SXM4-40GB", "A100-40GB"),
        ("NVIDIA A100 80GB PCIe", "A100"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA GeForce RTX 4090", "4090"),
        ("NVIDIA L40", None),
        ("Tesla T4", None),
    ],
)
def test_a_gpu_is_known_by_the_words_of_its_name(name, known):
    assert gpu_called(name) is GPUS.get(known)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's tunables")
def test_the_training_environment_reaches_the_allocator(monkeypatch):
    environment = training_environment()
    assert environment.items() >= {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}.items()
    program = "import os; print(os.environ['GLIBC_TUNABLES'])"
    assert "hugetlb" in start([sys.executable, "-c", program], env=environment).stdout
    monkeypatch.setenv("GLIBC_TUNABLES", "mine")
    assert training_environment()["GLIBC_TUNABLES"] == "mine"


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


def test_a_mistake_that_another_rank_meets_is_told_too(tokens, tmp_path):
    wrong = command(FinetuneConfig(), tokens, tmp_path, tmp_path / "out")
    done = start(wrong, env=training_environment() | {"RANK": "1"})
    assert done.returncode == 2
    assert "is not a checkpoint" in json.loads(done.stdout)["error"]
