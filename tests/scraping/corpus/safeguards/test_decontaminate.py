"""Decontamination: a document with a part of an evaluation text goes, and says of which; any other stays."""

from __future__ import annotations

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scraping.corpus.config import DecontaminationConfig
from scraping.corpus.safeguards.decontaminate import EvaluationIndex, write_index
from scraping.corpus.safeguards.evaluation import evaluation_files, read_evaluation
from textmill.errors import UserError

QUESTION = "Which of the seven rivers of the old kingdom flows north through the marble gorge before it meets the sea?"
SHORT = "Nine blue foxes cross the frozen river tonight."
FOREIGN = "昔々あるところにお爺さんとお婆さんが住んでいましたお爺さんは山へ柴刈りに行きました"


@pytest.fixture
def index(tmp_path):
    """The index of some texts, in a JSONL file."""

    def of(*texts, kinds=(), **settings):
        path = tmp_path / "questions.jsonl"
        path.write_text("".join(json.dumps({"question": text, "choices": ["a", "b"]}) + "\n" for text in texts))
        counts = write_index(DecontaminationConfig(paths=[str(path)], **settings), kinds, tmp_path / "index.npz")
        index = EvaluationIndex(tmp_path / "index.npz")
        index.counts = counts
        return index

    return of


def test_a_run_of_thirteen_words_is_found_whatever_its_marks_and_capitals(index):
    words = QUESTION.rstrip("?").split()
    known = index("Another question, of which no part is in any of the documents that are looked at.", QUESTION)
    for first in range(len(words) - 12):
        part = " ".join(words[first : first + 13])
        found = known.found_in(f"He said: “{part.upper().replace(' ', ',  ')}” — and left.")
        assert found == f"13 words of questions.jsonl, record 2: {part.lower()}"
    assert known.found_in(" ".join(words[:12]) + " alas " + " ".join(words[12:])) is None
    assert known.found_in("") is None


def test_a_shorter_text_is_found_as_a_whole_and_one_of_fewer_than_eight_words_is_not_looked_for(index):
    known = index(SHORT, "Is this a question?", QUESTION)
    assert known.counts == (2, 3, 0)  # the choices, too
    assert known.found_in(f"Then: {SHORT}").startswith("8 words of questions.jsonl, record 1")
    assert known.found_in("Nine blue foxes cross the frozen river") is None
    assert known.found_in("Is this a question?") is None
    assert index(QUESTION, ngram=5).found_in("He knows the old kingdom flows north.").startswith("5 words")


def test_two_characters_of_a_script_without_spaces_are_a_word(index):
    known = index(FOREIGN)
    assert known.found_in(f"話: {FOREIGN[4:30]}").startswith("26 words")
    assert known.found_in(f"話: {FOREIGN[4:29]}。") is None


def test_evaluation_texts_are_redacted_as_the_documents_are(index):
    text = "Write your answer to ann@site.org before the end of the third week of the month."
    assert index(text, kinds=["email"]).found_in(text.replace("ann@site.org", "<EMAIL>"))


def test_texts_are_read_from_every_kind_of_file_and_only_from_the_fields_that_are_named(tmp_path):
    folder = tmp_path / "evaluation/below"
    folder.mkdir(parents=True)
    texts = {number: f"text number {number} " + QUESTION.replace("seven", f"seven{number}") for number in range(5)}
    (folder / "a.txt").write_text(texts[0])
    (folder / "b.txt.gz").write_bytes(gzip.compress(texts[1].encode()))
    (folder / "c.jsonl.gz").write_bytes(gzip.compress(json.dumps({"a": {"b": ["", texts[2]]}}).encode()))
    pq.write_table(pa.table({"q": [texts[3]], "license": [texts[4]]}), folder / "d.parquet")
    (folder / "README.md").write_text("not read")

    def found(**settings):
        config = DecontaminationConfig(paths=[str(tmp_path / "evaluation")], **settings)
        write_index(config, [], tmp_path / "index.npz")
        known = EvaluationIndex(tmp_path / "index.npz")
        return [number for number, text in texts.items() if known.found_in(" ".join(text.split()[:13]))]

    assert found() == [0, 1, 2, 3, 4]
    assert [file.name for file in evaluation_files([f"{tmp_path}/eval*/*/*.p*", str(folder / "a.txt")])] == [
        "a.txt", "d.parquet",
    ]  # fmt: skip
    assert found(fields=["q", "a"]) == [0, 1, 2, 3]


def test_texts_in_bytes_maps_and_files_with_capitals_in_their_names_are_read(tmp_path):
    texts = [QUESTION.replace("seven", f"seven{number}") for number in range(4)]
    table = {
        "bytes": pa.array([texts[0].encode()], pa.large_binary()),
        "map": pa.array([[("key", texts[1])]], pa.map_(pa.string(), pa.string())),
        "image": pa.array([b"\xff\xd8\xff\xe0"]),
    }
    pq.write_table(pa.table(table), tmp_path / "a.PARQUET")
    (tmp_path / "B.JSONL").write_text(json.dumps({"text": texts[2]}) + "\n")
    (tmp_path / "c.txt.jsonl").write_text(json.dumps({"text": "Is this a text?"}) + "\n")
    (tmp_path / "D.TXT.GZ").write_bytes(gzip.compress(texts[3].encode()))
    config = DecontaminationConfig(paths=[str(tmp_path)])
    assert write_index(config, [], tmp_path / "index") == (4, 2, 0)
    (tmp_path / "index").rename(tmp_path / ".index")  # hidden: no text
    known = EvaluationIndex(tmp_path / ".index")
    assert all(known.found_in(text) for text in texts)
    config.fields = ["image", "text"]
    with pytest.raises(UserError, match=r"a\.PARQUET cannot be read"):
        write_index(config, [], tmp_path / ".index")


def test_records_without_text_are_counted(tmp_path):
    records = [{"question": QUESTION}, {"question": None}, {"question": " …"}, {"other": QUESTION}, {"question": []}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (tmp_path / "empty.txt").write_text("")
    config = DecontaminationConfig(paths=[str(tmp_path)], fields=["question"])
    assert write_index(config, [], tmp_path / ".index") == (1, 0, 5)


def test_a_field_that_no_record_has_is_refused(tmp_path):
    for name, record in {"a": {"question": QUESTION}, "b": {"answer": QUESTION}}.items():
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(record) + "\n")
    config = DecontaminationConfig(paths=[str(tmp_path)], fields=["question", "answer"])
    assert write_index(config, [], tmp_path / ".index").texts == 1
    config.fields = ["question", "answer", "anwser"]
    with pytest.raises(UserError, match=r"prepare\.decontaminate\.fields: no record has anwser"):
        write_index(config, [], tmp_path / ".index")


@pytest.mark.parametrize("name", ["mmlu.csv", "gsm.json", "x.jsonl.zst", "z.parquet.gz", "below/questions", "a.arrow"])
def test_a_folder_with_a_file_that_is_not_read_is_refused(tmp_path, name):
    (tmp_path / "below").mkdir()
    for file in ("a.jsonl", "README.md", "LICENSE", ".gitattributes", "load.py"):
        (tmp_path / file).write_text("{}")
    assert [file.name for file in evaluation_files([str(tmp_path)])] == ["a.jsonl"]
    (tmp_path / name).write_text("{}")
    with pytest.raises(UserError, match=r"is not read; it may be .*; of a folder, give .*/\*\*/\*.jsonl"):
        evaluation_files([str(tmp_path)])
    assert [file.name for file in evaluation_files([f"{tmp_path}/**/*.jsonl"])] == ["a.jsonl"]


def test_texts_are_found_in_order_however_deep_they_lie(tmp_path):
    deep = "[" * 300 + '"c", "d"' + "]" * 300
    (tmp_path / "a.jsonl").write_text('{"question": ["a", {"x": "b", "y": ' + deep + '}, "e"], "other": "f"}')
    [record] = read_evaluation([tmp_path / "a.jsonl"], ["question"])
    assert record.texts == ["a", "b", "c", "d", "e"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", "{}\n[1]\n", r"a.jsonl cannot be read \(line 2 is not a record but a list\)"),
        ("a.jsonl", "{", "a.jsonl cannot be read"),
        ("a.jsonl", "[" * 100_000, "a.jsonl cannot be read"),
        ("a.txt", b"\xff\xfe\x00", "a.txt cannot be read"),
        ("a.parquet", "no", "a.parquet cannot be read"),
        ("a.jsonl", '{"other": 1}', "a.jsonl has no record with question"),
        ("a.csv", "a", "a.csv is not read; it may be .txt"),
        ("b.txt", "", "a.txt holds no .txt"),
        ("a.txt", "few words", "of 1 texts none has the 8 words"),
    ],
)
def test_what_cannot_be_looked_for_is_refused_in_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    asked = "a.txt" if name == "b.txt" else name
    config = DecontaminationConfig(paths=[str(tmp_path / asked)], fields=["question"])
    with pytest.raises(UserError, match=message) as error:
        write_index(config, [], tmp_path / "index.npz")
    assert "\n" not in str(error.value)
