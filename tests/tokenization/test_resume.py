"""Counts, token arrays and pairs whose runs are killed, disturbed and started again: as if nothing had happened."""

import os
import re
import resource
import subprocess
import sys
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from textmill.errors import UserError
from tokenization import counting, sentence_pairs, shard_writer, text
from tokenization import pretokenize as arrays
from tokenization.config import PretokenizeConfig, SentencePairsConfig, TokenizerConfig
from tokenization.pretokenize import pretokenize
from tokenization.sentence_pairs import make_pairs
from tokenization.shard_writer import EncodingInputs
from tokenization.train import train_tokenizer

COUNTS = {"vocab_size": 290, "threads": 1}


def train(inputs, out, **given):
    progress = given.pop("progress", lambda *_, **__: None)
    train_tokenizer(inputs.corpus, TokenizerConfig(**COUNTS | given), out, progress=progress)


def encode(inputs, out, **given):
    pretokenize(inputs, PretokenizeConfig(threads=1), out, **given)


def pair(inputs, out, **given):
    progress = given.pop("progress", lambda *_, **__: None)
    make_pairs(inputs, SentencePairsConfig(**given), out, progress=progress)


WORKS = {"counts": train, "arrays": encode, "pairs": pair}
every_work = pytest.mark.parametrize("work", WORKS.values(), ids=WORKS.keys())


def documents(first, count, topic="shard"):
    return [
        " ".join(f"Document {d} of this {topic} has sentence {s}, naïve 你好." for s in range(2 + d % 4))
        for d in range(first, first + count)
    ]


SHARDS = {"train-00000": documents(0, 30), "train-00001": documents(30, 40), "validation-00000": documents(70, 20)}


def write_shard(path, texts):
    """A Parquet file whose size does not depend on the letters of the texts."""
    table = pa.table({"text": texts, "source": ["ab"[len(text) % 2] for text in texts]})
    pq.write_table(table, path, compression="none", use_dictionary=False, write_statistics=False, row_group_size=16)


def write_corpus(folder, shards=SHARDS):
    folder.mkdir()
    for name, texts in shards.items():
        write_shard(folder / f"{name}.parquet", texts)
    return folder


def changed(texts):
    return [text.translate(str.maketrans("ae", "ea")) for text in texts]


@pytest.fixture
def inputs(trained, tmp_path):
    """A corpus that a test may change, and a tokenizer."""
    return EncodingInputs(write_corpus(tmp_path / "corpus"), trained)


def content(folder):
    """Every file and folder below a folder."""
    return {str(path.relative_to(folder)): path.is_file() and path.read_bytes() for path in folder.rglob("*")}


def clean_run(work, inputs, tmp_path, **given):
    work(inputs, tmp_path / "clean", **given)
    return content(tmp_path / "clean")


class Stopped(BaseException):
    pass


def stop_run(work, inputs, out, shards=1, **given):
    """Start work on an output and stop it when so many shards are finished."""

    def progress(*_, **__):
        if len(pieces(out)) == shards:
            raise Stopped

    with pytest.raises(Stopped):
        work(inputs, out, progress=progress, **given)


def pieces(out):
    return sorted(note.parent for note in out.glob("*/*/*/piece.json"))


PROGRAM = """
import json, os, shutil, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_resume import WORKS, EncodingInputs, content

corpus, tokenizer, folder = map(Path, sys.argv[2:5])
inputs, step = EncodingInputs(corpus, tokenizer), int(sys.argv[5])
out = folder / "out"
CHANGES = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}

def killed_at(moment, work):
    # a run that kills itself when it is about to change something in its output for the so-manieth time
    seen = 0
    def hook(event, arguments):
        nonlocal seen
        if event in CHANGES and str(arguments[0]).startswith(str(out)):
            seen += 1
            if seen == moment:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
    work(inputs, out)

def in_a_process(function, *arguments):
    child = os.fork()
    if not child:
        try:
            function(*arguments)
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

for name, work in WORKS.items():
    work(inputs, folder / name)
    clean = content(folder / name)
    moment = 1
    while (ended := in_a_process(killed_at, moment, work)) == -signal.SIGKILL:
        assert in_a_process(work, inputs, out) == 0, (name, moment)
        assert content(out) == clean, (name, moment, set(content(out)) ^ set(clean))
        shutil.rmtree(out)
        moment += step
    assert ended == 0, (name, moment)
    shutil.rmtree(out)
    print(moment)
"""


@pytest.mark.parametrize("step", [13, pytest.param(1, marks=pytest.mark.slow)])
def test_kill_9_at_any_moment(step, inputs, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, program, Path(__file__).parent, *inputs, tmp_path, str(step)]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)
    assert run.returncode == 0, run.stderr
    assert [int(moments) > 30 for moments in run.stdout.split()] == [True] * 3


@every_work
@pytest.mark.parametrize("shards", [1, 2])
def test_finished_shards_are_taken_up(work, shards, inputs, tmp_path, monkeypatch):
    clean, read = clean_run(work, inputs, tmp_path), []
    stop_run(work, inputs, tmp_path / "out", shards)
    for module in (counting, arrays, sentence_pairs):
        read_shard = module.read_shard
        monkeypatch.setattr(module, "read_shard", lambda shard, of=read_shard: read.append(shard.stem) or of(shard))
    work(inputs, tmp_path / "out")
    finished = sorted(SHARDS)[shards:]
    assert read == [name for name in finished if work is not train or name.startswith("train")]
    assert content(tmp_path / "out") == clean


@pytest.mark.parametrize(
    ("work", "first", "then"),
    [
        (train, {"pattern": "cl100k"}, {"pattern": "gpt2"}),
        (train, {"pattern": r"\p{L}+|\P{L}+"}, {"pattern": r"\p{L}+|\P{L}"}),
        (train, {"vocab_size": 285}, {}),
        (train, {"special_tokens": ["at"]}, {"special_tokens": ["<|user|>"]}),
        (train, {"multiple_of": 128}, {"multiple_of": 64}),
        (train, {"reserved": 3}, {}),
        (pair, {"seed": 1}, {"seed": 2}),
        (pair, {"negatives": 0.2}, {}),
        (pair, {"min_characters": 5}, {"min_characters": 50}),
    ],
)
def test_other_settings_after_a_kill(work, first, then, inputs, tmp_path):
    clean = clean_run(work, inputs, tmp_path, **then)
    stop_run(work, inputs, tmp_path / "out", 2, **first)
    work(inputs, tmp_path / "out", **then)
    assert content(tmp_path / "out") == clean


@pytest.mark.parametrize("work", [encode, pair])
def test_another_tokenizer_after_a_kill(work, inputs, tmp_path):
    train(inputs, tmp_path / "other", vocab_size=280)
    other = inputs._replace(tokenizer=tmp_path / "other")
    clean = clean_run(work, other, tmp_path)
    stop_run(work, inputs, tmp_path / "out", 2)
    work(other, tmp_path / "out")
    assert content(tmp_path / "out") == clean


@pytest.mark.parametrize(("first", "then"), [(encode, pair), (pair, encode), (train, encode), (train, pair)])
def test_other_work_after_a_kill(first, then, inputs, tmp_path):
    clean = clean_run(then, inputs, tmp_path)
    stop_run(first, inputs, tmp_path / "out")
    then(inputs, tmp_path / "out")
    assert {
        name: data for name, data in content(tmp_path / "out").items() if ".textmill-word-counts" not in name
    } == clean


def in_place(corpus):
    """Other letters, and the same name, size and time."""
    shard = corpus / "train-00000.parquet"
    before = shard.stat()
    write_shard(shard, changed(SHARDS[shard.stem]))
    os.utime(shard, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (shard.stat().st_size, shard.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def swap(corpus):
    a, b, aside = (corpus / f"{name}.parquet" for name in ("train-00000", "train-00001", "aside"))
    a.rename(aside)
    b.rename(a)
    aside.rename(b)


def rename(corpus):
    (corpus / "train-00000.parquet").rename(corpus / "train-00009.parquet")


def add(corpus):
    write_shard(corpus / "train-00000a.parquet", documents(200, 9))


def remove(corpus):
    (corpus / "train-00000.parquet").unlink()


def repeat(corpus):
    (corpus / "train-00001.parquet").write_bytes((corpus / "train-00000.parquet").read_bytes())


every_change = pytest.mark.parametrize("change", [in_place, swap, rename, add, remove, repeat])


@every_work
@every_change
def test_another_corpus_after_a_kill(work, change, inputs, tmp_path):
    out = tmp_path / "out"
    stop_run(work, inputs, out, 2)
    change(inputs.corpus)
    clean = clean_run(work, inputs, tmp_path)
    work(inputs, out)
    assert content(out) == clean


@every_work
@every_change
def test_a_corpus_that_changes_while_it_is_read(work, change, inputs, tmp_path):
    def progress(done, *_, unit, **__):
        if not happened and done >= {"shards": 1, "documents": 16}[unit]:
            happened.append(change(inputs.corpus))

    out, happened = tmp_path / "out", []
    try:
        work(inputs, out, progress=progress)
    except UserError as error:
        assert re.search(r"changed (while|after) it was read; run again|cannot be read: No such file", str(error))
        assert "meta.json" not in content(out)
        assert "tokenizer.yaml" not in content(out)
    else:  # it changed before that shard was read
        assert change is repeat
    clean = clean_run(work, inputs, tmp_path)
    work(inputs, out)
    assert content(out) == clean


@pytest.mark.parametrize("work", [encode, pair])
def test_what_was_read_of_two_versions_of_a_shard_is_not_kept(work, inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(text, "BATCH_ROWS", 8)
    clean = clean_run(work, inputs, tmp_path)
    shard = inputs.corpus / "train-00001.parquet"
    before = shard.read_bytes()

    def progress(done, *_, **__):
        if done == 46:  # the first rows of the second shard are read
            write_shard(shard, changed(SHARDS[shard.stem]))

    with pytest.raises(UserError, match="changed while it was read"):
        work(inputs, tmp_path / "out", progress=progress)
    shard.write_bytes(before)
    work(inputs, tmp_path / "out")
    assert content(tmp_path / "out") == clean


def flip(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def truncate(file):
    os.truncate(file, file.stat().st_size // 2)


def grow(file):
    file.write_bytes(file.read_bytes() + b"\0")


def join(file):
    (file.parent / "more.bin").write_bytes(b"")


@every_work
@pytest.mark.parametrize("harm", [flip, truncate, grow, Path.unlink, join, lambda file: os.truncate(file, 0)])
def test_damage_to_what_is_kept(work, harm, inputs, tmp_path, caplog):
    clean = clean_run(work, inputs, tmp_path)
    stop_run(work, inputs, tmp_path / "some")
    names = [file.name for file in pieces(tmp_path / "some")[0].iterdir()]
    assert len(names) == {train: 2, encode: 4, pair: 4}[work]
    for name in names:
        out = tmp_path / name
        stop_run(work, inputs, out)
        harm(pieces(out)[0] / name)
        caplog.clear()
        work(inputs, out)
        assert "Kept work was damaged on the disk and is done again" in caplog.text
        assert content(out) == clean


@every_work
def test_what_other_code_made_is_not_taken_up(work, inputs, tmp_path, monkeypatch):
    clean = clean_run(work, inputs, tmp_path)
    out = tmp_path / "out"
    with monkeypatch.context() as older:
        older.setattr(shard_writer, "code_digest", lambda package: "older")
        older.setattr(counting, "count_words", lambda _, *rest, of=counting.count_words: of([], *rest))
        older.setattr(shard_writer, "read_sources", lambda shard: None)
        older.setattr(sentence_pairs, "sentences", lambda text, _: [text])
        stop_run(work, inputs, out, 2)
    for name in ("train-00000", "train-00007"):  # as a version before left them
        (out / f"{name}.done").write_text("{}")
        (out / f"{name}.bin").write_bytes(b"12")
    (out / ".textmill-word-counts" / ("0" * 64)).mkdir(parents=True, exist_ok=True)
    (out / ".textmill-word-counts" / ("0" * 64) / "counts.npz").write_bytes(b"")
    work(inputs, out)
    kept = {"train-00000.done", "train-00007.done", "train-00000.bin", "train-00007.bin"} if work is train else set()
    foreign = kept if work is train else {name for name in content(out) if name.startswith(".textmill-word-counts")}
    assert {name: data for name, data in content(out).items() if name not in foreign} == clean


@pytest.mark.parametrize("work", [encode, pair])
def test_files_of_an_older_output_go(work, inputs, tmp_path):
    work(inputs, tmp_path / "out")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    remove(inputs.corpus)
    work(inputs, tmp_path / "out")
    assert content(tmp_path / "out") == clean_run(work, inputs, tmp_path) | {"notes.txt": b"mine"}


@every_work
def test_an_older_output_stays_whole_until_the_new_one_is(work, inputs, tmp_path):
    work(inputs, tmp_path / "out")
    before = content(tmp_path / "out")
    write_shard(inputs.corpus / "train-00000.parquet", changed(SHARDS["train-00000"]))
    stop_run(work, inputs, tmp_path / "out", 2)
    after = content(tmp_path / "out")
    assert {name: after[name] for name in before} == before


@every_work
@pytest.mark.parametrize("folder", ["shards", "word-counts", "tokenizer"])
def test_a_folder_of_the_user_stays(work, folder, inputs, tmp_path):
    thesis = tmp_path / "out" / folder / "thesis.txt"
    thesis.parent.mkdir(parents=True)
    thesis.write_text("years of work")
    work(inputs, tmp_path / "out")
    assert thesis.read_text() == "years of work"


@pytest.mark.parametrize(("work", "read"), [(train, 0), (encode, 0), (encode, 1), (pair, 0), (pair, 1)])
def test_what_is_read_is_not_written_to(work, read, inputs):
    before = content(inputs[read])
    with pytest.raises(UserError, match="is what is read; choose another place to write to"):
        work(inputs, inputs[read])
    assert content(inputs[read]) == before


@every_work
def test_two_runs_into_one_folder(work, inputs, tmp_path):
    out, refused = tmp_path / "out", []

    def progress(*_, **__):
        if not refused:
            with pytest.raises(UserError, match=r"another run is writing to .*out; let it end, or choose another"):
                work(inputs, out)
            refused.append(True)

    work(inputs, out, progress=progress)
    assert refused
    assert content(out) == clean_run(work, inputs, tmp_path)


@every_work
def test_many_runs_into_one_folder_at_once(work, inputs, tmp_path):
    clean, out, ended = clean_run(work, inputs, tmp_path), tmp_path / "out", []

    def run():
        try:
            work(inputs, out)
            ended.append("well")
        except UserError as error:
            ended.append(str(error))

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert "well" in ended
    assert all(end == "well" or end.startswith(f"another run is writing to {out}; let it end") for end in ended)
    assert content(out) == clean


@every_work
def test_a_full_disk(work, inputs, tmp_path):
    write_shard(inputs.corpus / "train-00001.parquet", documents(30, 40) * 40)
    clean, out = clean_run(work, inputs, tmp_path), tmp_path / "out"
    stop_run(work, inputs, tmp_path / "other")
    largest = max(file.stat().st_size for file in pieces(tmp_path / "other")[0].iterdir())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest + 1, hard))
    try:
        with pytest.raises(UserError, match=r"the disk is full.*What was finished is kept") as error:
            work(inputs, out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(error.value)
    assert len(pieces(out)) >= 1
    assert not list(out.glob("*/*/.*"))  # no half-written shard takes the room
    work(inputs, out)
    assert content(out) == clean


@every_work
def test_a_file_where_the_output_belongs(work, inputs, tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UserError, match="cannot be a folder, because a file is there; choose another"):
        work(inputs, tmp_path / "out")


@every_work
def test_a_mistake_leaves_an_empty_folder(work, inputs, tmp_path):
    pq.write_table(pa.table({"body": ["a"]}), inputs.corpus / "train-00000.parquet")
    with pytest.raises(UserError, match="has no column 'text'; it has body"):
        work(inputs, tmp_path / "out")
    assert content(tmp_path / "out") == {}


def test_a_tokenizer_that_changes_between_two_shards(inputs, tmp_path):
    shared = shard_writer.SharedTokenizer.of(inputs.tokenizer)
    assert shared.load() is shared.load()
    shared.forget()
    train(inputs, tmp_path / "other", vocab_size=280)
    changed = shard_writer.SharedTokenizer(tmp_path / "other", shared.digest)
    with pytest.raises(UserError, match=r"the tokenizer in .*other changed while it was in use; run again"):
        changed.load()
