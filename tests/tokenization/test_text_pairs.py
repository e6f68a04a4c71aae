"""Sources and targets from files to token arrays."""

import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from textmill.errors import UserError
from tokenization.config import SPECIAL_TOKENS, TextPairsConfig
from tokenization.formats import save_tokenizer
from tokenization.text_pairs import TextPairs, holds_text_pairs, make_text_pairs
from tokenization.tokenizer import Tokenizer

PAIRS = [(f"wie heißt {number}?", f"what is {number}") for number in range(60)]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    tokens = {bytes([value]): value for value in range(256)}
    return Tokenizer(tokens, "gpt2", {name: 256 + place for place, name in enumerate(SPECIAL_TOKENS)})


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(tokenizer, folder)
    return folder


def write(path, pairs, names=("source", "target")):
    rows = [dict(zip(names, pair, strict=True)) for pair in pairs]
    match path.suffix:
        case ".parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
        case ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        case suffix:
            with path.open("w", newline="") as file:
                table = csv.DictWriter(file, names, delimiter="\t" if suffix == ".tsv" else ",")
                table.writeheader()
                table.writerows(rows)
    return str(path)


def read(out, split, tokenizer):
    pairs = TextPairs(out, split)
    found = [pairs.pair(number) for number in range(len(pairs))]
    assert all(ids[-1] == tokenizer.eot_id for pair in found for ids in pair)
    assert pairs.lengths().tolist() == [[len(source), len(target)] for source, target in found]
    return [tuple(tokenizer.decode(ids[:-1].tolist()) for ids in pair) for pair in found]


@pytest.mark.parametrize("suffix", ["parquet", "jsonl", "csv", "tsv"])
def test_pairs_of_every_layout_come_back_each_in_one_split(suffix, folder, tokenizer, tmp_path):
    path = write(tmp_path / f"de.{suffix}", [*PAIRS, (" ", "blank"), ("also", "")], ("de", "en"))
    config = TextPairsConfig(paths=path, source="de", target="en", validation_fraction=0.2)
    out = tmp_path / "out"
    make_text_pairs(config, folder, out)
    train, validation = (read(out, split, tokenizer) for split in ("train", "validation"))
    assert sorted(train + validation) == sorted(PAIRS)
    assert 4 <= len(validation) <= 22
    assert holds_text_pairs(out)
    stats = json.loads((out / "stats.json").read_text())
    assert stats["blank"] == 2 and stats["train"]["pairs"] == len(train)


def test_the_same_pairs_give_the_same_bytes_and_a_source_is_in_one_split(folder, tokenizer, tmp_path):
    paths = [write(tmp_path / "a.csv", PAIRS), write(tmp_path / "b.jsonl", [(s, t + "!") for s, t in PAIRS])]
    outs = [tmp_path / "one", tmp_path / "two"]
    for out in outs:
        make_text_pairs(TextPairsConfig(paths=paths), folder, out)
    one, two = ({path.name: path.read_bytes() for path in out.iterdir()} for out in outs)
    assert one == two
    train, validation = ({source for source, _ in read(outs[0], split, tokenizer)} for split in ("train", "validation"))
    assert not train & validation


def test_files_may_be_held_out(folder, tokenizer, tmp_path):
    paths = write(tmp_path / "a.csv", PAIRS[:50]), write(tmp_path / "b.csv", PAIRS[50:])
    make_text_pairs(TextPairsConfig(paths=paths[0], validation=paths[1]), folder, tmp_path / "out")
    assert read(tmp_path / "out", "train", tokenizer) == PAIRS[:50]
    assert read(tmp_path / "out", "validation", tokenizer) == PAIRS[50:]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"source": "a"}\n', r"a.jsonl:1: no column 'target' \(it has: source\); set the right one"),
        ("a.jsonl", '{"source": "a", "target": 3}\n', "a.jsonl:1: target is 3, not a text"),
        ("a.jsonl", "[1]\n", "a.jsonl:1: a JSON object is wanted"),
        ("a.jsonl", "{\n", "a.jsonl:1: not valid JSON"),
        ("a.csv", "source,target\na,b,c\n", "a.csv:2: this line has another number of columns than the first"),
        ("a.csv", "source,target\na,b\n", "no pair is for validation; give more pairs"),
        ("a.txt", "a", "a.txt: pairs are read from .parquet, .jsonl, .ndjson, .csv, .tsv"),
    ],
)
def test_a_mistake_names_its_place(name, content, message, folder, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        make_text_pairs(TextPairsConfig(paths=str(tmp_path / name), validation_fraction=1e-9), folder, tmp_path / "out")


def test_files_that_are_missing_or_twice_are_refused(folder, tmp_path):
    with pytest.raises(UserError, match=r"none\.csv: no such file"):
        make_text_pairs(TextPairsConfig(paths="none.csv"), folder, tmp_path / "out")
    path = write(tmp_path / "a.csv", PAIRS)
    with pytest.raises(UserError, match=r"two files of pairs are called a\.csv"):
        make_text_pairs(TextPairsConfig(paths=[path, path]), folder, tmp_path / "out")
    with pytest.raises(ValueError, match="source and target are both column 'x'"):
        TextPairsConfig(paths=path, source="x", target="x")
