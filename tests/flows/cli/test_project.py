"""`textmill init`, and projects outside the repository."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.pipeline.config import load_config
from flows.pipeline.project import Project
from textmill.errors import UserError

ROOT = Path(__file__).parents[3]


def init(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, ["init", *map(str, arguments)])
    if result.exception:
        raise result.exception
    return result.output


def test_the_demo_is_the_one_of_the_repository(tmp_path):
    said = init(tmp_path / "mine", "--demo")
    assert "textmill run configs/demo.yaml" in said
    written, shipped = load_config(tmp_path / "mine/configs/demo.yaml"), load_config(ROOT / "configs/demo.yaml")
    assert written.model_dump(exclude={"store"}) == shipped.model_dump(exclude={"store"})
    assert Path(written.store) == tmp_path / "mine" / "store"
    assert (tmp_path / "mine/.gitignore").read_text().splitlines()[-1] == "/store/"
    with pytest.raises(UserError, match=r"mine has a configs/demo.yaml already: choose another folder"):
        init(tmp_path / "mine", "--demo")


def test_what_is_missing_is_said_where_nobody_can_be_asked(tmp_path):
    with pytest.raises(UserError, match=r"what is to be crawled\? Say --site URL, or --demo"):
        init(tmp_path / "mine")
    with pytest.raises(UserError, match=r"--site and --demo are two projects"):
        init(tmp_path / "mine", "--demo", "--site", "http://example.org")
    assert not (tmp_path / "mine").exists()


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    taken = tmp_path / "README.md"
    taken.write_text("")
    with pytest.raises(UserError, match=r"README.md is a file: choose another folder"):
        init(taken, "--demo")
    with pytest.raises(UserError, match=r"cannot use \S*README.md/mine/configs: Not a directory; choose another"):
        init(taken / "mine", "--demo")
    with pytest.raises(UserError, match=r"cannot use /proc/mine\S*: No such file or directory; choose another"):
        init("/proc/mine", "--demo")


@pytest.fixture
def site(tmp_path):
    """The URL of a small site."""
    pages = tmp_path / "site"
    pages.mkdir()
    prose = "<p>" + "A page has text that a reader finds worth the time it takes to read. " * 20 + "</p>"
    (pages / "index.html").write_text(f"<title>Start</title><main>{prose}<a href='a.html'>A</a></main>")
    (pages / "a.html").write_text(f"<title>A</title><main>{prose}</main>")
    handler = functools.partial(SimpleHTTPRequestHandler, directory=pages)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.mark.long
def test_a_project_for_a_site_names_it_and_is_whole(tmp_path, site):
    init(tmp_path / "My docs", "--site", site, "--contact", "me@example.org", "--private")
    project = Project.open(tmp_path / "My docs")
    assert project.main == "configs/my-docs.yaml"
    (crawl,) = [crawl for crawl in project.crawls() if crawl.wanted]
    assert crawl.entry == "sources/127-0-0-1.yaml"
    assert crawl.source.start == [site]


@pytest.mark.slow
def test_the_wheel_works_outside_the_repository(tmp_path):
    """Built, unpacked beside its requirements, and used in a folder of its own: what a package lacks shows here."""
    wheel = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    source = tmp_path / "source"
    subprocess.run(["git", "clone", "--quiet", ROOT, source], check=True)
    subprocess.run([*wheel, tmp_path / "wheel"], cwd=source, check=True, capture_output=True, timeout=300)
    (built,) = (tmp_path / "wheel").glob("*.whl")
    installed = tmp_path / "installed"
    subprocess.run([sys.executable, "-m", "zipfile", "-e", built, installed], check=True)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")},
        "PYTHONPATH": str(installed), "PREFECT_HOME": str(tmp_path / "prefect"), "COLUMNS": "200",
    }  # fmt: skip

    def textmill(*arguments: str, cwd: Path = tmp_path) -> str:
        program = "import flows.cli, sys; print(flows.cli.__file__, file=sys.stderr); flows.cli.main()"
        command = [sys.executable, "-P", "-c", program, *arguments]
        done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=400)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stderr.startswith(str(installed))
        return done.stdout

    textmill("init", "mine", "--demo")
    project = tmp_path / "mine"
    assert "python-docs" in textmill("source", "list", cwd=project)
    small = ["scrape.max_pages=8", "ingest=null", "prepare.validation_fraction=0.25", "train_tokenizer.vocab_size=600"]
    alone = [word for setting in small for word in ("--set", setting)]
    textmill("run", "configs/demo.yaml", *alone, "--only", "scrape", cwd=project)
    assert [path.name for path in (project / "store").iterdir() if not path.name.startswith(".")] == ["scrape"]
    assert "reuse" in textmill("run", "configs/demo.yaml", *alone, "--dry-run", cwd=project)
