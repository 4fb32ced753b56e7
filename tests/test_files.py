"""Folders and tables that are written: nothing foreign is replaced, a killed run loses nothing, texts survive."""

import os
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmbrain import files
from llmbrain.exceptions import ParameterError
from llmbrain.files import (
    atomic_dir,
    check_apart,
    check_output_folder,
    mark_folder,
    read_json,
    read_tsv,
    write_json,
    write_tsv,
)

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


@pytest.mark.parametrize("out", ["in", "in/deeper/out"])
def test_no_output_lies_in_an_input(out, tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(ParameterError, match="overlaps the input"):
        check_apart(tmp_path / out, ["demo", None, object(), tmp_path / "in"], around=False)
    check_apart(tmp_path, [tmp_path / "in"], around=False)


@pytest.mark.skipif(os.name != "posix", reason="needs processes that end")
def test_every_write_removes_what_killed_processes_left(tmp_path):
    path = tmp_path / "a.json"
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for pid, kind in ((ended.pid, "part"), (os.getpid(), "part")):
        (tmp_path / f".00000000-{files._HOST}-{pid}.{kind}.a.json").write_text("half")
    write_json(path, {})
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        f".00000000-{files._HOST}-{os.getpid()}.part.a.json",
        "a.json",
    ]


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


HOSTILE = [
    "", " ", "n/a", "N/A", "nan", "NaN", "None", "null", "\r", "\n", "\r\n", "a\tb", '"', '""', "'", '"a', "\\", "\\n",
    "\\\\", "n\\/a", "\\u000a", "=1+1", "+1", "-1", "@x", "#", "1", "007", "1e5", "True", "inf", "\x00", "\x0b", "\x1c",
    "\x85", "\u2028", "\ufeff", "\ud800", "\udfff", "\udc80", "é", "日本", "👩‍👩‍👧", "<script>", "a,b;c", "\u202e",
]  # fmt: skip
TEXT = st.text(st.characters(exclude_categories=()), max_size=8) | st.sampled_from(HOSTILE)


@given(rows=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=8))
@example(rows=[(a, b) for a in HOSTILE for b in ("x", "")])
@settings(max_examples=150, deadline=None)
def test_every_text_survives_a_table(rows, tmp_path_factory):
    frame = pd.DataFrame(rows, columns=["token", "document"], dtype=object)
    frame["n"] = np.arange(len(frame))
    path = write_tsv(tmp_path_factory.getbasetemp() / "table.tsv", frame)
    read = read_tsv(path, dtype={"token": str, "document": str})
    assert [tuple(row) for row in read.to_numpy().tolist()] == [(*row, n) for n, row in enumerate(rows)]
    assert path.read_bytes().count(b"\n") == len(rows) + 1 and b"\r" not in path.read_bytes()
    assert path.read_text(encoding="utf-8").splitlines()[1:] == path.read_text(encoding="utf-8").split("\n")[1:-1]
    one = read_tsv(write_tsv(path, frame[["token"]]), dtype=str)  # empty cells are empty lines
    assert one["token"].tolist() == [row[0] for row in rows]


@given(names=st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=4, unique=True))
@settings(max_examples=50, deadline=None)
def test_every_name_of_a_column_survives_a_table(names, tmp_path_factory):
    path = write_tsv(tmp_path_factory.getbasetemp() / "names.tsv", pd.DataFrame([range(len(names))], columns=names))
    assert list(read_tsv(path)) == names


def test_missing_values_are_not_texts(tmp_path):
    frame = pd.DataFrame({"token": ["n/a", None, "", np.nan], "value": [1.5, np.nan, 0.0, np.inf]})
    path = write_tsv(tmp_path / "table.tsv", frame)
    assert path.read_text().splitlines()[1:] == ["n\\/a\t1.5", "n/a\tn/a", "\t0.0", "n/a\tinf"]
    read = read_tsv(path, dtype={"token": str})
    assert read["token"].isna().tolist() == [False, True, False, True] and read["token"][0] == "n/a"
    assert read["value"].isna().tolist() == [False, True, False, False]


@given(text=TEXT, key=TEXT)
@settings(max_examples=150, deadline=None)
def test_every_text_survives_json(text, key, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "some.json"
    high_before_low = any("\ud800" <= a < "\udc00" <= b <= "\udfff" for t in (text, key) for a, b in zip(t, t[1:]))
    if not high_before_low:  # JSON reads such a pair as the one character that it stands for
        assert read_json(write_json(path, {key: [text]})) == {key: [text]}
    path.read_text(encoding="utf-8")


def test_two_processes_may_write_one_folder(tmp_path, monkeypatch):
    """The other one puts its folder there after this one has looked and before it renames: the last one stays."""
    target, publish = tmp_path / "copy", files.publish

    def late(part, path):
        if not path.exists():
            path.mkdir()
            (path / "theirs.txt").write_text("theirs")
        publish(part, path)

    monkeypatch.setattr(files, "publish", late)
    with atomic_dir(target) as part:
        (part / "mine.txt").write_text("mine")
    assert [p.name for p in target.iterdir()] == ["mine.txt"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["copy"]
