"""A real Prefect server for the tests of flows, and a pipeline small enough to run many times."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

# A site, a corpus and a model that make a whole run take seconds.
SMALL = {
    "name": "small",
    "scrape": {"sources": ["python-docs"], "max_pages": 16},
    "ingest": None,
    "prepare": {"validation_fraction": 0.25},
    "train_tokenizer": {"vocab_size": 600},
    "pretrain": {
        "steps": 12, "batch": 4, "evaluate_every": 6, "evaluate_tokens": 512, "checkpoint_every": 3,
        "sample_tokens": 8, "model": {"layers": 1, "width": 32, "heads": 2, "context": 32},
    },
    "finetune": {"steps": 6, "batch": 4, "evaluate_every": 6, "evaluate_tokens": 512, "checkpoint_every": 3},
}  # fmt: skip


@pytest.fixture(scope="session")
def prefect_server():
    """A Prefect server of our own with an empty database; its URL."""
    from prefect.settings import PREFECT_API_URL
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield PREFECT_API_URL.value()


@pytest.fixture(scope="session")
def small_config() -> Callable[..., Path]:
    """Write the small pipeline's YAML into a folder, its store beside it; keyword arguments change sections."""

    def write(folder: Path, **sections: dict) -> Path:
        document = {**SMALL, "store": str(folder / "store")}
        for name, keys in sections.items():
            document[name] = {**(document.get(name) or {}), **keys} if isinstance(keys, dict) else keys
        path = folder / "small.yaml"
        path.write_text(yaml.safe_dump(document))
        return path

    return write


@pytest.fixture
def write_config(small_config, tmp_path) -> Callable[..., Path]:
    return functools.partial(small_config, tmp_path)


@pytest.fixture
def config(write_config) -> Path:
    return write_config()


@pytest.fixture
def textmill(prefect_server, tmp_path) -> Callable[..., subprocess.Popen]:
    """Start the command line as a user does, in a folder of its own."""

    def start(*arguments: str | Path) -> subprocess.Popen:
        return subprocess.Popen(
            [str(Path(sys.executable).parent / "textmill"), *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, "PREFECT_API_URL": prefect_server, "COLUMNS": "200"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start
