"""What counts as the code of a record reader."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import pytest

from scraping.extraction.config import RecordsExtractor, reader_digest
from textmill.files import sha256
from textmill.imports import own_files

CLASS = "class Reader: pass\n"


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def write(folder: Path, **sources: str) -> None:
    """Modules by their names, a package's as `package__init`."""
    for name, source in sources.items():
        path = folder / (name.replace("__", "/") + ".py").replace("/init.py", "/__init__.py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(source))


def test_imports_count_wherever_they_are_and_however_they_are_written(project):
    write(
        project,
        reader_a="import helper_a, json, selectolax\nfrom rooms_a import tables\nfrom rooms_a.deep.cells import cell",
        helper_a="""
            def lazily():
                if True:
                    import late_a as alias
                from no_such_module_a import nothing
            """,
        late_a="import reader_a  # in a circle",
        rooms_a__init="from . import *",
        rooms_a__tables="from .deep import cells\nfrom ..beyond import too_far",
        rooms_a__starred="",
        rooms_a__deep__cells="from ..words import WORD",  # `deep` is a package without __init__.py
        rooms_a__words="import unfinished_a",
        unfinished_a="def (:",
        unrelated_a="",
    )
    assert set(own_files("reader_a")) == {
        "reader_a", "helper_a", "late_a", "rooms_a", "rooms_a.tables", "rooms_a.starred", "rooms_a.deep.cells",
        "rooms_a.words", "unfinished_a",
    }  # fmt: skip


def test_what_is_installed_or_textmill_s_is_versioned_otherwise(project, monkeypatch):
    write(
        project, reader_b="import lxml.html, sqlite3, helper_b\nfrom scraping.extraction.extract import Extracted\n",
        helper_b="from textmill.errors import UserError\nimport flows.stages.prepare\nimport installed_b",
    )  # fmt: skip
    write(project / "site-packages", installed_b="")
    monkeypatch.syspath_prepend(project / "site-packages")
    assert set(own_files("reader_b")) == {"reader_b", "helper_b"}
    assert set(own_files("scraping.sources.python_docs")) == {"scraping.sources.python_docs"}


def test_looking_imports_nothing(project):
    write(
        project, outer_c__init="raise SystemExit('run')", outer_c__inner__init="", outer_c__inner__leaf="import other_c"
    )
    write(project, other_c="raise SystemExit('run')")
    assert set(own_files("outer_c.inner.leaf")) == {"outer_c", "outer_c.inner", "outer_c.inner.leaf", "other_c"}
    assert not {"outer_c", "other_c"} & set(sys.modules)


def test_a_reader_without_imports_of_its_own_is_known_by_its_file(project):
    write(project, reader_d=f"import json\nfrom scraping.extraction.normalize import normalize\n{CLASS}")
    assert reader_digest(RecordsExtractor(reader="reader_d:Reader")) == sha256(project / "reader_d.py")
    shipped = Path(__file__).parents[3] / "scraping/sources/umb_courses.py"
    assert reader_digest(RecordsExtractor(reader="scraping.sources.umb_courses:CourseReader")) == sha256(shipped)


def test_a_changed_file_of_the_user_s_is_another_reader_and_the_place_of_the_project_is_not(tmp_path, monkeypatch):
    sources = {
        "named_e": "from reader_e import Reader", "reader_e": f"from helper_e import x\n{CLASS}",
        "helper_e": "def x():\n    import tables_e", "tables_e": "", "unrelated_e": "",
    }  # fmt: skip

    def digest(folder: str, **changed: str) -> str:
        write(tmp_path / folder, **{**sources, **changed})
        with monkeypatch.context() as context:
            context.syspath_prepend(tmp_path / folder)
            for name in sources:
                sys.modules.pop(name, None)
            return reader_digest(RecordsExtractor(reader="named_e:Reader"))

    before = digest("here")
    assert digest("there", unrelated_e="changed = 1") == before
    for name in ("named_e", "reader_e", "helper_e", "tables_e"):
        assert digest(name, **{name: sources[name] + "\nchanged = 1\n"}) != before
