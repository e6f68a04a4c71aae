"""Checkpoint folders: who may read them, and what older versions wrote."""

import json
import os
import shutil
import stat

import pytest
import torch

from modeling.checkpoint import CONFIG, WEIGHTS, load_model, write_tensors
from modeling.inference.generate import Sampling, generate, load


@pytest.fixture
def umask():
    """Sets the umask, as 0o027, until the test is over."""
    before = os.umask(0)
    os.umask(before)
    yield os.umask
    os.umask(before)


def permissions(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize(("mask", "left"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_tensors_may_be_read_by_those_whom_the_umask_lets(mask, left, umask, tmp_path):
    umask(mask)
    write_tensors(tmp_path / "new", {"a": torch.zeros(3)})
    assert permissions(tmp_path / "new") == left


def test_all_files_of_a_result_have_the_same_permissions(pretrained, finetuned):
    for folder in (pretrained, finetuned):
        assert len({permissions(path) for path in folder.iterdir()}) == 1


def test_a_checkpoint_whose_run_has_the_names_of_an_older_version_can_be_used(pretrained, tmp_path):
    old = shutil.copytree(pretrained, tmp_path / "old")
    fields = json.loads((old / CONFIG).read_text())
    del fields["run"]["progressive"]
    fields["run"] |= {"grow_at": 0.8, "grow_from": 1}
    (old / CONFIG).write_text(json.dumps(fields))
    assert load_model(old)[1].run["grow_at"] == 0.8
    greedy = Sampling(max_tokens=8, temperature=0)
    assert generate(load(old, "cpu"), ["the cat "], greedy) == generate(load(pretrained, "cpu"), ["the cat "], greedy)
    assert (old / WEIGHTS).read_bytes() == (pretrained / WEIGHTS).read_bytes()
