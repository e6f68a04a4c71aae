"""Vectors of texts, and their nearest neighbors."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import typer
from typer.testing import CliRunner

from flows.cli import vectors
from modeling.inference import embed as module
from modeling.inference.embed import embed, embed_rows, rows_of_files, rows_of_texts
from modeling.inference.generate import load
from modeling.inference.neighbors import Vectors
from textmill.errors import UserError

app = typer.Typer()
vectors.register(app)
TEXTS = ["the cat sees a tree.", "rain", "a dog hears the sea. " * 5, "the bird finds rain.", "x" * 100]


def textmill(*arguments: object, typed: str | None = None) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=typed, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def write_parquet(path: Path, texts: list[str | None], **columns: list) -> Path:
    pq.write_table(pa.table(columns | {"text": pa.array(texts, pa.string())}), path)
    return path


def language(count: int, seed: int = 3) -> list[str]:
    choose = random.Random(seed).choice
    subjects, verbs, things = ["the cat", "a dog", "the bird"], ["sees", "hears", "finds"], ["a tree", "the sea"]
    return [
        " ".join(f"{choose(subjects)} {choose(verbs)} {choose(things)}." for _ in range(6)) + f" {number}"
        for number in range(count)
    ]


@pytest.mark.parametrize("kind", ["pretrained", "finetuned"])
def test_a_vector_does_not_depend_on_the_texts_beside_it(kind, request, monkeypatch):
    checkpoint = load(request.getfixturevalue(kind), "cpu")
    together = embed(checkpoint, TEXTS)
    assert together.dtype == np.float32 and together.shape == (5, 32)
    alone = np.concatenate([embed(checkpoint, [text]) for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    monkeypatch.setattr(module, "BATCH_TOKENS", 40)  # other batches
    np.testing.assert_allclose(together, embed(checkpoint, TEXTS[::-1])[::-1], atol=1e-5)
    lengths = np.linalg.norm(embed(checkpoint, TEXTS, normalized=True), axis=1)
    np.testing.assert_allclose(lengths, 1, atol=1e-6)


def test_a_vector_is_the_mean_of_the_last_states_over_the_tokens_of_all_windows(pretrained):
    checkpoint = load(pretrained, "cpu")
    ids = torch.tensor([checkpoint.tokenizer.eot_id, *checkpoint.tokenizer.encode_ordinary(TEXTS[2])])
    assert len(ids) > 3 * 32  # the window
    with torch.inference_mode():
        states = torch.cat([checkpoint.model.hidden(part[None])[0] for part in ids.split(32)])
    np.testing.assert_allclose(embed(checkpoint, [TEXTS[2]])[0], states[1:].mean(0), atol=1e-5)


def test_a_model_tuned_on_pairs_reads_each_part_of_a_text_as_a_first_sentence(finetuned):
    checkpoint = replace(load(finetuned, "cpu"), pair_length=24)
    special = checkpoint.tokenizer.special_tokens
    ids, sums = torch.tensor(checkpoint.tokenizer.encode_ordinary(TEXTS[2])), torch.zeros(32)
    for part in ids.split(24 - 3):
        laid_out = [special["[CLS]"], *part.tolist(), special["[SEP]"], special["[SEP]"]]
        with torch.inference_mode():
            sums += checkpoint.model.hidden(torch.tensor([laid_out]))[0, 1 : 1 + len(part)].sum(0)
    vectors = embed(checkpoint, TEXTS)
    np.testing.assert_allclose(vectors[2], sums / len(ids), atol=1e-5)
    np.testing.assert_allclose(vectors, np.concatenate([embed(checkpoint, [text]) for text in TEXTS]), atol=1e-5)


def test_rows_keep_their_ids_and_texts_and_order(pretrained, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SLICE_CHARACTERS", 300)
    texts = language(40)
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    write_parquet(corpus / "a.parquet", texts[:25], id=[f"id {n}" for n in range(25)], url=["u"] * 25)
    write_parquet(corpus / "b.parquet", texts[25:], id=[f"id {n}" for n in range(25, 40)], url=["u"] * 15)
    out = tmp_path / "vectors.parquet"
    printed = textmill("embed", pretrained, "--from", corpus, "-o", out, "--device", "cpu")
    assert "40 vectors of 32 numbers; each token sees those before it only" in printed
    table = pq.read_table(out)
    assert table.column_names == ["id", "text", "embedding"]
    assert table["embedding"].type == pa.list_(pa.float32(), 32)
    assert table["text"].to_pylist() == texts and table["id"].to_pylist() == [f"id {n}" for n in range(40)]
    expected = embed(load(pretrained, "cpu"), texts)
    np.testing.assert_allclose(np.array(table["embedding"].to_pylist(), np.float32), expected, atol=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus", "vectors.parquet"]


def test_texts_that_are_typed_or_piped(finetuned, tmp_path):
    out = tmp_path / "vectors.parquet"
    assert "each token sees its whole window" in textmill("embed", finetuned, *TEXTS, "-o", out, "--device", "cpu")
    expected = np.array(pq.read_table(out)["embedding"].to_pylist(), np.float32)
    printed = json.loads(textmill("embed", finetuned, "--json", "--device", "cpu", typed="\n".join(TEXTS) + "\n"))
    assert [row["text"] for row in printed] == TEXTS
    np.testing.assert_allclose([row["embedding"] for row in printed], expected, atol=1e-5)


KILLED = """
import os, signal, sys
from pathlib import Path
from modeling.inference import embed as module
from modeling.inference.generate import load
module.SLICE_CHARACTERS = 300
made = []
embed = module.embed
def dying(*arguments, **named):
    made.append(1)
    if len(made) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return embed(*arguments, **named)
module.embed = dying
folder, source, out = map(Path, sys.argv[1:])
module.embed_rows((folder, load(folder, "cpu")), module.rows_of_files([source]), out)
"""


@pytest.mark.slow  # a process of its own
def test_a_killed_call_goes_on_and_leaves_the_same_file(pretrained, tmp_path, monkeypatch):
    source = write_parquet(tmp_path / "texts.parquet", language(1100))
    out = tmp_path / "vectors.parquet"
    killed = subprocess.run([sys.executable, "-c", KILLED, pretrained, source, out], check=False, env=os.environ)
    assert killed.returncode == -signal.SIGKILL and not out.exists()
    monkeypatch.setattr(module, "SLICE_CHARACTERS", 300)
    made = []
    vectors_of = module.embed
    monkeypatch.setattr(module, "embed", lambda *a, **named: made.append(1) or vectors_of(*a, **named))
    checkpoint = (pretrained, load(pretrained, "cpu"))
    embed_rows(checkpoint, rows_of_files([source]), out)
    again = len(made)
    embed_rows(checkpoint, rows_of_files([source]), tmp_path / "other.parquet")
    assert again == len(made) - again - 3  # three slices were kept
    assert out.read_bytes() == (tmp_path / "other.parquet").read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_what_cannot_be_embedded_is_refused_in_one_line(pretrained, tmp_path):
    def refused(message: str, *arguments: object, typed: str = "") -> None:
        with pytest.raises(UserError, match=message) as told:
            textmill("embed", pretrained, *arguments, "--device", "cpu", typed=typed)
        assert "\n" not in str(told.value)

    out = tmp_path / "vectors.parquet"
    null = write_parquet(tmp_path / "null.parquet", ["a", None])
    empty = write_parquet(tmp_path / "empty.parquet", ["a", "b", ""])
    refused("text 2 is empty", "a", "", "-o", out)
    refused("text 2 is empty", "-o", out, typed="a\n\nb\n")
    refused("standard input is empty", "-o", out)
    refused("null.parquet, row 1: no text", "--from", null, "-o", out)
    refused("empty.parquet, row 2: the text is empty", "--from", empty, "-o", out)
    refused("has no column 'body'; it has text", "--from", null, "--column", "body", "-o", out)
    refused("is the file|is what is read", "--from", null, "-o", null)
    refused("not a file of vectors", "a", "-o", empty)
    refused("nor a folder that holds some", "--from", tmp_path / "away", "-o", out)
    refused("there are no texts", "--from", write_parquet(tmp_path / "none.parquet", []), "-o", out)
    refused("either --out FILE", "a")
    write_parquet(tmp_path / "numbers.parquet", ["a"], id=[1])
    files = [write_parquet(tmp_path / "words.parquet", ["a"], id=["one"]), tmp_path / "numbers.parquet"]
    with pytest.raises(UserError, match=r"numbers\.parquet has another column 'id'"):
        list(rows_of_files(files))
    assert not out.exists() and not list(tmp_path.glob(".*"))


# -- neighbors ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def embedded(pretrained, tmp_path_factory) -> Path:
    """Three hundred texts and, of every tenth, a near duplicate."""
    folder = tmp_path_factory.mktemp("vectors")
    texts = language(300)
    duplicates = [f"{text}." for text in texts[::10]]
    ids = [f"text {n}" for n in range(300)] + [f"double {n}" for n in range(0, 300, 10)]
    source = write_parquet(folder / "texts.parquet", texts + duplicates, id=ids)
    embed_rows((pretrained, load(pretrained, "cpu")), rows_of_files([source]), folder / "vectors.parquet")
    return folder / "vectors.parquet"


def test_neighbors_are_exact(embedded, monkeypatch):
    monkeypatch.setattr("modeling.inference.neighbors.BLOCK_ROWS", 37)
    known = Vectors(embedded)
    every, _ = known.read(range(known.count))
    exact = every.astype(np.float64)
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    cosines = exact @ exact.T
    found = known.nearest(every, 8, [[row] for row in range(known.count)])
    np.fill_diagonal(cosines, -np.inf)
    for row, near in enumerate(found):
        expected = np.argsort(-cosines[row], kind="stable")[:8]
        assert [each.row for each in near] == expected.tolist()
        np.testing.assert_allclose([each.cosine for each in near], cosines[row, expected], atol=1e-12)
    [all_of_them] = known.nearest(every[:1], 1000)
    assert len(all_of_them) == 330 and all_of_them[0].row == 0


def test_equal_vectors_come_in_the_order_of_their_rows(pretrained, tmp_path, monkeypatch):
    monkeypatch.setattr("modeling.inference.neighbors.BLOCK_ROWS", 3)
    out = tmp_path / "vectors.parquet"
    embed_rows((pretrained, load(pretrained, "cpu")), rows_of_texts(["b", "a", "a", "a", "b", "a", "a"]), out)
    [near] = Vectors(out).nearest(Vectors(out).read([1])[0], 4)
    assert [each.row for each in near] == [1, 2, 3, 5]


def test_near_duplicates_are_neighbors(embedded):
    known = Vectors(embedded)
    doubles = [f"double {n}" for n in range(0, 300, 10)]
    rows = known.rows_of(doubles)
    found = known.nearest(known.read(rows)[0], 1, [[row] for row in rows])
    assert [near[0].id for near in found] == [name.replace("double", "text") for name in doubles]


def test_neighbors_as_a_user_asks_for_them(embedded, pretrained, finetuned, tmp_path):
    text = language(300)[20]
    printed = textmill("neighbors", embedded, text, "-c", pretrained, "-k", 2, "--device", "cpu").splitlines()
    assert printed[0] == text[:99] + "…" and len(printed) == 3
    assert printed[1].split() == ["1.0000", "text", "20", *(text[:99] + "…").split()]
    [answer] = json.loads(textmill("neighbors", embedded, "--id", "double 20", "-k", 1, "--json"))
    assert answer["query"] == text + "."
    assert answer["neighbors"][0] | {"cosine": 1} == {"row": 20, "id": "text 20", "text": text, "cosine": 1}
    both = json.loads(textmill("neighbors", embedded, "--queries", embedded, "-k", 1, "--json"))
    assert [answer["neighbors"][0]["row"] for answer in both] == list(range(330))
    for message, arguments in {
        "another checkpoint": ["a", "-c", finetuned],
        "no id 'text 300'": ["--id", "text 300"],
        "say whose neighbors": ["a", "-c", pretrained, "--id", "text 1"],
        "go together": ["a"],
    }.items():
        with pytest.raises(UserError, match=message):
            textmill("neighbors", embedded, *arguments)
    with pytest.raises(UserError, match="holds no vectors"):
        textmill("neighbors", write_parquet(tmp_path / "other.parquet", ["a"]), "--id", "0")
