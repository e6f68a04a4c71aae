"""`textmill verify` reads every file of a store, and names what is not as it was sealed."""

from __future__ import annotations

import json

import pytest
from pydantic import BaseModel
from typer.testing import CliRunner

from flows.cli import app
from flows.engine.materialize import materialize
from flows.engine.stage import Context, Stage
from flows.pipeline.verify import verify
from flows.store.local import Artifact, Store


class WordsConfig(BaseModel):
    text: str


class Words(Stage[WordsConfig]):
    name = "words"
    version = 1

    def build(self, job):
        (job.out / "words.txt").write_text(job.config.text)

    def headline(self, stats):
        return "words"

    def label(self, config):
        return config.text.split()[0]


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def artifacts(store) -> list[Artifact]:
    texts = ("first words", "second words", "third words")
    return [materialize(Words(), WordsConfig(text=text), {}, Context(store, "small")).artifact for text in texts]


def alter(artifact: Artifact) -> None:
    """Other bytes, the same size."""
    file = artifact.path / "words.txt"
    file.write_text(file.read_text().swapcase())


def test_a_whole_store_is_read_to_the_end(store, artifacts):
    said = []
    verification = verify(store, store.names(), lambda done, total=None, **metrics: said.append((done, total)))
    assert verification.damaged == []
    assert (verification.artifacts, verification.bytes) == (3, sum(artifact.manifest.size for artifact in artifacts))
    assert said[0][0] == 0 and said[-1][0] == said[-1][1] == verification.bytes / 1e6


def test_each_damaged_artifact_is_one_line_with_what_to_do_and_the_exit_code_is_1(store, artifacts):
    alter(artifacts[0])
    (artifacts[1].path / "manifest.json").write_text("{")
    shown = CliRunner().invoke(app, ["verify", "--store", str(store.root)])
    assert shown.exit_code == 1
    lines = shown.stdout.splitlines()
    assert f"{artifacts[0].location} (words first) is damaged: words.txt has been altered (SHA-256 differs)" in lines
    assert any(artifacts[1].location in line and "manifest.json cannot be read" in line for line in lines)
    assert "3 artifacts" in lines[-2] and "2 damaged" in lines[-2]
    assert "textmill run CONFIG --verify" in lines[-1]
    assert not any(artifacts[2].location in line for line in lines)


def test_a_script_gets_the_same_as_json(store, artifacts):
    assert CliRunner().invoke(app, ["verify", "--store", str(store.root)]).exit_code == 0
    alter(artifacts[2])
    shown = CliRunner().invoke(app, ["verify", "--store", str(store.root), "--json"])
    assert shown.exit_code == 1
    told = json.loads(shown.stdout)
    assert told["artifacts"] == 3
    [damaged] = told["damaged"]
    assert (damaged["location"], damaged["pipeline"]) == (artifacts[2].location, "small")
