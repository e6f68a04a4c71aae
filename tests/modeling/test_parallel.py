"""Two processes against one: the same run, whatever the number of ranks."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from modeling.pretrain import pretrain
from modeling.train import command

pytestmark = pytest.mark.slow


def quiet(done, total=None, **figures):
    pass


def curve(out: Path) -> list[float]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [row.get("loss", row.get("validation_loss")) for row in rows]


def launch(config, tokens, tokenizer, out, processes: int) -> None:
    arguments = command(config, tokens, tokenizer, out, processes)
    done = subprocess.run(arguments, cwd=Path(__file__).parents[2], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("how", ["ddp", "fsdp"])
def test_two_ranks_train_as_one_does(how, tokens, tokenizer, tiny, tmp_path):
    settings = {"precision": "fp32", "steps": 12, "evaluate_every": 4, "optimizer": {"clip": 1.0}}
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    pretrain(tokens, tokenizer, tiny(**settings), one, quiet)
    launch(tiny(**settings, parallel=how, micro_batch=3), tokens, tokenizer, two, processes=2)
    assert curve(two) == pytest.approx(curve(one), abs=1e-4)
    assert {path.name for path in two.iterdir()} == {path.name for path in one.iterdir()}


def test_a_run_goes_on_with_another_number_of_ranks(tokens, tokenizer, tiny, tmp_path):
    settings = {"precision": "fp32", "steps": 12, "evaluate_every": 4, "checkpoint_every": 5}
    one, more = tmp_path / "one", tmp_path / "more"
    one.mkdir()
    more.mkdir()
    pretrain(tokens, tokenizer, tiny(**settings), one, quiet)

    class Stop(BaseException):
        pass

    def stop_at_7(done, total=None, **figures):
        if done == 7:
            raise Stop

    with pytest.raises(Stop):
        pretrain(tokens, tokenizer, tiny(**settings, log_every=1), more, stop_at_7)
    launch(tiny(**settings), tokens, tokenizer, more, processes=2)
    assert curve(more) == pytest.approx(curve(one), abs=1e-4)
