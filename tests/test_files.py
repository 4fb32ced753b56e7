"""Folders that are written: nothing foreign is replaced, and a killed run loses nothing."""

import os
import signal
import subprocess
import sys

import pytest

from llmbrain import files
from llmbrain.exceptions import ParameterError
from llmbrain.files import atomic_dir, check_output_folder, mark_folder

MARKER = "marker.json"


def write(folder, text):
    with atomic_dir(folder) as part:
        (part / "a.txt").write_text(text)
        mark_folder(part, MARKER, {})


def test_what_was_written_before_is_replaced(tmp_path):
    out = tmp_path / "out"
    for text in ("one", "two"):
        check_output_folder(out, MARKER)
        write(out, text)
    assert (out / "a.txt").read_text() == "two" and [p.name for p in tmp_path.iterdir()] == ["out"]
    (tmp_path / "empty").mkdir()
    assert check_output_folder(tmp_path / "empty", MARKER) == tmp_path / "empty"


def a_file(path):
    path.write_text("thesis")


def a_folder_with_a_thesis(path):
    path.mkdir()
    (path / "thesis.txt").write_text("thesis")


def an_output_with_a_thesis(path):
    write(path, "one")
    (path / "thesis.txt").write_text("thesis")


def an_output_with_a_link(path):
    write(path, "one")
    (path / "link").symlink_to(path)


def a_foreign_marker(path):
    a_folder_with_a_thesis(path)
    (path / MARKER).write_text('{"files": "thesis.txt"}')


def a_link_to_an_output(path):
    write(path.with_name("real"), "one")
    path.symlink_to(path.with_name("real"))


@pytest.mark.parametrize(
    "make",
    [
        a_file, a_folder_with_a_thesis, an_output_with_a_thesis, an_output_with_a_link, a_foreign_marker,
        a_link_to_an_output,
    ],
)  # fmt: skip
def test_nothing_else_is_replaced(make, tmp_path):
    make(tmp_path / "out")
    with pytest.raises(ParameterError, match="Choose another folder"):
        check_output_folder(tmp_path / "out", MARKER)


@pytest.mark.parametrize("out", ["in", "in/deeper/out", "."])
def test_outputs_do_not_overlap_inputs(out, tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(ParameterError):
        check_output_folder(tmp_path / out, MARKER, inputs=[tmp_path / "in"])
    check_output_folder(tmp_path / "out", MARKER, inputs=[tmp_path / "in", "", "no/such/input"])


KILLED = """
import os, signal, sys
from llmbrain import files
replace, calls = os.replace, []
def stop(*args):
    calls.append(args)
    if len(calls) == int(sys.argv[2]) + 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(*args)
files._exchange = (lambda *a: False) if sys.argv[3] == "no" else files._exchange
with files.atomic_dir(sys.argv[1]) as part:
    (part / "a.txt").write_text("two")
    files.mark_folder(part, "marker.json", {})
    os.replace = stop
"""


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
@pytest.mark.parametrize("kill_before", [0, 1])
def test_a_kill_between_the_renames_loses_nothing(kill_before, tmp_path):
    """Where folders cannot be exchanged in one step, the next run puts the old one back."""
    out = tmp_path / "out"
    write(out, "one")
    done = subprocess.run([sys.executable, "-c", KILLED, out, str(kill_before), "no"], check=False)
    assert done.returncode == -signal.SIGKILL and out.exists() == (kill_before == 0)
    check_output_folder(out, MARKER)
    assert (out / "a.txt").read_text() == "one" and [p.name for p in tmp_path.iterdir()] == ["out"]
    write(out, "three")
    assert (out / "a.txt").read_text() == "three" and [p.name for p in tmp_path.iterdir()] == ["out"]


def test_folders_are_exchanged_in_one_step_where_the_system_can(tmp_path):
    write(tmp_path / "a", "one")
    write(tmp_path / "b", "two")
    if not files._exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip("this system cannot")
    assert (tmp_path / "a" / "a.txt").read_text() == "two" and (tmp_path / "b" / "a.txt").read_text() == "one"


def test_folders_of_runs_that_go_on_are_left_alone(tmp_path):
    with atomic_dir(tmp_path / "out") as part:
        (part / "a.txt").write_text("first")
        write(tmp_path / "out", "second")
        assert part.exists()
    assert (tmp_path / "out" / "a.txt").read_text() == "first"
