"""What orchestration costs, on a Prefect server of the benchmark's own with an empty database.

A run in which every stage is reused, against a Prefect flow that does nothing: whole processes in turn. What a person
types to look: `--help`, `status` and a dry run, and `deploy`, with the CPU's seconds beside the clock's, as another
program on the machine prolongs only the second. Inside of one
flow run, the cost of a reused stage, and of a built one over the plain function that builds it. The rows that a run
leaves in the server's database. Then the executors: 10,000 shards of next to no work, and pretokenization on one and
two Dask workers; their start is not counted.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from statistics import median

from benchmarks.support.corpora import size_of, source_code
from benchmarks.support.report import Row, compare
from benchmarks.support.timing import child, in_turn, peak_megabytes

EXECUTORS = {"processes": "multiprocessing", "dask": "distributed", "ray": "ray"}  # the package that each needs
SETTLED_SECONDS = 1.5  # the server writes events with a delay of up to 1
SMALL = {
    "name": "small",
    "scrape": {"sources": ["python-docs"], "max_pages": 16},
    "prepare": {"validation_fraction": 0.25},
    "train_tokenizer": {"vocab_size": 600},
    "pretrain": {
        "steps": 4, "batch": 4, "evaluate_every": 4, "evaluate_tokens": 512, "sample_tokens": 8,
        "model": {"layers": 1, "width": 32, "heads": 2, "context": 32},
    },
    "finetune": {"steps": 4, "batch": 4, "evaluate_every": 4, "evaluate_tokens": 512},
}  # fmt: skip
TEXTMILL = [sys.executable, "-c", "from flows.cli import main; main()"]
EMPTY = "import prefect; prefect.flow(lambda: None, name='empty')()"


def run(quick: bool) -> list[Row]:
    """Medians of 5 repetitions; `quick` takes 2 of a shorter chain, fewer shards and the faster executors."""
    repetitions = 2 if quick else 5
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with _server(folder) as database:
            pipeline = {**SMALL, "store": str(folder / "store"), **({"finetune": None} if quick else {})}
            _config(folder).write_text(json.dumps(pipeline))  # which is YAML, too
            rows = _runs(folder, database, repetitions)
            rows += _commands(folder, repetitions)
            rows += _stages(child("benchmarks.orchestration", "stages", _config(folder), repetitions))
        shards = 1_000 if quick else 10_000
        for kind, package in EXECUTORS.items():
            if find_spec(package) and not (quick and kind == "ray"):
                rows += _shards(kind, child("benchmarks.orchestration", "shards", kind, shards))
        if find_spec("distributed") and not quick:
            corpus = folder / "corpus"
            _write_corpus(corpus, copies=40)
            rows.append(_two_workers(child("benchmarks.orchestration", "dask", corpus, repetitions)))
    return rows


# --- runs against the server ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Database:
    """The server's SQLite file."""

    file: Path

    def size(self) -> dict[str, int]:
        """Rows of each table, and bytes of all of them under ''."""
        with sqlite3.connect(self.file) as connection:
            names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            counts = {name: connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in names}
            ((size,),) = connection.execute("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size")
        return counts | {"": size}

    def settled(self) -> dict[str, int]:
        """The same, once nothing is being written any more."""
        last = self.size()
        while True:
            time.sleep(SETTLED_SECONDS)
            if (size := self.size()) == last:
                return size
            last = size


@contextmanager
def _server(folder: Path) -> Iterator[Database]:
    """A Prefect server, which this process and its children use while the context lasts."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}/api"
    os.environ |= {
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_API_URL": address,
        "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL": "1",
        "DO_NOT_TRACK": "1",
    }
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            while not _answers(address):
                if server.poll() is not None:
                    raise SystemExit("the Prefect server did not start")
                time.sleep(0.2)
            yield Database(folder / "prefect" / "prefect.db")
        finally:
            server.terminate()


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=5):
            return True
    except OSError:
        return False


def _config(folder: Path) -> Path:
    return folder / "small.yaml"


def _runs(folder: Path, database: Database, repetitions: int) -> list[Row]:
    run = [*TEXTMILL, "run", _config(folder)]
    before = database.settled()
    _process(run)
    built = database.settled()
    _process(run)
    reused = database.settled()
    seconds = in_turn(
        {
            "empty": lambda: lambda: _process([sys.executable, "-c", EMPTY]),
            "reused": lambda: lambda: _process(run),
        },
        repetitions,
    )
    return [
        compare("run with every stage reused", "s", seconds["reused"], seconds["empty"], "an empty flow",
                lower_is_better=True),
        Row("more than the empty flow", "s", seconds["reused"] - seconds["empty"], goal="≤ 3"),
        *_growth("run with every stage built", before, built),
        *_growth("run with every stage reused", built, reused),
    ]  # fmt: skip


def _commands(folder: Path, repetitions: int) -> list[Row]:
    """On the store of the run before, whole processes."""
    looks = {
        "textmill --help": (["--help"], "≤ 0.4"),
        "textmill status": (["status", _config(folder)], "≤ 1.2"),
        "textmill run --dry-run": (["run", _config(folder), "--dry-run"], "≤ 1.2"),
    }
    rows = []
    for name, (arguments, goal) in looks.items():
        _timed([*TEXTMILL, *arguments])  # what it reads is in the page cache then
        rows += _medians(name, [_timed([*TEXTMILL, *arguments]) for _ in range(2 * repetitions)], goal)
    deploys = [_timed([*TEXTMILL, "deploy"]) for _ in range(max(1, repetitions // 2))]
    return rows + _medians("textmill deploy", deploys, "≤ 10")


def _medians(name: str, times: list[tuple[float, float]], goal: str) -> list[Row]:
    walls, cpus = zip(*times, strict=True)
    return [Row(name, "s", median(walls), goal=goal), Row(f"{name}, of the CPU", "s", median(cpus))]


def _timed(command: list[str | Path]) -> tuple[float, float]:
    """Seconds that a process takes by the clock, and of the CPU, its own children's included."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    _process(command)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _process(command: list[str | Path]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{command} failed:\n{done.stderr[-2000:]}")


def _growth(name: str, before: dict[str, int], after: dict[str, int]) -> list[Row]:
    more = {table: after[table] - before.get(table, 0) for table in after if after[table] != before.get(table, 0)}
    size = more.pop("", 0)
    tables = ", ".join(f"{table} {count}" for table, count in sorted(more.items(), key=lambda item: -item[1]))
    print(f"{name}: {tables}")
    return [
        Row(f"{name}, in the server's database", "rows", sum(more.values())),
        Row(f"{name}, in the server's database", "kB", size / 1000),
    ]


def _stages(seconds: dict[str, float]) -> list[Row]:
    return [
        Row("reused stage, mean of the chain", "s", seconds["chain"] / seconds["stages"], goal="≤ 0.3"),
        Row("built stage, over the plain function", "s", seconds["built"] - seconds["plain"], goal="≤ 0.3"),
    ]


# --- the executors ----------------------------------------------------------------------------------------------------


def _shards(kind: str, result: dict[str, float]) -> list[Row]:
    name = f"{result['shards']:,} shards on {kind}"
    return [
        Row(f"{name}, each", "ms", 1000 * result["seconds"] / result["shards"], goal="≤ 20"),
        Row(f"{name}, memory they add", "MB", result["memory"], goal="bounded: < 20"),
    ]


def _two_workers(seconds: dict[str, float]) -> Row:
    name = f"pretokenization of {seconds['megabytes']:,.0f} MB, 2 Dask workers"
    return compare(name, "s", seconds["2"], seconds["1"], "1 worker", goal="≥ 1.6", lower_is_better=True)


def _write_corpus(corpus: Path, copies: int) -> None:
    """The same 30 MB in every shard."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    corpus.mkdir()
    texts = source_code()
    pq.write_table(pa.table({"text": texts}), corpus / "train-00000.parquet", row_group_size=1_000)
    for number in range(1, copies):
        os.link(corpus / "train-00000.parquet", corpus / f"train-{number:05}.parquet")
    pq.write_table(pa.table({"text": texts[:10]}), corpus / "validation-00000.parquet")
    (corpus / "megabytes").write_text(str(copies * size_of(texts) / 1e6))


# --- run by the child processes ---------------------------------------------------------------------------------------


def measure_stages(config: str, repetitions: str) -> dict[str, float]:
    """Inside of one flow run: all stages reused, and one that is built quickly, by the stage and by its function."""
    from prefect import flow

    from flows.engine.stage import Context, Job
    from flows.pipeline.request import RunRequest
    from flows.pipeline.selection import Selection
    from flows.service.building import Builder, build_chain
    from flows.service.watching.live import Watch
    from flows.service.watching.pages import RunPage
    from flows.stages.pretokenize import pretokenize

    request = RunRequest.load(Path(config))
    loaded = request.config
    plainly = Path(tempfile.mkdtemp())

    @flow(persist_result=False)
    def measured() -> dict[str, float]:
        page = RunPage(request.steps)
        with Watch() as watch:
            made = {outcome.stage.name: outcome.artifact for outcome in build_chain(request, watch, page)}
            inputs = {"corpus": made["prepare"], "tokenizer": made["train_tokenizer"]}
            forced = replace(request, selection=Selection(force=frozenset(["pretokenize"])))

            def built():
                build = Builder(forced, watch, page)  # of one run, which builds a stage once
                return lambda: build(pretokenize, loaded.pretokenize, **inputs)

            def plain():
                out = Path(tempfile.mkdtemp(dir=plainly))
                job = Job(loaded.pretokenize, inputs, out, None, Context(request.store))
                return lambda: pretokenize.build(job)

            contestants = {"chain": lambda: lambda: build_chain(request, watch, page), "built": built, "plain": plain}
            return in_turn(contestants, int(repetitions)) | {"stages": len(made)}

    seconds = measured()
    shutil.rmtree(plainly)
    return seconds


def measure_shards(kind: str, count: str) -> dict[str, float]:
    """Each shard writes an empty file: seconds, and peak memory in MB over what a tenth of them takes."""
    from flows.engine.executors import ExecutorConfig, open_executor

    shards = int(count)
    with tempfile.TemporaryDirectory() as temporary, open_executor(ExecutorConfig(kind=kind, workers=2)) as executor:

        def write(name: str, number: int) -> None:
            for _ in executor.map(Path.touch, (Path(temporary) / f"{name}{shard}" for shard in range(number))):
                pass

        write("first", shards // 10)
        base = peak_megabytes()
        started = time.perf_counter()
        write("then", shards)
        seconds = time.perf_counter() - started
        assert sum(1 for _ in Path(temporary).iterdir()) == shards // 10 + shards
    return {"shards": shards, "seconds": seconds, "memory": peak_megabytes() - base}


def measure_dask(corpus: str, repetitions: str) -> dict[str, float]:
    """Seconds with one and with two workers, in turn, that are there already and know the tokenizer."""
    from contextlib import ExitStack

    from flows.engine.executors import ExecutorConfig, open_executor
    from tokenization.config import PretokenizeConfig, TokenizerConfig
    from tokenization.formats import save_tokenizer
    from tokenization.pretokenize import pretokenize
    from tokenization.shard_writer import EncodingInputs
    from tokenization.text import batches
    from tokenization.train import train_from_documents

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        tokenizer, _ = train_from_documents(batches(source_code()), TokenizerConfig(vocab_size=8192))
        save_tokenizer(tokenizer, folder / "tokenizer")

        def contestant(workers: int):
            executor = stack.enter_context(open_executor(ExecutorConfig(kind="dask", workers=workers)))

            def prepare():
                out = Path(tempfile.mkdtemp(dir=folder))

                def encode():
                    inputs = EncodingInputs(Path(corpus), folder / "tokenizer")
                    pretokenize(inputs, PretokenizeConfig(threads=1), out, executor=executor)
                    shutil.rmtree(out)

                return encode

            return prepare

        seconds = in_turn({str(workers): contestant(workers) for workers in (1, 2)}, int(repetitions))
    return seconds | {"megabytes": float((Path(corpus) / "megabytes").read_text())}


if __name__ == "__main__":
    measure = {"stages": measure_stages, "shards": measure_shards, "dask": measure_dask}
    print(json.dumps(measure[sys.argv[1]](*sys.argv[2:])))
