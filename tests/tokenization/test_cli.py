"""`textmill tokenizer`, as a user types it."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from flows.cli.tokenizer import app
from textmill.errors import UserError
from tokenization.config import MOST_IDS, TokenizerConfig
from tokenization.formats import load_tokenizer
from tokenization.kernels.vocabulary import ID_LIMIT
from tokenization.sentence_pairs import SentencePairs
from tokenization.text import read_any

TEXT = "Merging pairs, it's 2026!"


@pytest.fixture
def textmill():
    def run(*arguments, stdin: str | bytes | None = None) -> str:
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
    assert "320 ids" in textmill("train", *files, "-o", tmp_path / "c", "--vocab-size", 300, "--multiple-of", 64)
    assert load_tokenizer(tmp_path / "c").vocab_size == 320


COMMAND = [Path(sys.executable).parent / "textmill", "tokenizer"]
PLENTY = [" ".join(f"Sentence {s} of document {d} is one of many." for s in range(400)) for d in range(300)]


@pytest.mark.slow
def test_pairs_of_a_killed_run_are_those_of_an_undisturbed_one(make_corpus, trained, tmp_path):
    corpus = make_corpus(tmp_path / "corpus", [PLENTY[:100], PLENTY[100:200], PLENTY[200:]], PLENTY[:10])
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    command = [*COMMAND, "pairs", corpus, trained]
    whole = subprocess.run([*command, undisturbed], capture_output=True, text=True, check=True)
    pairs = SentencePairs(undisturbed)
    assert f"{len(pairs):,} pairs to train on" in whole.stdout
    assert len(pairs) == 300 * 399
    assert 0.49 < pairs.batch(np.arange(0, len(pairs), 7), 8).is_next.mean() < 0.51
    process = subprocess.Popen([*command, killed], stdout=subprocess.DEVNULL)
    while not (finished := list(killed.glob(".textmill-shards/*/*/piece.json"))):
        assert process.poll() is None
        time.sleep(0.001)
    process.kill()
    process.wait()
    assert not (killed / "meta.json").exists()
    [first] = finished[0].parent.glob("*.bin")
    written = first.stat().st_mtime_ns
    subprocess.run([*command, killed], capture_output=True, check=True)
    assert (killed / first.name).stat().st_mtime_ns == written
    assert {path.name: path.read_bytes() for path in killed.iterdir()} == {
        path.name: path.read_bytes() for path in undisturbed.iterdir()
    }


def test_a_mistake_about_pairs_is_one_line_and_exit_code_2(corpus, trained, tmp_path):
    for folder, negatives, message in (
        (tmp_path, "0.5", "holds no train-*.parquet; run prepare first"),
        (corpus, "2", "--negatives: Input should be less than or equal to 1"),
    ):
        command = [*COMMAND, "pairs", folder, trained, tmp_path / "out", "--negatives", negatives]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 2
        assert message in result.stderr
        assert result.stderr.count("\n") == 1


def test_encode_and_decode(textmill, trained, tokenizer):
    ids = textmill("encode", trained, TEXT).split()
    assert ids == [str(i) for i in tokenizer.encode_ordinary(TEXT)]
    assert textmill("decode", trained, *ids) == TEXT
    assert textmill("decode", trained, stdin=", ".join(ids)) == TEXT
    assert textmill("encode", trained, stdin=TEXT).split() == ids
    assert textmill("encode", trained, "--special", "[MASK]").split() == ["476"]


def test_line_ends_and_bytes_that_are_no_text(textmill, trained, tokenizer, tmp_path):
    ids = [str(i) for i in tokenizer.encode_ordinary("a\r\nb\r")]
    assert textmill("encode", trained, stdin=b"a\r\nb\r").split() == ids
    (tmp_path / "text.txt").write_bytes(b"a\r\nb\r")
    assert [text for batch in read_any(tmp_path / "text.txt") for text in batch.strings()] == ["a\r\nb\r"]
    for command in ("encode", "decode"):
        with pytest.raises(UserError, match=r"standard input is not UTF-8 text \(byte 1\)"):
            textmill(command, trained, stdin=b"a\xff")


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


def test_what_is_put_around_a_text_elsewhere_is_told(textmill, trained, tmp_path):
    foreign = tmp_path / "foreign"
    textmill("export", trained, foreign)
    content = json.loads((foreign / "tokenizer.json").read_text())
    special = load_tokenizer(trained).special_tokens
    bert = {"type": "BertProcessing", "sep": ["[SEP]", special["[SEP]"]], "cls": ["[CLS]", special["[CLS]"]]}
    (foreign / "tokenizer.json").write_text(json.dumps(content | {"post_processor": bert}))
    note = "[CLS] … [SEP] is what Hugging Face makes of a text; Textmill encodes the text alone"
    encoded = CliRunner().invoke(app, ["encode", str(foreign), TEXT])
    assert encoded.stdout == textmill("encode", trained, TEXT)
    assert encoded.stderr == f"{note}\n"
    for form in ("hugging-face", "textmill"):
        assert textmill("export", foreign, tmp_path / form, "-f", form).splitlines()[1:] == [
            f"{note}. The export keeps that"
        ]
        assert json.loads((tmp_path / form / "tokenizer.json").read_text())["post_processor"] == bert
        for text in ((), (TEXT,)):
            assert note in " ".join(textmill("inspect", tmp_path / form, *text).split())
    for form in ("tiktoken", "legacy"):
        told = f"{form} knows nothing of what {foreign} says about post processor"
        assert textmill("export", foreign, tmp_path / form, "-f", form).splitlines()[1:] == [told]
        assert textmill("export", trained, tmp_path / f"{form} 2", "-f", form).splitlines()[1:] == []
    file = tmp_path / "textmill" / "tokenizer.yaml"
    file.write_text(file.read_text().replace("type: BertProcessing", "type: Bert"))
    with pytest.raises(UserError, match="the tokenizer's post_processor is damaged"):
        textmill("inspect", tmp_path / "textmill")


def test_mistakes_are_one_line(textmill, trained, corpus, tmp_path):
    for arguments, message in (
        (("encode", "nowhere", "x"), "nowhere is neither"),
        (("train", corpus, "-o", tmp_path, "--vocab-size", 100), "--vocab-size|vocab_size 100 is too small"),
        (("train", tmp_path, "-o", tmp_path / "out"), "holds no train"),
        (("decode", trained, "9999"), "9999 is not an id"),
        (("train", corpus, "-o", tmp_path, "--special", "[MASK]"), "^--special: give each special token once"),
    ):
        with pytest.raises(UserError, match=message) as error:
            textmill(*arguments)
        assert "\n" not in str(error.value)


def test_a_plain_file_of_ranks_is_used_with_a_pattern(textmill, trained, tokenizer, tmp_path):
    plain = tmp_path / "plain.tiktoken"
    plain.write_bytes((trained / "ranks.tiktoken").read_bytes())
    ids = textmill("encode", plain, TEXT, "--pattern", "cl100k")
    assert ids == textmill("encode", trained, TEXT)
    assert textmill("decode", plain, *ids.split(), "--pattern", "cl100k") == TEXT
    textmill("export", plain, tmp_path / "out", "--pattern", "cl100k")
    assert textmill("encode", tmp_path / "out", TEXT) == ids
    (tmp_path / "text.txt").write_text(TEXT)
    compared = textmill("compare", tmp_path / "text.txt", plain, trained, "--pattern", "cl100k", "--json")
    assert [found["tokens"] for found in json.loads(compared)] == [len(ids.split())] * 2
    with pytest.raises(UserError, match=r"--pattern is for a \.tiktoken file"):
        textmill("inspect", trained, "--pattern", "cl100k")


def test_nothing_that_is_read_is_replaced(textmill, corpus, trained, tmp_path):
    hugging_face = tmp_path / "theirs" / "tokenizer.json"
    hugging_face.parent.mkdir()
    shutil.copy(trained / "tokenizer.json", hugging_face)
    (tmp_path / "theirs" / "tokenizer.yaml").write_text("a text to train on")
    calls = [
        ("train", corpus, "-o", corpus),
        ("train", corpus, trained, "-o", trained),
        ("train", tmp_path / "theirs" / "tokenizer.yaml", "-o", tmp_path / "theirs"),
        ("pairs", corpus, trained, corpus),
        ("pairs", corpus, trained, trained),
        ("export", trained, trained),
        ("export", hugging_face, hugging_face.parent, "-f", "textmill"),
        ("export", hugging_face, hugging_face, "-f", "legacy"),
    ]
    folders = (corpus, trained, hugging_face.parent)
    before = [{path: path.read_bytes() for path in folder.iterdir()} for folder in folders]
    for call in calls:
        with pytest.raises(UserError, match="is what is read; choose another place to write to"):
            textmill(*call)
    assert [{path: path.read_bytes() for path in folder.iterdir()} for folder in folders] == before


def test_a_place_that_cannot_be_written_is_told_before_the_work(textmill, corpus, trained, tmp_path, monkeypatch):
    monkeypatch.setattr("tokenization.train.count_words", None)  # no work begins
    monkeypatch.setattr("tokenization.train.count_corpus", None)
    taken = tmp_path / "taken"
    taken.write_text("mine")
    texts = [corpus / "train-00000.parquet", corpus / "train-00001.parquet"]
    for place in (taken, taken / "below"):
        for sources in ([corpus], texts):
            with pytest.raises(UserError, match=r"taken.* cannot be a folder, because a file is there"):
                textmill("train", *sources, "-o", place)
        with pytest.raises(UserError, match=r"taken.* cannot be a folder, because a file is there"):
            textmill("pairs", corpus, trained, place)
        for form in ("hugging-face", "tiktoken", "textmill"):
            with pytest.raises(UserError, match=r"taken.* cannot be a folder, because a file is there"):
                textmill("export", trained, place, "-f", form)
    with pytest.raises(UserError, match=r"taken cannot be a folder, because a file is there"):
        textmill("export", trained, taken / "below", "-f", "legacy")
    with pytest.raises(UserError, match=r"is a folder; name a file, such as .*tokenizer\.model"):
        textmill("export", trained, tmp_path, "-f", "legacy")
    assert taken.read_text() == "mine"
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".textmill-word-counts").write_text("mine")
    with pytest.raises(UserError, match=r"\.textmill-word-counts is not a folder that Textmill made; move it away"):
        textmill("train", corpus, "-o", tmp_path / "out")


@pytest.mark.parametrize("call", [["encode", "TOKENIZER", "a\udcffb"], ["inspect", "TOKENIZER", "a\udcffb"]])
def test_arguments_that_are_no_text_are_refused_as_on_standard_input(textmill, trained, call):
    with pytest.raises(UserError, match=r"'a\\udcffb' is not UTF-8 text \(character 1\); convert it first"):
        textmill(*(trained if part == "TOKENIZER" else part for part in call))
    with pytest.raises(UserError, match=r"is not UTF-8 text \(byte 1\); convert it first"):
        textmill("encode", trained, stdin=b"a\xffb")


def test_special_tokens_that_are_no_text_are_refused(textmill, corpus, tmp_path):
    with pytest.raises(UserError, match="is not UTF-8 text"):
        textmill("train", corpus, "-o", tmp_path / "out", "--special", "a\udcff")
    with pytest.raises(UserError, match="is not UTF-8 text"):
        textmill("train", corpus, "-o", tmp_path / "out", "--pattern", "[^\udcff]+|\udcff")
    with pytest.raises(ValidationError, match="is not UTF-8 text; give the special token another name"):
        TokenizerConfig(special_tokens=["\ud800"])


@pytest.mark.parametrize(
    "given",
    [
        {"multiple_of": 1_000_000_000},
        {"multiple_of": 65_537},
        {"vocab_size": 1_000_000_000},
        {"reserved": 1_000_000_000},
        {"vocab_size": MOST_IDS - 1, "multiple_of": 60_000},
        {"encoding": "o200k_base", "reserved": 65_536, "multiple_of": 65_536, "vocab_size": MOST_IDS + 1},
    ],
)
def test_more_ids_than_a_tokenizer_can_have(given):
    with pytest.raises(ValidationError, match=r"less than or equal to|are more than the 1,048,576 that"):
        TokenizerConfig(**given)


def test_as_many_ids_as_a_tokenizer_can_have():
    assert MOST_IDS == ID_LIMIT
    assert TokenizerConfig(vocab_size=MOST_IDS - 1, multiple_of=65_536).planned_size() == MOST_IDS
    with pytest.raises(UserError, match="--multiple-of: "):
        CliRunner().invoke(
            app, ["train", "nowhere", "-o", "nowhere", "--multiple-of", "1000000000"], catch_exceptions=False
        )
