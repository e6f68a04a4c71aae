"""The end of a rank: its group is left without waiting for ever for the group's threads, whatever is unfinished."""

import subprocess
import sys

import pytest

from modeling.device import training_environment

pytestmark = pytest.mark.slow

RANK = """
import sys
import torch
import torch.distributed as dist
from modeling.training.distributed import join_ranks
from modeling.training.parallel import DistributedDataParallel

def work():
    join_ranks(torch.device("cpu"))
    model = DistributedDataParallel(torch.nn.Linear(1, 1))
    for _ in range(1000):  # tensors that the group's threads will free after the model is gone
        dist.all_reduce(torch.ones(1), async_op=True)
    if "fails" in sys.argv:
        raise ValueError("a bad batch")

work()
print("worked", flush=True)
"""


@pytest.mark.parametrize("ends", ["well", "fails"])
def test_a_rank_ends_while_its_group_still_works(ends, tmp_path):
    program = tmp_path / "rank.py"
    program.write_text(RANK)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*torchrun, program, ends], env=training_environment(), capture_output=True, text=True, timeout=120
    )
    if ends == "well":
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout.split() == ["worked", "worked"]
    else:
        assert "ValueError: a bad batch" in done.stderr
        assert "SIGABRT" not in done.stderr
