"""What is read is what the bytes are: nothing becomes a garbage document, a bad record costs one, and all is said."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import os
import pickle
import sqlite3
import tarfile
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from flows.stages.ingest import ingest as stage
from scraping.collections.config import IngestConfig
from scraping.collections.ingest import ingest
from scraping.collections.sniff import not_text
from scraping.shards import read_rows, shards
from textmill.errors import UserError

TEXTS = [f"Document {n} speaks of the harbour and the {n} ships that are loaded there at dawn." for n in range(50)]

LINES = [json.dumps({"text": text}).encode() for text in TEXTS]


def run(path, out, **settings):
    ingest(IngestConfig(path=str(path), **settings), out)
    return [row["text"] for row in read_rows(shards(out))]


def stats(out):
    return json.loads((out / "stats.json").read_text())


def skipped(out):
    """(file, place, reason) of each entry of the list."""
    items = [json.loads(line) for line in (out / "skipped.jsonl").read_text().splitlines()]
    return [(item["file"], item["place"], item["reason"]) for item in items]


def tar_bytes(files, **settings):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", **settings) as archive:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def zip_bytes():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("1.txt", TEXTS[0])
    return buffer.getvalue()


def arrow_bytes(new):
    sink = pa.BufferOutputStream()
    with new(sink, pa.schema([("text", pa.string())])) as writer:
        writer.write_table(pa.table({"text": TEXTS}))
    return sink.getvalue().to_pybytes()


def parquet_bytes():
    buffer = io.BytesIO()
    pq.write_table(pa.table({"text": TEXTS}), buffer)
    return buffer.getvalue()


def sqlite_bytes(tmp_path):
    with sqlite3.connect(tmp_path / "database") as connection:
        connection.execute("create table texts (text)")
    return (tmp_path / "database").read_bytes()


# --- what is not what its name says -----------------------------------------------------------------------------------

HTML = b"\n<!-- moved -->\n<!DOCTYPE html><html><body><h1>Not found</h1></body></html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"ab" * 32 + b"\nsize 12880189440\n"
ARRAY = np.arange(500)


@pytest.mark.parametrize(
    ("name", "content", "seems"),
    [
        ("openwebtext.tar.xz", POINTER, "a Git LFS pointer.*git lfs pull"),
        ("train.parquet", POINTER, "a Git LFS pointer"),
        ("a.txt", POINTER, "a Git LFS pointer"),
        ("a.jsonl", b"/annex/objects/SHA256E-s1--ab.jsonl\n", "a git-annex pointer.*git annex get"),
        ("openwebtext.tar.xz", HTML, "an HTML page"),
        ("a.jsonl.gz", gzip.compress(HTML), "an HTML page"),
        ("a.csv", HTML, "an HTML page"),
        ("a.json", b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "an XML document"),
        ("a.tar.gz", b"404: Not Found", "plain text"),
        ("train.parquet", b'{"error": "no such dataset"}', "JSON"),
        ("train.txt.xz", b"Bad gateway", "plain text that is not compressed"),
        ("a.jsonl", b"Internal server error\n", "text that is not JSON lines"),
        ("a.json", json.dumps([{"text": text} for text in TEXTS]).encode(), "a JSON array.*jq -c"),
        ("a.json", json.dumps([{"text": text} for text in TEXTS], indent=1).encode(), "a JSON array"),
        ("a.json", b"[\n" + b",\n".join(LINES) + b"\n]", "a JSON array"),
        ("a.json", json.dumps({"version": 1, "data": TEXTS}, indent=2).encode(), "JSON over several lines"),
        ("a.txt", json.dumps({"version": 1, "data": TEXTS}, indent=2).encode(), "JSON over several lines"),
        ("a.jsonl", "\ufeff{}".encode("utf-16"), "UTF-16 text.*iconv"),
        ("a.jsonl", b'{"text": "one"}\n'.decode().encode("utf-16-le"), "binary data"),
        ("a.txt", zip_bytes(), "a ZIP archive.*unzip"),
        ("a.txt", gzip.compress(gzip.compress(b"text" * 99)), "compressed twice"),
        ("a.txt", b"7z\xbc\xaf\x27\x1c\0\4" + bytes(30), "a 7z archive"),
        ("a.txt", b"Rar!\x1a\x07\x01\0" + bytes(30), "a RAR archive"),
        ("a.txt", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj", "a PDF file"),
        ("a.txt", pickle.dumps(TEXTS), "a pickle"),
        ("a.jsonl", pickle.dumps(TEXTS, protocol=0), "a pickle"),
        ("a.jsonl", pickle.dumps(TEXTS, protocol=2), "a pickle"),
        ("a.parquet", arrow_bytes(pa.ipc.new_file), "an Arrow file"),
        ("a.txt", arrow_bytes(pa.ipc.new_stream), "an Arrow stream"),
        ("a.jsonl", b"ORC\x0a\x03\0\0\0" + bytes(60), "an ORC file"),
        ("a.txt", bytes(1 << 20), "binary data"),
        ("a.tar", bytes(1 << 20), "nothing but zero bytes"),
        ("a.txt", os.urandom(5_000), "binary data"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("as_folder", [True, False])
def test_a_file_that_is_not_what_its_name_says_is_refused(name, content, seems, as_folder, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(content)
    path = tmp_path / "in" if as_folder else tmp_path / "in" / name
    with pytest.raises(UserError, match=rf"{name} is (a file that was )?{seems}") as error:
        run(path, tmp_path / "out")
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=seems):
        stage.check_available(IngestConfig(path=str(path)))
    with pytest.raises(UserError, match=seems):  # not "left out": it is there
        run(path, tmp_path / "out", required=False)


def test_databases_and_arrays_are_refused(tmp_path):
    np.save(tmp_path / "array.npy", ARRAY)
    for content, seems in ((sqlite_bytes(tmp_path), "SQLite"), ((tmp_path / "array.npy").read_bytes(), "NumPy array")):
        (tmp_path / "a.txt").write_bytes(content)
        with pytest.raises(UserError, match=seems):
            run(tmp_path / "a.txt", tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.zip", zip_bytes(), "a.zip, a ZIP archive"),
        ("a.arrow", arrow_bytes(pa.ipc.new_file), "a.arrow, an Arrow file"),
        ("a.parquet.gz", gzip.compress(parquet_bytes()), "a.parquet.gz, a compressed Parquet file"),
        ("a.html", HTML, "a.html, an HTML page"), ("a.pkl", pickle.dumps(TEXTS), "a.pkl, a pickle"),
        ("a", b"text", "a"), ("a.gz", b"\x1f\x8b\x08", "a.gz"),
    ],
)  # fmt: skip
def test_a_folder_without_a_collection_says_what_is_there(name, content, told, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"no text collection at .* \(there: {told}\)"):
        run(tmp_path, tmp_path / "out")


def test_a_compressed_parquet_file_is_refused(tmp_path):
    (tmp_path / "a.parquet.gz").write_bytes(gzip.compress(parquet_bytes()))
    with pytest.raises(UserError, match=r"a\.parquet\.gz is a compressed Parquet file.*decompress it"):
        run(tmp_path / "a.parquet.gz", tmp_path / "out")


def test_one_wrong_shard_among_good_ones_is_refused_before_any_work(tmp_path):
    for number in range(3):
        pq.write_table(pa.table({"text": TEXTS}), tmp_path / f"{number}.parquet")
    (tmp_path / "1.parquet").write_bytes(POINTER)
    with pytest.raises(
        UserError, match=r"1\.parquet is a Git LFS pointer.*or set the path to a glob of the other files"
    ):
        run(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    pq.write_table(pa.table({"content": TEXTS}), tmp_path / "1.parquet")
    with pytest.raises(UserError, match=r"1\.parquet has no column 'text'"):
        run(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("name", "content"), [("z.json", b'{"features": []}'), ("z.jsonl", b'{"id": 1}\n{"id": 2}\n')])
def test_a_file_of_other_records_is_refused_before_any_work(name, content, tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(LINES))
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name} has lines without a text 'text'"):
        run(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_wrong_file_among_documents_is_a_skipped_record(tmp_path):
    (tmp_path / "in").mkdir()
    for number, text in enumerate(TEXTS):
        (tmp_path / "in" / f"{number:02}.txt").write_text(text)
    (tmp_path / "in" / "20.txt").write_bytes(HTML)
    assert run(tmp_path / "in", tmp_path / "out") == TEXTS[:20] + TEXTS[21:]
    assert skipped(tmp_path / "out") == [("20.txt", "", "not a text")]


@pytest.mark.parametrize(
    "text",
    [
        "PARENTS know.",
        "ORCHARDS bloom.",
        "ID3 is an algorithm.",
        "RIFF after riff.",
        "07070 is a number.",
    ],
)
def test_a_text_may_begin_like_a_format(text, tmp_path):
    assert not_text(text.encode()) is None
    (tmp_path / "a.tar").write_bytes(tar_bytes([("1.txt", text.encode())]))
    assert run(tmp_path / "a.tar", tmp_path / "out") == [text]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", parquet_bytes()),
        ("a.jsonl.gz", lzma.compress(b"\n".join(LINES))),
        ("a.jsonl.gz", b"\n".join(LINES)),
        ("a.txt", b"\n".join(LINES)),
        ("a", gzip.compress(b"\n".join(LINES))),
        ("a.txt", tar_bytes((f"{n:02}.txt", text.encode()) for n, text in enumerate(TEXTS))),
        ("a.jsonl", b"\xef\xbb\xbf" + b"\r\n".join(LINES) + b"\r\n"),
        ("a.jsonl", b"\n\n".join(LINES)),
    ],
)  # fmt: skip
def test_bytes_count_for_more_than_names(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    assert run(tmp_path / name, tmp_path / "out") == TEXTS
    assert stats(tmp_path / "out")["skipped"] == stats(tmp_path / "out")["unread"] == {}


# --- archives ---------------------------------------------------------------------------------------------------------


def v7_bytes(files):
    """As tar wrote them before POSIX: without `ustar` and what follows it in the headers."""
    content = bytearray(tar_bytes(files, format=tarfile.USTAR_FORMAT))
    for start in range(0, 1024 * len(files), 1024):
        content[start + 257 : start + 512] = bytes(255)
        content[start + 148 : start + 156] = b" " * 8
        content[start + 148 : start + 156] = b"%06o\0 " % sum(content[start : start + 512])
    return bytes(content)


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, "v7"])
def test_archives_of_every_kind(format, tmp_path):
    files = [(f"{'long/' * 30 if format != 'v7' else ''}{n}é.txt", TEXTS[n].encode()) for n in range(5)]
    if format == tarfile.USTAR_FORMAT:
        files = [(name.replace("é", ""), content) for name, content in files]
    content = v7_bytes(files) if format == "v7" else tar_bytes(files, format=format)
    assert (b"ustar" in content) == (format != "v7")
    (tmp_path / "a.tar").write_bytes(content)
    assert run(tmp_path / "a.tar", tmp_path / "out") == TEXTS[:5]


def test_archives_that_were_appended_to_one_another(tmp_path):
    parts = [tar_bytes([(f"{n}.txt", TEXTS[n].encode())]) for n in range(3)]
    (tmp_path / "a.tar").write_bytes(b"".join(parts))
    assert run(tmp_path / "a.tar", tmp_path / "out") == TEXTS[:3]


def test_a_broken_header_costs_its_member(tmp_path):
    content = bytearray(tar_bytes([(f"{n}.txt", TEXTS[n].encode()) for n in range(5)]))
    content[1024 * 2 : 1024 * 2 + 40] = b"\xff" * 40
    (tmp_path / "a.tar").write_bytes(content)
    assert run(tmp_path / "a.tar", tmp_path / "out") == TEXTS[:2] + TEXTS[3:5]
    assert skipped(tmp_path / "out") == [("a.tar", "after 1.txt", "part of a damaged file")]


def test_members_of_any_suffix_are_read_or_listed(tmp_path):
    image = b"\x89PNG\r\n\x1a\n" + bytes(50)
    lines = b"\n".join(LINES[20:])
    files = [
        ("1.TXT", TEXTS[1].encode()), ("2.md", TEXTS[2].encode()), ("3.txt", b"\xef\xbb\xbf" + TEXTS[3].encode()),
        ("._3.txt", b"\0\5\x16\7" + bytes(90)), ("4.txt", image), ("5.png", image), ("LICENSE", b"Free."),
        ("part.parquet", parquet_bytes()), ("part.jsonl.zst", zstandard.compress(lines)), ("fake.parquet", HTML),
        ("6.txt", "Привет, это другая кодировка".encode("cp1251")),
    ]  # fmt: skip
    (tmp_path / "a.tar").write_bytes(tar_bytes(files))
    texts = run(tmp_path / "a.tar", tmp_path / "out", max_skipped=0.05)
    assert sorted(texts) == sorted(TEXTS[1:4] + TEXTS + TEXTS[20:])
    assert stats(tmp_path / "out")["skipped"] == {"not a text": 2, "not UTF-8": 1}
    assert stats(tmp_path / "out")["unread"] == {"hidden": 1, ".png": 1, "without a suffix": 1}
    assert sorted(skipped(tmp_path / "out")) == [
        ("a.tar", "._3.txt", "hidden"), ("a.tar", "4.txt", "not a text"), ("a.tar", "5.png", ".png"),
        ("a.tar", "6.txt", "not UTF-8"), ("a.tar", "LICENSE", "without a suffix"),
        ("a.tar/fake.parquet", "", "not a text"),
    ]  # fmt: skip


def test_an_archive_without_documents_is_an_error_that_says_what_is_in_it(tmp_path):
    (tmp_path / "a.tar").write_bytes(tar_bytes([("1.html", HTML), ("2.html", HTML)]))
    with pytest.raises(UserError, match=r"no document with text .*not read: \.html 2"):
        run(tmp_path, tmp_path / "out")


# --- folders ----------------------------------------------------------------------------------------------------------


def test_what_a_folder_holds_besides_is_said(tmp_path):
    folder = tmp_path / "in"
    (folder / ".git").mkdir(parents=True)
    (folder / ".git" / "x.parquet").write_bytes(b"")
    pq.write_table(pa.table({"text": TEXTS[:10]}), folder / "train.parquet")
    (folder / "more.jsonl").write_bytes(b"\n".join(LINES[10:]))
    (folder / "third.txt").write_text(TEXTS[30])
    (folder / "README.md").write_text("About")
    (tmp_path / "elsewhere").mkdir()
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    assert run(folder, tmp_path / "out") == TEXTS[:10]
    assert skipped(tmp_path / "out") == [
        ("README.md", "", ".md"), ("linked", "", "linked folder"), ("more.jsonl", "", "another layout"),
        ("third.txt", "", "another layout"),
    ]  # fmt: skip
    assert stage.headline(stats(tmp_path / "out")) == (
        "10 documents, not read: another layout 2, .md 1, linked folder 1"
    )


def test_files_are_named_by_their_place_in_the_collection(tmp_path):
    for number in range(2):
        (tmp_path / "in" / str(number)).mkdir(parents=True)
        (tmp_path / "in" / str(number) / "a.jsonl").write_bytes(b"\n".join([*LINES, b"{"]))
    assert len(run(tmp_path / "in", tmp_path / "out", max_skipped=0.02)) == 100
    assert [file for file, *_ in skipped(tmp_path / "out")] == ["0/a.jsonl", "1/a.jsonl"]


def test_a_link_to_nothing_is_an_error(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(LINES))
    (tmp_path / "b.jsonl").symlink_to(tmp_path / ".git/annex/objects/gone")
    with pytest.raises(UserError, match=r"b\.jsonl is a link to a file that is not there"):
        run(tmp_path, tmp_path / "out")


def test_what_may_not_be_read_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "in/a").mkdir(parents=True)
    (tmp_path / "in/a/a.jsonl").write_bytes(b"\n".join(LINES))
    access, scandir = os.access, os.scandir  # root, as which tests often run, may read everything

    def refuse(folder):
        if str(folder).endswith("in/a"):
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith("a.jsonl") and access(path, mode))
    with pytest.raises(UserError, match=r"a\.jsonl may not be read by this user"):
        run(tmp_path / "in", tmp_path / "out")
    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"cannot read the folder .*in/a \(Permission denied\)"):
        run(tmp_path / "in", tmp_path / "out")


def test_a_schema_of_broken_names_is_damage(tmp_path):
    content = parquet_bytes()
    (tmp_path / "a.parquet").write_bytes(content.replace(b"text", b"\xf4ext"))
    (tmp_path / "b.parquet").write_bytes(content)
    assert run(tmp_path, tmp_path / "out") == TEXTS
    assert skipped(tmp_path / "out") == [("a.parquet", "", "rest of a damaged file")]


def test_an_empty_file_is_listed(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.jsonl").write_bytes(b"\n".join(LINES))
    (folder / "b.jsonl").write_bytes(b"")
    (folder / "c.jsonl.gz").write_bytes(gzip.compress(b"\n"))
    assert run(folder, tmp_path / "out") == TEXTS
    assert skipped(tmp_path / "out") == [("b.jsonl", "", "empty"), ("c.jsonl.gz", "", "empty")]
    (folder / "d.jsonl.gz").write_bytes(b"")  # as a download leaves it that never began
    run(folder, tmp_path / "damaged")
    assert skipped(tmp_path / "damaged")[-1] == ("d.jsonl.gz", "", "rest of a damaged file")
    for name in ("a.jsonl", "d.jsonl.gz"):
        (folder / name).unlink()
    with pytest.raises(UserError, match=r"no document with text .*not read: empty 2"):
        run(folder, tmp_path / "none")


def test_what_is_whole_before_damage_is_kept_to_the_byte(tmp_path):
    members = [gzip.compress(b"\n".join(LINES[:20]) + b"\n"), gzip.compress(b"\n".join(LINES[20:]))]
    (tmp_path / "a.jsonl.gz").write_bytes(members[0] + members[1][:100])
    assert run(tmp_path / "a.jsonl.gz", tmp_path / "out")[:20] == TEXTS[:20]
    assert skipped(tmp_path / "out") == [("a.jsonl.gz", "", "rest of a damaged file")]


@pytest.mark.parametrize("broken", [1, 3])
def test_files_that_break_off_count_as_files(broken, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(10):
        content = gzip.compress(b"\n".join(LINES) + b" " * number)
        (folder / f"{number}.jsonl.gz").write_bytes(content[:-30] if number < broken else content)
    if broken > 1:
        with pytest.raises(
            UserError, match=r"3 of 10 files .*\(30\.0% .*: 0\.jsonl\.gz; 1\.jsonl\.gz; 2\.jsonl\.gz; all "
        ):
            run(folder, tmp_path / "refused")
    run(folder, tmp_path / "out", max_skipped=0.3)
    assert stats(tmp_path / "out")["damaged"] == [f"{number}.jsonl.gz" for number in range(broken)]
    names = "; ".join(f"{number}.jsonl.gz" for number in range(broken))
    assert stage.headline(stats(tmp_path / "out")).endswith(f"damaged files: {names}")


def test_inner_archives_that_break_off_count_as_files(tmp_path):
    inner = [(f"{number}.jsonl.gz", gzip.compress(b"\n".join(LINES))) for number in range(9)]
    inner[:2] = [(name, content[:-30]) for name, content in inner[:2]]
    (tmp_path / "a.tar").write_bytes(tar_bytes(inner))
    with pytest.raises(
        UserError, match=r"2 of 10 files and inner archives .*: a\.tar/0\.jsonl\.gz; a\.tar/1\.jsonl\.gz;"
    ):
        run(tmp_path, tmp_path / "out", max_skipped=0.19)
    run(tmp_path, tmp_path / "allowed", max_skipped=0.2)


def test_what_is_nested_too_deep_is_said_to_be(tmp_path):
    innermost = ("a.jsonl.gz", gzip.compress(b"\n".join(LINES)))
    inner = tar_bytes([innermost, ("in2.tar.gz", b"not looked into"), ("0.txt", b"A text.")])
    (tmp_path / "a.tar").write_bytes(tar_bytes([("in.tar", inner)]))
    assert run(tmp_path, tmp_path / "out") == ["A text."]
    assert skipped(tmp_path / "out") == [
        ("a.tar/in.tar", "a.jsonl.gz", "nested too deep"), ("a.tar/in.tar", "in2.tar.gz", "nested too deep")
    ]  # fmt: skip


# --- one bad record costs one record ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "broken', "not JSON"), (b"not json at all", "not JSON"), (b"{" * 100_000, "not JSON"),
        (b'{"id": 7}', "no text"), (b'{"text": ["a", "b"]}', "no text"), (b'{"text": 5}', "no text"),
        (b'["text"]', "not an object"), (b"null", "not an object"), (b'"text"', "not an object"),
        ('{"text": "Привет, это другая кодировка"}'.encode("cp1251"), "not UTF-8"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("place", [1, 11, 51])
def test_a_bad_line_costs_one_record(line, reason, place, tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([*LINES[: place - 1], line, *LINES[place - 1 :]]))
    assert run(tmp_path / "a.jsonl", tmp_path / "out") == TEXTS
    assert skipped(tmp_path / "out") == [("a.jsonl", f"line {place}", reason)]
    assert stage.headline(stats(tmp_path / "out")) == f"50 documents, 1 skipped ({reason} 1)"


@pytest.mark.parametrize(
    "line",
    [
        b'{"text": "odd", "n": ' + b"9" * 5_000 + b"}", b'{"text": "odd", "x": NaN, "y": -Infinity}',
        b'{"text": "first", "text": "odd"}', b'  {"text": "odd"}\r',
        b'{"text": "odd", "deep": ' + b"[" * 200 + b"]" * 200 + b"}",
    ],
)  # fmt: skip
def test_odd_lines_that_are_read(line, tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([*LINES, line]))
    assert run(tmp_path / "a.jsonl", tmp_path / "out") == [*TEXTS, "odd"]


def test_what_meta_lacks_the_record_may_say(tmp_path):
    line = {"text": "A text.", "url": "http://a.example/", "lang": "en", "meta": {"lang": "de", "seen": 1}}
    (tmp_path / "a.jsonl").write_text(json.dumps(line))
    run(tmp_path / "a.jsonl", tmp_path / "out")
    [row] = read_rows(shards(tmp_path / "out"))
    assert (row["url"], row["lang"]) == ("http://a.example/", "de")


def test_a_null_is_a_record_without_text(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([*LINES[:10], b'{"text": null}', *LINES[10:]]))
    assert run(tmp_path / "a.jsonl", tmp_path / "out") == TEXTS
    assert stage.headline(stats(tmp_path / "out")) == "50 documents, 1 without text"


def test_a_line_that_is_too_long_costs_one_record(tmp_path, monkeypatch):
    monkeypatch.setattr("scraping.collections.records.DOCUMENT_BYTES", 1_000)
    long = json.dumps({"text": "x" * 5_000}).encode()
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([LINES[0], long, LINES[1]]))
    (tmp_path / "b.txt").write_bytes(b"<|endoftext|>".join([TEXTS[0].encode(), b"x" * 5_000_000, TEXTS[1].encode()]))
    for name, place in (("a.jsonl", "line 2"), ("b.txt", "document 2")):
        assert run(tmp_path / name, tmp_path / f"out {name}") == TEXTS[:2]
        assert skipped(tmp_path / f"out {name}") == [(name, place, "too long")]


@pytest.mark.parametrize("compression", ["none", "zstd"])
@pytest.mark.parametrize("checksum", [True, False])
def test_damaged_row_groups_cost_themselves(compression, checksum, tmp_path):
    path = tmp_path / "a.parquet"
    texts = [f"{n} {text}" * 30 for n, text in enumerate(TEXTS)]
    options = {"compression": compression, "write_page_checksum": checksum, "use_dictionary": False}
    options["write_statistics"] = False  # they would be most of so small a file
    pq.write_table(pa.table({"text": texts}), path, row_group_size=10, **options)
    content = bytearray(path.read_bytes())
    for group in (1, 2):
        column = pq.ParquetFile(path).metadata.row_group(group).column(0)
        start = column.data_page_offset + (column.total_compressed_size // 2 if checksum else 0)
        content[start : start + 40] = bytes(40)
    path.write_bytes(content)
    if checksum or compression == "zstd":
        assert run(path, tmp_path / "out") == texts[:10] + texts[30:]
    else:
        assert run(path, tmp_path / "out")[:10] == texts[:10]
    assert skipped(tmp_path / "out") == [("a.parquet", "row groups 1-2", "damaged")]
    assert stats(tmp_path / "out")["skipped"] == {"damaged": 20}


def test_a_text_in_another_encoding_costs_one_row(tmp_path):
    raw = [text.encode() for text in TEXTS]
    raw[7] = "Привет, это другая кодировка".encode("cp1251")
    pq.write_table(pa.table({"text": pa.array(raw, pa.binary()), "url": TEXTS}), tmp_path / "a.parquet")
    assert run(tmp_path / "a.parquet", tmp_path / "out") == TEXTS[:7] + TEXTS[8:]
    assert skipped(tmp_path / "out") == [("a.parquet", "row group 0, row 7", "not UTF-8")]
    urls = [row["url"] for row in read_rows(shards(tmp_path / "out"))]
    assert urls == TEXTS[:7] + TEXTS[8:]


@pytest.mark.parametrize(("name", "form"), [("a.jsonl", '{"text": "%s"}'), ("a.csv", 'text\n"%s"'), ("a.txt", "%s")])
def test_a_western_text_in_another_encoding_is_refused(name, form, tmp_path):
    text = "Die Brücke über den Fluß ist für große Schiffe zu niedrig, sagt die Behörde, und läßt sie nicht durch."
    (tmp_path / name).write_bytes((form % text).encode("cp1252"))
    with pytest.raises(UserError, match=r"not UTF-8 1;.*iconv"):
        run(tmp_path / name, tmp_path / "out")


def test_texts_that_lost_characters_are_counted(tmp_path):
    lines = [*LINES, b'{"text": "caf\xe9 au lait"}', '{"text": "lost \ufffd before"}'.encode()]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    assert run(tmp_path / "a.jsonl", tmp_path / "out") == [*TEXTS, "caf\ufffd au lait", "lost \ufffd before"]
    assert stage.headline(stats(tmp_path / "out")) == "52 documents, 2 with U+FFFD (lost characters)"


@pytest.mark.parametrize(
    "kind", [pa.large_binary(), pa.binary_view(), pa.dictionary(pa.int8(), pa.large_string())], ids=str
)
def test_columns_of_any_type_that_holds_text(kind, tmp_path):
    pq.write_table(pa.table({"text": pa.array([*TEXTS, None]).cast(kind)}), tmp_path / "a.parquet")
    assert run(tmp_path / "a.parquet", tmp_path / "out") == TEXTS


@pytest.mark.parametrize(
    ("bad", "records", "fails"), [(1, 10, False), (2, 199, True), (2, 201, False), (30, 200, True)]
)
def test_more_than_the_share_is_an_error_that_says_how_to_go_on(bad, records, fails, tmp_path):
    lines = [json.dumps({"text": f"Text {n}"}) for n in range(records - bad)]
    lines[5:5] = ["{"] * bad
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    if fails:
        wanted = (
            rf"{bad} of {records} records .* cannot be read .*not JSON {bad}; .*a\.jsonl, line 6: .*set max_skipped"
        )
        with pytest.raises(UserError, match=wanted):
            run(tmp_path / "a.jsonl", tmp_path / "out")
        assert len(skipped(tmp_path / "out")) == bad
    assert len(run(tmp_path / "a.jsonl", tmp_path / "out", max_skipped=0.2)) == records - bad
    assert len(skipped(tmp_path / "out")) == bad


def test_a_wrong_key_is_told_after_some_records_and_not_at_the_end(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"content": "a", "id": 1}\n' * 5_000)
    with pytest.raises(UserError, match=r"without a text 'text' \(they have: content, id\): set text_column"):
        run(tmp_path / "a.jsonl", tmp_path / "out")


def test_a_full_disk_is_not_damage(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    (tmp_path / "a.tar").write_bytes(tar_bytes([("a.jsonl", b"\n".join(LINES))]))
    monkeypatch.setattr("scraping.collections.layouts.shutil.copyfileobj", full)
    with pytest.raises(UserError, match=r"cannot go on with a\.tar \(No space left on device\)"):
        run(tmp_path / "a.tar", tmp_path / "out")


# --- CSV --------------------------------------------------------------------------------------------------------------


def test_csv(tmp_path):
    header = "\ufeffid,text,url"
    rows = [f'{n},"{text}, ""so"" it\r\nsays",http://a/{n}' for n, text in enumerate(TEXTS)]
    (tmp_path / "a.csv").write_text("\r\n".join([header, *rows]), newline="")
    assert run(tmp_path / "a.csv", tmp_path / "out") == [f'{text}, "so" it\nsays' for text in TEXTS]
    assert [row["url"] for row in read_rows(shards(tmp_path / "out"))] == [f"http://a/{n}" for n in range(50)]
    (tmp_path / "b.tsv.gz").write_bytes(gzip.compress("\n".join(["id\tbody", *(f"1\t{t}" for t in TEXTS)]).encode()))
    assert run(tmp_path / "b.tsv.gz", tmp_path / "tsv", text_column="body") == TEXTS
    with pytest.raises(UserError, match=r"a\.csv has no column 'body' \(it has: id, text, url\)"):
        run(tmp_path / "a.csv", tmp_path / "no", text_column="body")


@pytest.mark.parametrize("line", ['9,"never closed', "9", "9,a,b", '9,"a" b'])
def test_a_bad_row_costs_one_record(line, tmp_path):
    rows = [f'{n},"{text}"' for n, text in enumerate(TEXTS)]
    (tmp_path / "a.csv").write_text("\n".join(["id,text", *rows[:9], line, *rows[9:]]))
    assert run(tmp_path / "a.csv", tmp_path / "out") == TEXTS
    assert skipped(tmp_path / "out") == [("a.csv", "line 11", "not CSV")]


# --- zstd -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [27, 29, 31])
def test_zstd_windows(window, tmp_path):
    settings = zstandard.ZstdCompressionParameters(window_log=window, enable_ldm=True, compression_level=1)
    compressor = zstandard.ZstdCompressor(compression_params=settings).compressobj()
    (tmp_path / "a.jsonl.zst").write_bytes(compressor.compress(b"\n".join(LINES)) + compressor.flush())
    assert run(tmp_path / "a.jsonl.zst", tmp_path / "out") == TEXTS


def test_zstd_frames_that_hold_no_data(tmp_path):
    skippable = b"\x50\x2a\x4d\x18\x04\0\0\0meta"
    frames = [zstandard.compress(b"\n".join(lines) + b"\n") for lines in (LINES[:20], LINES[20:])]
    (tmp_path / "a.jsonl.zst").write_bytes(skippable + frames[0] + skippable * 2 + frames[1] + skippable)
    assert run(tmp_path / "a.jsonl.zst", tmp_path / "out") == TEXTS
