"""What killed runs leave behind is put back or removed, and folders of runs that go on stay."""

import os
import signal
import subprocess
import sys

import pytest

from llmbrain.files import atomic_dir, check_output_folder, leftovers, mark_folder, write_json

MARKER = "marker.json"


def write(folder, text):
    with atomic_dir(folder) as part:
        (part / "a.txt").write_text(text)
        mark_folder(part, MARKER, {})


KILLED = """
import os, signal, sys
from llmbrain import files
replace, calls = os.replace, []
def stop(*args):
    calls.append(args)
    if len(calls) == int(sys.argv[2]) + 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(*args)
files.atomic._exchange = lambda *a: False
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
    done = subprocess.run([sys.executable, "-c", KILLED, out, str(kill_before)], check=False)
    assert done.returncode == -signal.SIGKILL and out.exists() == (kill_before == 0)
    check_output_folder(out, MARKER)
    assert (out / "a.txt").read_text() == "one" and [p.name for p in tmp_path.iterdir()] == ["out"]
    write(out, "three")
    assert (out / "a.txt").read_text() == "three" and [p.name for p in tmp_path.iterdir()] == ["out"]


def test_folders_of_runs_that_go_on_are_left_alone(tmp_path):
    with atomic_dir(tmp_path / "out") as part:
        (part / "a.txt").write_text("first")
        write(tmp_path / "out", "second")
        assert part.exists()
    assert (tmp_path / "out" / "a.txt").read_text() == "first"


@pytest.mark.skipif(os.name != "posix", reason="needs processes that end")
def test_every_write_removes_what_killed_processes_left(tmp_path):
    path = tmp_path / "a.json"
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for pid in (ended.pid, os.getpid()):
        (tmp_path / f".00000000-{leftovers._HOST}-{pid}.part.a.json").write_text("half")
    write_json(path, {})
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        f".00000000-{leftovers._HOST}-{os.getpid()}.part.a.json",
        "a.json",
    ]
