"""`textmill tokenizer`, as a user types it."""

import pytest
from typer.testing import CliRunner

from flows.cli.tokenizer import app
from tokenization.errors import TokenizationError
from tokenization.formats import load_tokenizer

TEXT = "Merging pairs, it's 2026!"


@pytest.fixture
def textmill():
    def run(*arguments, stdin: str | None = None) -> str:
        result = CliRunner().invoke(app, [str(a) for a in arguments], input=stdin, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    return run


def test_train_on_a_corpus_and_on_files(textmill, corpus, trained, tmp_path):
    assert "480 ids" in textmill("train", corpus, "-o", tmp_path / "a", "--vocab-size", 480)
    assert (tmp_path / "a" / "ranks.tiktoken").read_bytes() == (trained / "ranks.tiktoken").read_bytes()
    (tmp_path / "text.txt").write_text("so many words, so many letters\n" * 9, encoding="utf-8")
    files = [corpus / "train-00000.parquet", tmp_path / "text.txt"]
    textmill("train", *files, "-o", tmp_path / "b", "--vocab-size", 300, "--special", "<|user|>", "--pattern", "gpt2")
    assert "<|user|>" in load_tokenizer(tmp_path / "b").special_tokens


def test_encode_and_decode(textmill, trained, tokenizer):
    ids = textmill("encode", trained, TEXT).split()
    assert ids == [str(i) for i in tokenizer.encode_ordinary(TEXT)]
    assert textmill("decode", trained, *ids) == TEXT
    assert textmill("decode", trained, stdin=", ".join(ids)) == TEXT
    assert textmill("encode", trained, stdin=TEXT).split() == ids
    assert textmill("encode", trained, "--special", "[MASK]").split() == ["476"]


def test_inspect(textmill, trained):
    facts = textmill("inspect", trained)
    assert "480" in facts
    assert "cl100k" in facts
    assert "[MASK] 476" in " ".join(facts.split())
    assert "[MASK]" in textmill("inspect", trained, "a [MASK]")


def test_compare(textmill, trained, corpus):
    table = textmill("compare", corpus / "train-00000.parquet", trained, trained / "tokenizer.json")
    rows = [line.split() for line in table.splitlines()[1:]]
    assert len(rows) == 2
    assert rows[0][1:6] == rows[1][1:6]
    assert rows[0][1] == "480"


def test_export(textmill, trained, tokenizer, tmp_path):
    for form in ("hugging-face", "tiktoken", "textmill", "legacy"):
        textmill("export", trained, tmp_path / form, "--format", form)
    for source in ("hugging-face", "textmill", "legacy"):
        assert textmill("encode", tmp_path / source, TEXT).split() == [str(i) for i in tokenizer.encode_ordinary(TEXT)]
    assert load_tokenizer(tmp_path / "tiktoken").tokens == tokenizer.tokens


def test_mistakes_are_one_line(textmill, trained, corpus, tmp_path):
    for arguments, message in (
        (("encode", "nowhere", "x"), "nowhere is neither"),
        (("train", corpus, "-o", tmp_path, "--vocab-size", 100), "--vocab-size|vocab_size 100 is too small"),
        (("train", tmp_path, "-o", tmp_path), "holds no train"),
        (("decode", trained, "9999"), "9999 is not an id"),
    ):
        with pytest.raises(TokenizationError, match=message) as error:
            textmill(*arguments)
        assert "\n" not in str(error.value)
