"""Folders that are written: they replace others in one step, and a second process loses nothing."""

import os

import pytest

from llmbrain.files import atomic, atomic_dir


def write(folder, text):
    with atomic_dir(folder) as part:
        (part / "a.txt").write_text(text)


def test_folders_are_exchanged_in_one_step_where_the_system_can(tmp_path):
    write(tmp_path / "a", "one")
    write(tmp_path / "b", "two")
    if not atomic._exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip("this system cannot")
    assert (tmp_path / "a" / "a.txt").read_text() == "two" and (tmp_path / "b" / "a.txt").read_text() == "one"


def test_two_processes_may_write_one_folder(tmp_path, monkeypatch):
    """The other one puts its folder there after this one has looked and before it renames: the last one stays."""
    target, publish = tmp_path / "copy", atomic.publish

    def late(part, path):
        if not path.exists():
            path.mkdir()
            (path / "theirs.txt").write_text("theirs")
        publish(part, path)

    monkeypatch.setattr(atomic, "publish", late)
    with atomic_dir(target) as part:
        (part / "mine.txt").write_text("mine")
    assert [p.name for p in target.iterdir()] == ["mine.txt"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["copy"]


@pytest.mark.skipif(os.name != "posix", reason="needs permissions")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_those_who_may_read_a_folder_may_read_its_files(umask, mode, tmp_path):
    before = os.umask(umask)
    try:
        with atomic_dir(tmp_path / "out") as part:
            os.close(os.open(part / "weights", os.O_CREAT | os.O_WRONLY, 0o600))
    finally:
        os.umask(before)
    assert (tmp_path / "out" / "weights").stat().st_mode & 0o777 == mode
