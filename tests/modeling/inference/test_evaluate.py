"""Perplexity and bits per byte of a checkpoint on tokens and on text."""

import json
import math

import pytest

from modeling.inference.evaluate import Windows, evaluate, evaluate_texts
from textmill.errors import UserError
from tokenization.arrays import TokenArrays


def test_it_agrees_with_the_evaluation_in_training(pretrained, tokens):
    stats = json.loads((pretrained / "stats.json").read_text())
    metrics = evaluate(pretrained, tokens, device="cpu")
    assert metrics["tokens"] == len(TokenArrays(tokens, "validation")) - 1
    assert metrics["loss"] == pytest.approx(stats["validation_loss"], rel=0.05)  # that took a part of the windows
    assert metrics["perplexity"] == pytest.approx(math.exp(metrics["loss"]))
    assert metrics["bits_per_byte"] == pytest.approx(metrics["loss"] / math.log(2), rel=0.02)  # a token is a byte


def test_every_token_counts_once_and_more_context_helps(pretrained, tokens):
    wide = evaluate(pretrained, tokens, Windows(limit=600), "cpu")
    narrow = evaluate(pretrained, tokens, Windows(limit=600, stride=8), "cpu")
    assert narrow["tokens"] == wide["tokens"] == 599
    assert narrow["bytes"] == wide["bytes"]
    assert narrow["loss"] < wide["loss"]
    alone = evaluate(pretrained, tokens, Windows(limit=600, batch=1), "cpu")
    assert alone["loss"] == pytest.approx(wide["loss"], rel=0.01)


def test_text_files_are_read_too(pretrained, tmp_path):
    known, strange = tmp_path / "known.txt", tmp_path / "strange.txt"
    known.write_text("the cat sees a tree. a dog finds rain. " * 5)
    strange.write_text("Ω≈ç√∫ QWERTZ 0123456789 " * 8)
    assert evaluate(pretrained, known, device="cpu")["bits_per_byte"] < 1.5
    assert evaluate(pretrained, strange, device="cpu")["bits_per_byte"] > 5
    assert evaluate(pretrained, known, device="cpu")["bytes"] == len(known.read_bytes())


def test_documents_are_read_source_by_source(pretrained, tmp_path):
    known, strange = "the cat sees a tree. a dog finds rain. " * 5, "Ω≈ç√∫ QWERTZ 0123456789 " * 8
    metrics = evaluate_texts(pretrained, {"known": [known, known], "strange": [strange]}, "cpu")
    easy, hard = metrics["sources"]["known"], metrics["sources"]["strange"]
    assert (easy["bytes"], hard["bytes"]) == (2 * len(known), len(strange.encode()))
    assert easy["bits_per_byte"] < 1.5 < 5 < hard["bits_per_byte"]
    bits = easy["bits_per_byte"] * easy["bytes"] + hard["bits_per_byte"] * hard["bytes"]
    assert metrics["bits_per_byte"] == pytest.approx(bits / metrics["bytes"])
    assert metrics["tokens"] == metrics["bytes"] + 3  # a token is a byte, and each document has an end


def test_mistakes(pretrained, finetuned, tokens, tmp_path):
    with pytest.raises(UserError, match="neither a folder of token arrays nor a text file"):
        evaluate(pretrained, tmp_path)
    with pytest.raises(UserError, match="needs one that continues text"):
        evaluate(finetuned, tokens)
    with pytest.raises(UserError, match="stride must lie between 1 and the context 32"):
        evaluate(pretrained, tokens, Windows(stride=64))
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="is not UTF-8 text"):
        evaluate(pretrained, tmp_path / "binary")
    with pytest.raises(UserError, match="need a model that continues text"):
        evaluate_texts(finetuned, {"a": ["text"]})
