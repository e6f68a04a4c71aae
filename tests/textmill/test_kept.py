"""Work whose finished pieces are kept."""

import pickle
import threading
from pathlib import Path

import pytest

from textmill.errors import UserError
from textmill.kept import Made, check_apart, code_digest, kept_work
from textmill.mapping import HERE


@pytest.fixture
def sources(tmp_path):
    files = [tmp_path / f"source-{i}" for i in range(3)]
    for i, file in enumerate(files):
        file.write_text(f"content {i}")
    return files


def shout(source: Path, folder: Path) -> Made:
    (folder / f"{source.name}.loud").write_text(source.read_text().upper())
    return Made({"size": source.stat().st_size})


def loud(out: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in out.iterdir()}


def test_pieces_come_in_order_and_only_names_change_at_the_end(sources, tmp_path):
    out = tmp_path / "out"
    with kept_work(out, "work", {}) as work:
        found = list(work.map(shout, sources, HERE))
        assert [piece.result for piece in found] == [{"size": 9}] * 3
        (work.complete / "index").write_text("all")
        assert [path.name for path in out.iterdir()] == [".textmill-work"]
        files = [file for piece in found for file in piece.files()]
        inodes = {file.name: file.stat().st_ino for file in files}
        work.publish(files, last="index")
    assert loud(out) == {f"source-{i}.loud": f"CONTENT {i}" for i in range(3)} | {"index": "all"}
    assert {name: (out / name).stat().st_ino for name in inodes} == inodes


class Twice:
    """An executor that takes a slow worker for a dead one: every call is made twice at once."""

    def map(self, function, items):
        for item in items:
            answers, together = [], threading.Barrier(2)

            def call(item=item, answers=answers, together=together):
                function = pickle.loads(pickle.dumps(self.function))  # as on its way to another process
                together.wait()
                answers.append(function(item))

            self.function = function
            threads = [threading.Thread(target=call) for _ in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert len(answers) == 2
            assert answers[0] == answers[1]
            yield answers[0]


def test_a_piece_that_two_workers_make_at_once_is_one(sources, tmp_path):
    for turn in range(10):
        out = tmp_path / f"out-{turn}"
        with kept_work(out, "work", {}) as work:
            found = list(work.map(shout, sources, Twice()))
            assert len(list(work.folder.iterdir())) == len(sources) + 1  # and `complete`
            work.publish([file for piece in found for file in piece.files()], last="source-0.loud")
        assert loud(out) == {f"source-{i}.loud": f"CONTENT {i}" for i in range(3)}


def test_what_is_kept_of_other_settings_does_not_fill_the_disk(sources, tmp_path):
    for seed in range(3):
        with pytest.raises(KeyboardInterrupt), kept_work(tmp_path / "out", "work", {"seed": seed}) as work:
            list(work.map(shout, sources, HERE))
            raise KeyboardInterrupt
        assert [len(list(folder.iterdir())) for folder in (tmp_path / "out" / ".textmill-work").iterdir()] == [3]


def test_a_source_that_is_not_there(sources, tmp_path):
    with (
        pytest.raises(UserError, match="nowhere cannot be read: No such file"),
        kept_work(tmp_path / "out", "work", {}) as work,
    ):
        list(work.map(shout, [*sources, tmp_path / "nowhere"], HERE))
    assert list((tmp_path / "out").iterdir()) == []


def by_a_user(place: Path) -> None:
    place.mkdir()
    (place / "thesis.txt").write_text("years of work")


def linked(place: Path) -> None:
    by_a_user(place.parent / "elsewhere")
    place.symlink_to("elsewhere")


def a_link_in_it(place: Path) -> None:
    by_a_user(place.parent / "elsewhere")
    place.mkdir()
    (place / ("0" * 64)).symlink_to("../elsewhere")


def a_file(place: Path) -> None:
    place.write_text("years of work")


@pytest.mark.parametrize("put", [by_a_user, linked, a_link_in_it, a_file])
def test_what_is_not_ours_is_refused_and_left_alone(put, sources, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    put(out / ".textmill-work")
    for settings in ({}, {"seed": 1}):
        with (
            pytest.raises(
                UserError, match=r"\.textmill-work.* was not made by Textmill|is not a folder that Textmill made"
            ),
            kept_work(out, "work", settings) as work,
        ):
            list(work.map(shout, sources, HERE))
    assert [path.read_text() for path in out.rglob("*") if path.is_file()] == ["years of work"]


def test_folders_with_the_plain_name_of_the_work_stay(sources, tmp_path):
    by_a_user(tmp_path / "work")
    with kept_work(tmp_path, "work", {}) as work:
        work.publish([file for piece in work.map(shout, sources, HERE) for file in piece.files()], "source-0.loud")
    assert (tmp_path / "work" / "thesis.txt").read_text() == "years of work"
    assert not (tmp_path / ".textmill-work").exists()


def test_what_somebody_puts_there_meanwhile_stays(sources, tmp_path):
    with kept_work(tmp_path / "out", "work", {}) as work:
        (work.folder.parent / "thesis.txt").write_text("years of work")
    assert [path.name for path in (tmp_path / "out").rglob("*")] == [".textmill-work", "thesis.txt"]


def test_pieces_that_a_killed_run_had_published_are_not_called_damaged(sources, tmp_path, caplog):
    caplog.set_level("INFO")
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt), kept_work(out, "work", {}) as work:
        first, *_ = list(work.map(shout, sources, HERE))
        work.publish(first.files(), last="index")
        raise KeyboardInterrupt
    with kept_work(out, "work", {}) as work:
        work.publish([file for piece in work.map(shout, sources, HERE) for file in piece.files()], "source-0.loud")
    assert "was moved by a run that was killed at its end" in caplog.text
    assert "damaged" not in caplog.text
    assert loud(out) == {f"source-{i}.loud": f"CONTENT {i}" for i in range(3)}


def test_what_is_read_is_not_written_to(tmp_path):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "link").symlink_to("corpus")
    with pytest.raises(UserError, match="link is what is read; choose another place"):
        check_apart(tmp_path / "link", tmp_path / "tokenizer", tmp_path / "corpus")
    check_apart(tmp_path / "corpus" / "tokens", tmp_path / "corpus")


def test_the_digest_of_code_changes_with_a_line(tmp_path):
    (tmp_path / "inner").mkdir()
    code = tmp_path / "inner" / "a.py"
    code.write_text("one = 1\n")
    before = code_digest(tmp_path)
    code.write_text("one = 2\n")
    code_digest.cache_clear()
    assert code_digest(tmp_path) != before
