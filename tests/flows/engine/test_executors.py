"""Shards on processes, Dask and Ray: the same bytes as on threads, also when workers die."""

from __future__ import annotations

import importlib.util
import io
import json
import math
import operator
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from flows.engine import executors
from flows.engine.executors import AHEAD, ExecutorConfig, check_executor, open_executor
from flows.pipeline.config import load_config
from flows.pipeline.plan import plan
from flows.service.flows import stage_flow
from scraping.collections.config import IngestConfig
from scraping.collections.ingest import ingest
from scraping.corpus.config import PrepareConfig
from scraping.corpus.prepare import CorpusInputs, prepare
from scraping.extraction.config import MainExtractor
from scraping.shards import PAGES, ShardWriter
from textmill.errors import UserError
from textmill.mapping import HERE, Executor, map_in_order
from tokenization.config import PretokenizeConfig, TokenizerConfig
from tokenization.pretokenize import pretokenize
from tokenization.shard_writer import EncodingInputs
from tokenization.train import train_tokenizer

pytestmark = pytest.mark.long

needs_dask = pytest.mark.skipif(not importlib.util.find_spec("distributed"), reason="needs pip install textmill[dask]")
needs_ray = pytest.mark.skipif(not importlib.util.find_spec("ray"), reason="needs pip install textmill[ray]")
EVERY_KIND = ["processes", pytest.param("dask", marks=needs_dask), pytest.param("ray", marks=needs_ray)]

WORDS = """river stone window letter garden morning winter captain market signal paper kitchen yellow engine silver
travel music number forest island harbour library teacher question answer history village mountain""".split()  # noqa: SIM905
SHARDS = 6


def prose(seed: int, sentences: int) -> str:
    word = random.Random(seed)
    return " ".join(
        ("the " + " ".join(word.choice(WORDS) + word.choice(["", "s", "er"]) for _ in range(9))).capitalize() + "."
        for _ in range(sentences)
    )


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> Path:
    """A crawled site in several shards, some of its pages dropped for various reasons."""
    folder = tmp_path_factory.mktemp("pages")
    with ShardWriter(folder, "part", PAGES) as shards:
        for number in range(20 * SHARDS):
            url = f"http://site.example/{number}"
            text = "Short." if number % 17 == 0 else prose(number, 12)
            shards.write(
                {
                    "url": url, "final_url": url, "source": "site", "status": 404 if number % 23 == 0 else 200,
                    "content_type": "text/html",
                    "body": f"<title>{number}</title><main><p>Home. About us.</p><p>{text}</p></main>".encode(),
                }
            )  # fmt: skip
            if number % 20 == 19:
                shards.cut()
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """A prepared corpus of several shards, each of some milliseconds' work."""
    folder = tmp_path_factory.mktemp("corpus")
    for number in range(SHARDS):
        texts = [prose(1000 * number + i, 20) for i in range(500)]
        pq.write_table(pa.table({"text": texts}), folder / f"train-{number:05}.parquet")
    pq.write_table(pa.table({"text": [prose(9, 20)]}), folder / "validation-00000.parquet")
    return folder


@pytest.fixture(scope="module")
def collections(tmp_path_factory) -> Path:
    """OpenWebText as it is handed around: Parquet of several units, and an archive of archives, one of them broken."""
    folder = tmp_path_factory.mktemp("collections")
    texts = [prose(number, 20) for number in range(300)] + ["", "One  \r\n\n\n\nmore."]
    for part in range(3):
        pq.write_table(pa.table({"text": texts[part::3]}), folder / f"train-{part}.parquet", row_group_size=20)
    with tarfile.open(folder / "openwebtext.tar.xz", "w:xz") as outer:
        for subset in range(3):
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w:xz") as archive:
                for number, text in enumerate(texts[subset::3]):
                    add(archive, f"{number}.txt", text.encode())
            packed = inner.getvalue()
            add(outer, f"openwebtext/urlsf_subset00-{subset}_data.xz", packed[:-900] if subset == 1 else packed)
        add(outer, "openwebtext/loose.txt", b"A document that lies in the outer archive.")
    return folder


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def build(collections: Path, pages: Path, corpus: Path, out: Path, executor: Executor = HERE) -> dict[str, bytes]:
    """The mapped stages, one after the other; all their files."""
    for name, layout in (("parquet", "*.parquet"), ("archive", "openwebtext.tar.xz")):
        ingest(IngestConfig(path=str(collections / layout)), out / name, silent, executor)
    inputs = CorpusInputs([pages], extractors={"site": MainExtractor()})
    prepare(inputs, PrepareConfig(workers=2), out / "corpus", silent, executor)
    train_tokenizer(corpus, TokenizerConfig(vocab_size=400), out / "tokenizer", executor=executor)
    pretokenize(EncodingInputs(corpus, out / "tokenizer"), PretokenizeConfig(), out / "tokens", executor=executor)
    return content(out)


def silent(*_, **__) -> None:
    pass


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def on_threads(collections, pages, corpus, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("threads")
    assert len(build(collections, pages, corpus, out)) > 20
    [skipped] = map(json.loads, (out / "archive/skipped.jsonl").read_text().splitlines())
    assert skipped["file"] == "openwebtext.tar.xz/urlsf_subset00-1_data.xz"
    return out


# --- the window -------------------------------------------------------------------------------------------------------


def counted(items: int, taken: list[int]) -> Iterator[int]:
    for item in range(items):
        taken.append(item)
        yield item


def test_results_come_in_order_and_few_are_outstanding():
    taken: list[int] = []
    with ThreadPoolExecutor(3) as pool:
        results = map_in_order(pool.submit, math.factorial, counted(100, taken), ahead=5)
        assert not taken  # nothing is begun before the first result is asked for
        for position, result in enumerate(results):
            assert result == math.factorial(position)
            assert len(taken) - position <= 5
    assert len(taken) == 100


def test_fewer_items_than_the_window_and_none():
    with ThreadPoolExecutor(2) as pool:
        assert list(map_in_order(pool.submit, abs, [-1, -2], ahead=8)) == [1, 2]
        assert list(map_in_order(pool.submit, abs, [], ahead=8)) == []


def test_an_error_passes_and_what_waits_is_not_begun():
    begun: list[int] = []
    holding = threading.Event()

    def work(item: int) -> None:
        begun.append(item)
        if item == 0:
            raise UserError("a damaged shard")
        holding.wait(240)

    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(UserError, match="a damaged shard"):
            list(map_in_order(pool.submit, work, range(100), ahead=50))
        holding.set()
    assert len(begun) <= 2


@pytest.mark.slow
def test_ten_thousand_shards_on_processes():
    assert_bounded(ExecutorConfig(kind="processes", workers=2), 10_000)


@pytest.mark.slow
@needs_dask
def test_a_thousand_shards_on_dask():
    assert_bounded(ExecutorConfig(kind="dask", workers=2), 1_000)


def assert_bounded(config: ExecutorConfig, items: int) -> None:
    taken: list[int] = []
    outstanding = 0
    with open_executor(config) as executor:
        for position, result in enumerate(executor.map(operator.neg, counted(items, taken))):
            assert result == -position
            outstanding = max(outstanding, len(taken) - position)
    assert len(taken) == items
    assert outstanding <= AHEAD * 2


# --- the same bytes ---------------------------------------------------------------------------------------------------


def test_threads_are_the_stages_own():
    with open_executor(ExecutorConfig()) as executor:
        assert executor is HERE


@pytest.mark.slow
@pytest.mark.parametrize("kind", EVERY_KIND)
def test_every_stage_gives_the_same_bytes_and_mistakes_as_on_threads(
    kind, collections, pages, corpus, damaged, on_threads, tmp_path
):
    wanted = r"train-00003.parquet, row 1: no text; drop empty rows in prepare"
    with (
        pytest.raises(UserError, match=wanted),
        running(kind) as config,
        open_executor(config) as executor,
    ):
        assert build(collections, pages, corpus, tmp_path / "out", executor) == content(on_threads)
        inputs = EncodingInputs(damaged, on_threads / "tokenizer")
        pretokenize(inputs, PretokenizeConfig(), tmp_path / "no", executor=executor)


@pytest.fixture(scope="module")
def damaged(corpus, tmp_path_factory) -> Path:
    """A corpus with one shard that cannot be encoded."""
    folder = tmp_path_factory.mktemp("damaged") / "corpus"
    shutil.copytree(corpus, folder)
    pq.write_table(pa.table({"text": ["fine", None]}), folder / "train-00003.parquet")
    return folder


def tables(item: int) -> Iterator[pa.Table]:
    """As many tables as the item says, the last of them empty; odd items end in an error."""
    for number in range(item):
        values = pa.table({"value": [item, number] if number < item - 1 else pa.array([], pa.int64())})
        yield values.replace_schema_metadata({"number": str(number)})
    if item % 2:
        raise UserError(f"{item} is odd")


@pytest.mark.parametrize("kind", ["threads", *EVERY_KIND])
def test_streamed_tables_come_in_order_with_their_metadata_and_errors_after_them(kind, tmp_path):
    config = ExecutorConfig(kind=kind, workers=None if kind == "threads" else 2)
    seen: list[list] = []
    with open_executor(config) as executor:
        for stream in executor.stream(tables, [4, 3, 0, 1], tmp_path, threads=2):
            seen.append([])
            try:
                for table in stream:
                    seen[-1].append((table["value"].to_pylist(), table.schema.metadata[b"number"]))
            except UserError as error:
                seen[-1].append(str(error))
    assert seen == [
        [([4, 0], b"0"), ([4, 1], b"1"), ([4, 2], b"2"), ([], b"3")],
        [([3, 0], b"0"), ([3, 1], b"1"), ([], b"2"), "3 is odd"],
        [],
        [([], b"0"), "1 is odd"],
    ]
    assert not list(tmp_path.iterdir())


@contextmanager
def running(kind: str) -> Iterator[ExecutorConfig]:
    """Two workers: for Dask on a cluster that runs already, of real processes."""
    if kind != "dask":
        yield ExecutorConfig(kind=kind, workers=2)
        return
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        yield ExecutorConfig(kind="dask", address=cluster.scheduler_address)


@pytest.mark.slow
@pytest.mark.parametrize("kind", EVERY_KIND)
def test_a_worker_killed_over_a_shard_is_survived(kind, corpus, on_threads, tmp_path):
    killed: list[int] = []
    killer = threading.Thread(target=lambda: killed.append(kill_writer(tmp_path)))
    killer.start()
    reports: list[int] = []
    with open_executor(ExecutorConfig(kind=kind, workers=2)) as executor:
        pretokenize(
            EncodingInputs(corpus, on_threads / "tokenizer"), PretokenizeConfig(), tmp_path,
            progress=lambda done, total, **_: reports.append(done), executor=executor,
        )  # fmt: skip
    killer.join()
    assert killed[0] != os.getpid()
    assert content(tmp_path) == content(on_threads / "tokens")
    assert reports == sorted(reports)
    assert len(reports) == SHARDS + 1


def kill_writer(folder: Path) -> int:
    """Wait until a process writes a shard into `folder`, and kill it."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for process in writers(folder):
            os.kill(process, signal.SIGKILL)
            return process
        time.sleep(0.001)
    raise AssertionError("no shard was begun")


def writers(folder: Path) -> list[int]:
    """The processes that have an unfinished file in `folder` open."""
    found = []
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            file = descriptor.readlink()
            if folder in file.parents and file.parent.suffix == ".tmp":
                found.append(int(descriptor.parts[2]))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", EVERY_KIND[:2])
def test_a_shard_that_kills_every_worker_ends_in_one_line(kind):
    with (
        pytest.raises(UserError, match="one shard lost its worker 4 times"),
        open_executor(ExecutorConfig(kind=kind, workers=2)) as executor,
    ):
        list(executor.map(os._exit, [1]))


PROGRAM = """
import sys
from pathlib import Path
from flows.engine.executors import ExecutorConfig, open_executor
from tokenization.config import PretokenizeConfig
from tokenization.pretokenize import pretokenize
from tokenization.shard_writer import EncodingInputs

if __name__ == "__main__":
    corpus, tokenizer, out = map(Path, sys.argv[1:])
    with open_executor(ExecutorConfig(kind="processes", workers=2)) as executor:
        pretokenize(EncodingInputs(corpus, tokenizer), PretokenizeConfig(), out, executor=executor)
"""


@pytest.mark.slow
def test_kill_9_of_the_run_keeps_finished_shards_and_ends_the_workers(corpus, on_threads, tmp_path):
    out, program = tmp_path / "tokens", tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, str(program), str(corpus), str(on_threads / "tokenizer"), str(out)]
    run = subprocess.Popen(command, start_new_session=True)
    wait_until(lambda: list(out.glob(".textmill-shards/*/*/piece.json")))
    run.kill()
    run.wait()
    wait_until(lambda: not session_of(run.pid))
    notes = out.glob(".textmill-shards/*/[!.]*/piece.json")
    kept = {file.stem: file.stat().st_mtime_ns for note in notes for file in note.parent.glob("*.bin")}
    assert 0 < len(kept) < SHARDS + 1
    pretokenize(EncodingInputs(corpus, on_threads / "tokenizer"), PretokenizeConfig(), out)
    assert {stem: (out / f"{stem}.bin").stat().st_mtime_ns for stem in kept} == kept
    assert content(out) == content(on_threads / "tokens")


def wait_until(condition: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def session_of(leader: int) -> list[int]:
    """The processes of a session that are still alive."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, _, session = stat.read_text().rpartition(")")[2].split()[:4]
            if int(session) == leader and state != "Z":
                found.append(int(stat.parent.name))
    return found


@pytest.mark.slow
def test_a_pipeline_on_processes_makes_what_it_would_reuse_on_threads(prefect_server, config):
    on_processes = {"runner": {"kind": "processes", "workers": 2}}
    stage_flow("scrape")(config=str(config))
    mapped = stage_flow("prepare")(config=str(config), overrides=on_processes)[-1]
    assert not mapped.reused
    step = plan(load_config(config))[1]
    assert (step.stage, step.action) == ("prepare", "reuse")
    forced = stage_flow("prepare")(config=str(config), force=True)[-1]
    assert not forced.reused
    assert forced.artifact.digest == mapped.artifact.digest


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "spark"}, "'threads', 'processes', 'dask' or 'ray'"),
        ({"workers": 2}, "set the stages' own"),
        ({"kind": "processes", "workers": 0}, "greater than 0"),
        ({"kind": "processes", "address": "tcp://127.0.0.1:8786"}, "take no address"),
        ({"kind": "dask", "address": "tcp://127.0.0.1:8786", "workers": 2}, "not both"),
    ],
)
def test_mistakes_in_the_configuration(settings, message):
    with pytest.raises(ValidationError, match=message):
        ExecutorConfig(**settings)


@pytest.mark.parametrize("kind", ["dask", "ray"])
def test_a_missing_package_is_named_before_any_work(kind, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf"pip install 'textmill\[{kind}\]'"):
        check_executor(ExecutorConfig(kind=kind))


@pytest.mark.parametrize(
    ("kind", "address"),
    [
        pytest.param("dask", "tcp://127.0.0.1:1", marks=needs_dask),
        pytest.param("dask", "no address", marks=needs_dask),
        pytest.param("ray", "127.0.0.1:1", marks=needs_ray),
        pytest.param("ray", "no address", marks=needs_ray),
    ],
)
def test_an_address_where_nobody_answers(kind, address, monkeypatch):
    monkeypatch.setattr(executors, "CONNECT_SECONDS", 1)
    with pytest.raises(UserError, match=f"answers at {address}: start one with `.*`, or correct runner.address"):
        check_executor(ExecutorConfig(kind=kind, address=address))


@needs_dask
def test_a_scheduler_without_workers(monkeypatch):
    from distributed import LocalCluster

    monkeypatch.setattr(executors, "WORKER_SECONDS", 0.5)
    with LocalCluster(n_workers=0, dashboard_address=None) as cluster:
        config = ExecutorConfig(kind="dask", address=cluster.scheduler_address)
        with pytest.raises(UserError, match=r"has no workers: `dask worker tcp://.*` adds some"):
            check_executor(config)
