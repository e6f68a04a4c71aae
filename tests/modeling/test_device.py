"""Device and precision, and the environment of a training process."""

import os
import subprocess
import sys

import pytest
import torch

from modeling.device import GPUS, choose, fast_bf16, gpu_called, training_environment
from textmill.errors import UserError


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
    assert (
        "hugetlb"
        in subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True).stdout
    )
    monkeypatch.setenv("GLIBC_TUNABLES", "mine")
    assert training_environment()["GLIBC_TUNABLES"] == "mine"
