"""The commands that use a checkpoint, as a user types them."""

import json

import pytest
import typer
from typer.testing import CliRunner

from flows.cli import model
from textmill.errors import UserError

app = typer.Typer()
model.register(app)


def textmill(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_generate_writes_the_prompt_and_its_continuation(pretrained):
    greedy = ("--temperature", 0, "-n", 20, "--device", "cpu")
    text = textmill("generate", pretrained, "the cat ", *greedy)
    assert text.startswith("the cat ") and text.split()[2] in {"sees", "hears", "finds"}
    both = textmill("generate", pretrained, "the cat ", "a dog ", *greedy)
    assert text.strip() in both and "a dog " in both
    assert "." not in textmill("generate", pretrained, "the cat ", *greedy, "--stop", ".")


def test_fill_writes_the_text_and_its_guesses(finetuned):
    command = ("fill", finetuned, "the cat see[MASK] a tre[MASK].", "--device", "cpu", "--top-k")
    first, second, third = textmill(*command, 2).splitlines()
    assert first == "the cat sees a tree."
    assert second.startswith("blank 1: 's' ") and second.count("%") == 2
    assert third.startswith("blank 2: 'e' ")
    told = json.loads(textmill(*command, 3, "--json"))
    assert told["text"] == first and [len(blank) for blank in told["blanks"]] == [3, 3]
    probabilities = [each["probability"] for each in told["blanks"][0]]
    assert told["blanks"][0][0]["token"] == "s" and probabilities == sorted(probabilities, reverse=True)
    assert 0 < sum(probabilities) <= 1.000001


def test_next_sentence_wants_a_checkpoint_that_was_fine_tuned_on_pairs(finetuned):
    with pytest.raises(UserError, match="was not fine-tuned on pairs of sentences"):
        textmill("next-sentence", finetuned, "the cat sees rain.", "a dog hears the sea.")


def test_evaluate_wants_text_or_tasks(pretrained):
    with pytest.raises(UserError, match="give either DATA to measure on, or tasks"):
        textmill("evaluate", pretrained)


def test_evaluate_and_export(pretrained, tokens, tmp_path):
    assert "bits per byte" in textmill("evaluate", pretrained, tokens, "--limit", 500, "--device", "cpu")
    assert "NanoChatForCausalLM" in textmill("export", pretrained, tmp_path / "hf")
    wrong = CliRunner().invoke(app, ["export", str(pretrained), str(tmp_path / "other"), "--format", "gguf"])
    assert wrong.exit_code == 2
    assert "'gguf' is not one of 'hf'" in wrong.output


def test_cost_knows_the_size_of_an_encoding(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("pretrain: {preset: chimera}\ntrain_tokenizer: {encoding: o200k_base, multiple_of: 64}\n")
    assert "vocabulary 200,064" in textmill("cost", config)  # 200,019 and [MASK] and the like
    with pytest.raises(UserError, match="size of the encoding 'r50k_base' is not known here"):
        textmill("cost", config, "--set", "train_tokenizer.encoding=r50k_base")


def test_cost_reads_a_pipelines_configuration(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("pretrain: {depth: 20, batch: 256}\ntrain_tokenizer: {vocab_size: 65536}\n")
    output = textmill("cost", config, "--gpus", "8xH100", "--set", "pretrain.steps=21400", "--mfu", 0.46)
    assert "560,988,160" in output
    assert "11,219,763,200 tokens" in output
    assert "3.92e+19 FLOPs" in output
    assert "3.0 hours on 8xH100" in output
