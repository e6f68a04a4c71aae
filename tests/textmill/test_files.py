"""Files and folders appear whole or not at all."""

import os

import pytest

from textmill.files import atomic_path, atomic_write, files_below, folder_size, remove_temporary, seal_folder, sha256


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "note.txt"
    atomic_write(path, "old")
    atomic_write(path, b"new")
    assert path.read_text() == "new"
    assert files_below(tmp_path) == ["note.txt"]


def test_a_write_that_fails_leaves_the_older_file_and_nothing_else(tmp_path):
    path = tmp_path / "note.txt"
    atomic_write(path, "old")
    with pytest.raises(KeyError), atomic_path(path) as unfinished:
        unfinished.write_text("half")
        assert path.read_text() == "old"
        raise KeyError
    assert path.read_text() == "old"
    assert files_below(tmp_path) == ["note.txt"]


def test_what_a_killed_writer_left_is_removed_and_nothing_else(tmp_path):
    child = os.fork()
    if not child:
        with atomic_path(tmp_path / "note.txt") as unfinished:
            unfinished.write_text("half")
            os._exit(9)
    os.waitpid(child, 0)
    (tmp_path / ".hidden").write_text("mine")
    assert len(files_below(tmp_path)) == 2
    remove_temporary(tmp_path)
    assert files_below(tmp_path) == [".hidden"]


def test_a_file_has_the_permissions_that_the_umask_leaves(tmp_path):
    before = os.umask(0o027)
    try:
        atomic_write(tmp_path / "note.txt", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "note.txt").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("target_is_there", [True, False])
def test_a_folder_takes_the_place_of_a_link_and_leaves_alone_what_it_led_to(tmp_path, target_is_there):
    target, place, work = tmp_path / "elsewhere", tmp_path / "made" / "result", tmp_path / "made" / ".work"
    work.mkdir(parents=True)
    (work / "a.txt").write_text("new")
    if target_is_there:
        target.mkdir()
        (target / "a.txt").write_text("old")
    place.symlink_to(target)
    seal_folder(work, place)
    assert [path.name for path in place.parent.iterdir()] == ["result"]
    assert not place.is_symlink() and (place / "a.txt").read_text() == "new"
    assert not target_is_there or (target / "a.txt").read_text() == "old"


@pytest.mark.parametrize("there_before", [False, True])
def test_a_folder_takes_its_place_whole(tmp_path, there_before):
    place = tmp_path / "made" / "result"
    if there_before:
        place.mkdir(parents=True)
        (place / "gone.txt").write_text("old")
    work = tmp_path / "made" / ".work"
    (work / "below").mkdir(parents=True)
    (work / "below" / "a.txt").write_text("four")
    seal_folder(work, place)
    assert files_below(tmp_path) == ["made/result/below/a.txt"]
    assert folder_size(place) == 4
    assert sha256(place / "below" / "a.txt") == "04efaf080f5a3e74e1c29d1ca6a48569382cbbcd324e8d59d2b83ef21c039f00"
