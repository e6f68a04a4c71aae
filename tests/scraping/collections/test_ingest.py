"""Ingestion: every layout gives the same documents, damage costs only what is damaged, a killed run goes on."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import lzma
import os
import pickle
import random
import re
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from scraping.collections import ingest as ingest_module
from scraping.collections.config import IngestConfig
from scraping.collections.documents import canonical_whitespace, document_id
from scraping.collections.files import ingest_files
from scraping.collections.ingest import ingest
from scraping.collections.records import SEPARATOR
from scraping.shards import count_rows, read_rows, shards
from textmill.errors import UserError
from textmill.mapping import Here

SHARED = Path(__file__).parents[3].parent / "shared" / "data" / "openwebtext"


def make_texts(count=300, seed=0):
    words = random.Random(seed)
    return [
        "\n\n".join(
            " ".join(f"word{words.randrange(2_000)}é" for _ in range(words.randrange(5, 60)))
            for _ in range(words.randrange(1, 4))
        )
        for _ in range(count)
    ]


def tar_bytes(files, mode="w"):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def inner_archives(texts, each=40):
    """(name, xz of tar of .txt) as OpenWebText has them."""
    for start in range(0, len(texts), each):
        files = [
            (f"{start + i:07d}-{hashlib.md5(text.encode()).hexdigest()}.txt", text.encode())
            for i, text in enumerate(texts[start : start + each])
        ]
        yield f"openwebtext/urlsf_subset{start // each:02d}-1_data.xz", lzma.compress(tar_bytes(files))


def write_parquet(path, texts, **columns):
    pq.write_table(pa.table({"text": texts, **columns}), path, row_group_size=70)


def write_layout(layout, folder, texts):
    folder.mkdir()
    lines = "".join(json.dumps({"text": text, "meta": {"title": None}}) + "\n" for text in texts).encode()
    match layout:
        case "nested tar.xz":
            (folder / "openwebtext.tar.xz").write_bytes(lzma.compress(tar_bytes(inner_archives(texts))))
        case "subset tars":
            inner = list(inner_archives(texts))
            (folder / "urlsf_subset00.tar").write_bytes(tar_bytes(inner[:3]))
            (folder / "urlsf_subset01.tar").write_bytes(tar_bytes(inner[3:]))
        case "inner archives":
            for name, content in inner_archives(texts):
                (folder / Path(name).name).write_bytes(content)
        case "flat tar.gz":
            files = [(f"owt/{i:05d}.txt", text.encode()) for i, text in enumerate(texts)]
            (folder / "openwebtext-10k.tar.gz").write_bytes(tar_bytes(files, "w:gz"))
        case "parquet":
            write_parquet(folder / "train-00000-of-00002.parquet", texts[:123])
            write_parquet(folder / "train-00001-of-00002.parquet", texts[123:])
        case "jsonl.zst":
            data = zstandard.compress(lines[: len(lines) // 2]) + zstandard.compress(lines[len(lines) // 2 :])
            (folder / "owt2.jsonl.zst").write_bytes(data)
        case "tar of jsonl.zst":
            (folder / "owt2.jsonl.zst.tar").write_bytes(
                tar_bytes([("owt2/2020-01.jsonl.zst", zstandard.compress(lines))])
            )
        case "json.gz":
            (folder / "c4-train.00000-of-01024.json.gz").write_bytes(gzip.compress(lines))
        case "text.bz2":
            (folder / "train.txt.bz2").write_bytes(bz2.compress(SEPARATOR.join(text.encode() for text in texts)))
    return folder


LAYOUTS = [
    "nested tar.xz", "subset tars", "inner archives", "flat tar.gz", "parquet", "jsonl.zst", "tar of jsonl.zst",
    "json.gz", "text.bz2",
]  # fmt: skip


def run(path, out, **settings):
    ingest(IngestConfig(path=str(path), **settings), out, lambda *_, **__: None)
    return list(read_rows(shards(out)))


def stats(out):
    return json.loads((out / "stats.json").read_text())


def skipped(out):
    """The list of what was not read: (file and place, reason and detail)."""
    path = out / "skipped.jsonl"
    items = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [(", ".join(filter(None, (i["file"], i["place"]))), f"{i['reason']}: {i['detail']}") for i in items]


@pytest.fixture(scope="module")
def texts():
    return make_texts()


@pytest.fixture(scope="module")
def reference(texts, tmp_path_factory):
    base = tmp_path_factory.mktemp("reference")
    run(write_layout("parquet", base / "in", texts), base / "out")
    return base / "out"


def test_documents_are_the_texts_in_order(texts, reference):
    rows = list(read_rows(shards(reference)))
    assert [row["text"] for row in rows] == texts
    assert all(row["id"] == document_id(row["text"].encode()) and row["n_chars"] == len(row["text"]) for row in rows)
    assert {row["source"] for row in rows} == {"openwebtext"}
    assert stats(reference) == {
        "source": "openwebtext", "documents": 300, "characters": sum(map(len, texts)), "empty": 0, "sampled_out": 0,
        "marred": 0, "skipped": {}, "unread": {}, "damaged": [],
    }  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_bytes(layout, texts, reference, tmp_path):
    run(write_layout(layout, tmp_path / "in", texts), tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(p.name for p in reference.iterdir())
    for file in reference.iterdir():
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes()


@pytest.mark.skipif(not SHARED.exists(), reason="the OpenWebText sample is not here")
def test_real_openwebtext_is_the_same_from_archive_and_parquet(tmp_path):
    archive = run(SHARED / "openwebtext.tar.xz", tmp_path / "archive")
    parquet = run(SHARED / "train-*.parquet", tmp_path / "parquet")
    assert len(archive) == 600 and archive == parquet


def test_texts_are_normalized_alike():
    assert canonical_whitespace(b"\n\n a\r\n\r\n\r\n\r\nb \r c\n \n\n\n") == b"a\n\nb \n c"


@given(st.text(alphabet="ab é\u2003\n\r", max_size=30))
def test_normalizing_is_what_the_maker_of_the_parquet_files_did(text):
    universal = io.StringIO(text, newline=None).read()
    assert canonical_whitespace(text.encode()).decode() == re.sub("\n\n\n+", "\n\n", universal).strip()


def test_broken_encodings_are_marked(tmp_path):
    raw = pa.array([b"caf\xe9 au lait", b"fine"], pa.binary())
    broken = pa.Array.from_buffers(pa.string(), 2, raw.buffers())
    pq.write_table(pa.table({"text": broken}), tmp_path / "a.parquet")
    (tmp_path / "a.tar").write_bytes(tar_bytes([("1.txt", b"caf\xe9 au lait"), ("2.txt", b"fine")]))
    for name in ("a.parquet", "a.tar"):
        rows = run(tmp_path / name, tmp_path / f"out {name}")
        assert [row["text"] for row in rows] == ["caf\ufffd au lait", "fine"]


def test_odd_values_beside_the_text_cost_nothing(tmp_path):
    broken = pa.Array.from_buffers(pa.string(), 1, pa.array([b"http://a.org/\xff"], pa.binary()).buffers())
    pq.write_table(pa.table({"text": ["one"], "url": broken, "title": [5]}), tmp_path / "a.parquet")
    [row] = run(tmp_path / "a.parquet", tmp_path / "parquet")
    assert (row["text"], row["url"], row["title"]) == ("one", "http://a.org/\ufffd", None)
    lines = (b'\xef\xbb\xbf{"text": "caf\xe9"}', b'{"text": "two\\ud800", "url": "\\ud800", "title": 5}')
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    rows = run(tmp_path / "a.jsonl", tmp_path / "lines")
    assert [(row["text"], row["url"], row["title"]) for row in rows] == [("caf\ufffd", None, None), ("two?", "?", None)]


@pytest.mark.parametrize("line", [b"[" * 100_000, b'{"n": ' + b"9" * 5_000 + b"}", b'{"text": "half'])
def test_a_line_that_is_not_json_costs_one_record(line, tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "whole"}\n' + line + b'\n\n{"text": "too"}\n')
    assert [row["text"] for row in run(tmp_path / "a.jsonl", tmp_path / "out")] == ["whole", "too"]
    [(place, what)] = skipped(tmp_path / "out")
    assert place == "a.jsonl, line 2" and what.startswith(("not JSON", "no text"))
    assert sum(stats(tmp_path / "out")["skipped"].values()) == 1


@pytest.mark.parametrize(
    "kind", [pa.large_string(), pa.string_view(), pa.binary(), pa.dictionary(pa.int32(), pa.string())], ids=str
)
def test_texts_of_any_arrow_type(kind, tmp_path):
    pq.write_table(pa.table({"text": pa.array(["one", "two"]).cast(kind)}), tmp_path / "a.parquet")
    assert [row["text"] for row in run(tmp_path, tmp_path / "out")] == ["one", "two"]


def test_a_folder_with_two_layouts_is_read_once(texts, tmp_path):
    folder = write_layout("nested tar.xz", tmp_path / "in", texts)
    write_parquet(folder / "train-00000-of-00001.parquet", texts)
    (folder / "README.md").write_text("about")
    assert [path.name for path in ingest_files(IngestConfig(path=str(folder)))] == ["train-00000-of-00001.parquet"]


def test_columns_are_taken_over(tmp_path):
    write_parquet(
        tmp_path / "000.parquet",
        ["one text", "two texts"],
        id=["a", "b"],
        url=["http://x/1", None],
        language=["en", "de"],
    )
    rows = run(tmp_path, tmp_path / "out", name="fineweb")
    assert [(row["source"], row["url"], row["lang"]) for row in rows] == [
        ("fineweb", "http://x/1", "en"), ("fineweb", None, "de"),
    ]  # fmt: skip


def test_limit_and_sample(texts, reference, tmp_path):
    folder = write_layout("nested tar.xz", tmp_path / "in", texts)
    all_rows = list(read_rows(shards(reference)))
    assert run(folder, tmp_path / "limit", limit=77) == all_rows[:77]
    sampled = run(folder, tmp_path / "sample", sample=0.3)
    assert 50 < len(sampled) < 130 and all(row in all_rows for row in sampled)
    assert stats(tmp_path / "sample")["sampled_out"] == 300 - len(sampled)
    assert run(write_layout("text.bz2", tmp_path / "in2", texts), tmp_path / "sample2", sample=0.3) == sampled
    assert run(folder, tmp_path / "both", sample=0.3, limit=10) == sampled[:10]


def test_empty_texts_are_counted(tmp_path):
    (tmp_path / "in").mkdir()
    write_parquet(tmp_path / "in/a.parquet", ["  \n", "text", None])
    write_parquet(tmp_path / "in/b.parquet", ["", None])
    assert len(run(tmp_path / "in", tmp_path / "out")) == 1
    assert stats(tmp_path / "out")["empty"] == 4


@pytest.mark.parametrize("workers", [1, 3])
def test_the_number_of_threads_does_not_matter(workers, texts, reference, tmp_path):
    run(write_layout("inner archives", tmp_path / "in", texts), tmp_path / "out", workers=workers)
    assert (tmp_path / "out/part-00000.parquet").read_bytes() == (reference / "part-00000.parquet").read_bytes()


class Elsewhere(Here):
    """An executor that reads like one of other processes: all that goes there and comes back is pickled."""

    def stream(self, function, items, spool, threads=1):
        assert not list(spool.iterdir())
        for item in items:
            read, unit = pickle.loads(pickle.dumps((function, item)))
            yield iter(pickle.loads(pickle.dumps(list(read(unit)))))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_another_process_may_read_the_units(layout, texts, reference, tmp_path):
    folder = write_layout(layout, tmp_path / "in", texts)
    ingest(IngestConfig(path=str(folder)), tmp_path / "out", executor=Elsewhere())
    for file in reference.iterdir():
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes()
    ingest(IngestConfig(path=str(folder), limit=77), tmp_path / "limit", executor=Elsewhere())
    assert list(read_rows(shards(tmp_path / "limit"))) == list(read_rows(shards(reference)))[:77]
    for out in ("out", "limit"):
        assert sorted(path.name for path in (tmp_path / out).iterdir()) == ["part-00000.parquet", "stats.json"]


# --- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["nested tar.xz", "subset tars", "flat tar.gz", "jsonl.zst", "json.gz", "text.bz2"])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.999])
def test_a_truncated_file_is_named_and_gives_what_was_whole(layout, share, texts, tmp_path):
    folder = write_layout(layout, tmp_path / "in", texts)
    path = sorted(folder.iterdir())[-1]
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content.rstrip(b"\0")) * share)])  # the zeros at the end of a tar are not missed
    whole = texts if layout != "subset tars" else texts[120:]
    try:
        rows = run(path, tmp_path / "out")
    except UserError as error:
        assert path.name in str(error)  # nothing was whole
        assert share == 0.3 or layout == "text.bz2"  # one block of bzip2 is all of it
        return
    assert [row["text"] for row in rows] == whole[: len(rows)]
    assert any(place.startswith(path.name) for place, _ in skipped(tmp_path / "out"))
    assert stats(tmp_path / "out")["skipped"] == {"rest of a damaged file": 1}


def test_a_tar_cut_between_members_is_damaged(texts, tmp_path):
    content = tar_bytes([(f"{i}.txt", b"x" * 512) for i in range(10)])
    (tmp_path / "a.tar").write_bytes(content[: 1024 * 7])
    run(tmp_path / "a.tar", tmp_path / "out", sample=1.0)
    assert [place for place, _ in skipped(tmp_path / "out")] == ["a.tar"]
    assert stats(tmp_path / "out")["documents"] == 7


def test_a_damaged_inner_archive_is_named_and_the_others_are_kept(texts, tmp_path):
    inner = list(inner_archives(texts))
    name, content = inner[2]
    inner[2] = (name, content[:200] + b"\0" * 50 + content[250:])
    (tmp_path / "openwebtext.tar.xz").write_bytes(lzma.compress(tar_bytes(inner)))
    rows = run(tmp_path, tmp_path / "out")
    kept = [row["text"] for row in rows]
    assert kept[:80] == texts[:80] and kept[-180:] == texts[120:]
    assert [place for place, _ in skipped(tmp_path / "out")] == ["openwebtext.tar.xz/urlsf_subset02-1_data.xz"]
    ingest(IngestConfig(path=str(tmp_path / "openwebtext.tar.xz")), tmp_path / "elsewhere", executor=Elsewhere())
    for name in ("part-00000.parquet", "skipped.jsonl", "stats.json"):
        assert (tmp_path / "elsewhere" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


def test_a_damaged_parquet_row_group_is_named(tmp_path):
    texts = make_texts(5_000)
    path = tmp_path / "train.parquet"
    pq.write_table(pa.table({"text": texts}), path, row_group_size=500, compression="none", use_dictionary=False)
    offset = pq.ParquetFile(path).metadata.row_group(4).column(0).data_page_offset
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * 200)
    rows = run(path, tmp_path / "out")
    assert [row["text"] for row in rows] == texts[:2_000] + texts[2_500:]
    assert [place for place, _ in skipped(tmp_path / "out")] == ["train.parquet, row group 4"]
    assert stats(tmp_path / "out")["skipped"] == {"damaged": 500}


def test_an_unreadable_file_beside_good_ones(texts, tmp_path):
    folder = write_layout("parquet", tmp_path / "in", texts)
    (folder / "train-00000-of-00002.parquet").write_bytes(b"PAR1 but no more")
    assert len(run(folder, tmp_path / "out")) == 300 - 123
    assert [place for place, _ in skipped(tmp_path / "out")] == ["train-00000-of-00002.parquet"]


def test_only_damaged_files_are_an_error(tmp_path):
    (tmp_path / "openwebtext.tar.xz").write_bytes(lzma.compress(tar_bytes([("1.txt", os.urandom(5_000))]))[:3_000])
    with pytest.raises(UserError, match=r"no document .*openwebtext\.tar\.xz: rest of a damaged file"):
        run(tmp_path, tmp_path / "out")


# --- hostile archives -------------------------------------------------------------------------------------------------


def hostile_tar(tmp_path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:

        def add(name, content=b"a text", **attributes):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for key, value in attributes.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(content))

        add("good/1.txt", b"the first")
        add("/etc/passwd.txt")
        add("../../escape.txt")
        add("link.txt", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd")
        add("hard.txt", b"", type=tarfile.LNKTYPE, linkname="good/1.txt")
        add("device.txt", b"", type=tarfile.CHRTYPE)
        add("folder", b"", type=tarfile.DIRTYPE)
        add("good/2.txt", b"the second")
        add("notes.pdf", b"%PDF")
    path = tmp_path / "hostile.tar"
    path.write_bytes(buffer.getvalue())
    return path


def test_members_that_do_not_belong_are_refused_and_listed(tmp_path):
    rows = run(hostile_tar(tmp_path), tmp_path / "out")
    assert [row["text"] for row in rows] == ["the first", "the second"]
    assert [place.removeprefix("hostile.tar, ") for place, _ in skipped(tmp_path / "out")] == [
        "/etc/passwd.txt", "../../escape.txt", "link.txt", "hard.txt", "device.txt", "notes.pdf",
    ]  # fmt: skip
    assert stats(tmp_path / "out")["unread"] == {"a path outside the archive": 2, "not a regular file": 3, ".pdf": 1}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hostile.tar", "out"]


def test_an_absurd_size_ends_the_archive(tmp_path):
    good = tarfile.TarInfo("1.txt")
    good.size = 9
    absurd = tarfile.TarInfo("2.txt")
    absurd.size = 1 << 50
    content = good.tobuf() + b"the first".ljust(512, b"\0") + absurd.tobuf(tarfile.GNU_FORMAT) + b"x" * 10_000
    (tmp_path / "a.tar").write_bytes(content)
    rows = run(tmp_path / "a.tar", tmp_path / "out")
    assert [row["text"] for row in rows] == ["the first"]
    assert [place for place, _ in skipped(tmp_path / "out")] == ["a.tar"]


def test_a_large_document_is_refused_and_the_rest_read(tmp_path, monkeypatch):
    monkeypatch.setattr("scraping.collections.records.DOCUMENT_BYTES", 1_000)
    files = [("1.txt", b"one"), ("2.txt", b"x" * 2_000), ("3.txt", b"three")]
    (tmp_path / "a.tar").write_bytes(tar_bytes(files))
    assert [row["text"] for row in run(tmp_path / "a.tar", tmp_path / "out")] == ["one", "three"]
    assert skipped(tmp_path / "out") == [("a.tar, 2.txt", "too long: 2000 bytes")]


def test_an_endless_member_name_is_not_read(tmp_path):
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 1 << 30
    first = tarfile.TarInfo("1.txt")
    first.size = 3
    content = first.tobuf() + b"one".ljust(512, b"\0") + header.tobuf(tarfile.GNU_FORMAT) + b"n" * 5_000
    (tmp_path / "a.tar").write_bytes(content)
    assert len(run(tmp_path / "a.tar", tmp_path / "out")) == 1
    assert skipped(tmp_path / "out") == [("a.tar", "rest of a damaged file: member header of 1073741824 bytes")]


@pytest.mark.long
@pytest.mark.parametrize("suffix", ["xz", "gz", "bz2", "zst"])
def test_a_decompression_bomb_costs_little_memory(suffix, tmp_path):
    filling = b"x" * (64 << 20)
    compress = {
        "xz": lzma.compress, "gz": gzip.compress, "bz2": bz2.compress, "zst": zstandard.compress,
    }[suffix]  # fmt: skip
    bomb = compress(b"a first document" + SEPARATOR + filling * 2)
    (tmp_path / f"bomb.txt.{suffix}").write_bytes(bomb)
    assert [row["text"] for row in run(tmp_path, tmp_path / "out")] == ["a first document"]
    assert skipped(tmp_path / "out") == [(f"bomb.txt.{suffix}, document 2", "too long: more than 67108864 bytes")]


# --- user mistakes ----------------------------------------------------------------------------------------------------


def test_nothing_there(tmp_path):
    for path in (tmp_path, tmp_path / "missing", tmp_path / "*.parquet"):
        with pytest.raises(UserError, match="no text collection at"):
            ingest_files(IngestConfig(path=str(path)))


def test_a_broken_glob_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"\*\*\.parquet is not a glob \(.*\): write one such as") as error:
        ingest_files(IngestConfig(path=str(tmp_path / "**.parquet")))
    assert "\n" not in str(error.value)


def test_wrong_column(tmp_path):
    pq.write_table(pa.table({"content": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"no column 'text' \(it has: content\)"):
        run(tmp_path, tmp_path / "out")
    pq.write_table(pa.table({"text": [1], "words": [["a"]]}), tmp_path / "b.parquet")
    with pytest.raises(UserError, match=r"'text' holds int64, not text: set text_column .*there is none"):
        run(tmp_path / "b.parquet", tmp_path / "out")
    (tmp_path / "a.jsonl").write_text('{"content": "a"}\n')
    with pytest.raises(UserError, match="set text_column"):
        run(tmp_path / "a.jsonl", tmp_path / "out")
    assert len(run(tmp_path / "a.jsonl", tmp_path / "out2", text_column="content")) == 1


def test_a_hub_path_must_name_a_data_set():
    with pytest.raises(UserError, match="not a data set on the hub"):
        ingest_files(IngestConfig(path="hf://openwebtext"))


# --- kill -9 ----------------------------------------------------------------------------------------------------------

PROGRAM = """
import sys
from pathlib import Path
import scraping.collections.ingest as module
module.SHARD_BYTES = 60_000
config = module.IngestConfig(path=sys.argv[1], workers=2, max_skipped=0.5)
module.ingest(config, Path(sys.argv[2]), lambda *_, **__: None)
"""


def test_kill_9_and_again_gives_the_same_bytes(tmp_path, monkeypatch):
    texts = make_texts(2_000)
    folder = tmp_path / "in"
    folder.mkdir()
    inner = list(inner_archives(texts))
    inner[30:30] = [("broken_data.xz", inner[30][1][:900]), ("notes.pdf", b"%PDF-")]
    inner[5:5] = [("lines.jsonl", b'{"text": "a"}\n{\n{}\n'), ("notes.pdf", b"%PDF-"), ("1.txt", b"\x89PNG\r\n")]
    (folder / "openwebtext.tar.xz").write_bytes(lzma.compress(tar_bytes(inner)))
    (folder / "README.md").write_text("About")
    monkeypatch.setattr(ingest_module, "SHARD_BYTES", 60_000)
    run(folder, tmp_path / "whole", max_skipped=0.5)
    assert len(shards(tmp_path / "whole")) > 3
    assert len(skipped(tmp_path / "whole")) == 7
    out = tmp_path / "out"
    for kill_after in (1, 2, 3):
        child = subprocess.Popen([sys.executable, "-c", PROGRAM, str(folder), str(out)])
        while child.poll() is None and len(shards(out)) < kill_after:
            time.sleep(0.001)
        child.send_signal(signal.SIGKILL)
        child.wait()
    (out / ".part-00099.parquet.tmp").write_bytes(b"half")
    run(folder, out, max_skipped=0.5)
    (out / ".journal.json").write_text("{}")  # as a kill leaves it after the last figure is written
    run(folder, out, max_skipped=0.5)
    assert sorted(p.name for p in out.iterdir()) == sorted(p.name for p in (tmp_path / "whole").iterdir())
    for file in (tmp_path / "whole").iterdir():
        assert (out / file.name).read_bytes() == file.read_bytes()
    assert count_rows(shards(out)) == 2_001
