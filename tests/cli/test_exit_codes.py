"""How the command line ends: 2 for wrong input, 130 for an interruption, 1 for what nobody expected."""

import errno
import gzip
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from commands import run

from llmbrain import pipeline
from llmbrain.exceptions import DatasetError
from llmbrain.files import write_text
from llmbrain.geometry import NeuronGeometry


def fails_with(error):
    def command(*_, **__):
        raise error

    return command


def test_ctrl_c_ends_with_130_and_a_sentence():
    """A real interruption of a real process, also where the tests run in the background, which ignores Ctrl-C."""
    command = (
        "import signal, time, llmbrain.pipeline as p; from llmbrain import cli;"
        "signal.signal(signal.SIGINT, signal.default_int_handler);"
        "p.describe_environment = lambda: (print('on', flush=True), time.sleep(60)); cli.main(['info'])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "on\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in said and "repeat the command to resume" in said and "Traceback" not in said


SHELL = {  # what a shell does with the command, and what it then says
    "{} > /dev/full": (1, "standard output: No space left on device"),
    "set -o pipefail; {} | true": (1, "nobody reads the output any more"),
    "rmdir $PWD; {}": (2, "The current folder was removed"),
    "{} >&-": (0, ""),
}


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("line", SHELL)
def test_outputs_and_places_that_cannot_be_used(line, tmp_path):
    llmbrain = f"{sys.executable} -c 'from llmbrain import cli; cli.main([\"--version\"])'"
    ended = subprocess.run(["bash", "-c", line.format(llmbrain)], cwd=tmp_path, capture_output=True, text=True)
    code, sentence = SHELL[line]
    assert (ended.returncode, sentence in ended.stderr) == (code, True), ended.stderr
    assert "Traceback" not in ended.stderr and "Exception ignored" not in ended.stderr


@pytest.mark.parametrize("command", ["run", "record"])
def test_a_folder_of_other_files_is_refused_before_the_model_is_loaded(capsys, command, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    code, _, said = run(capsys, command, "--model", "no/such/model", "--out", tmp_path)
    assert code == 2 and "holds thesis.txt, which llmbrain did not write" in said
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    "args",
    [
        ("run", "--out", "texts/study"),
        ("record", "--out", "texts/study"),
        ("grid", "--out", "texts/grid.tsv"),
        ("grid", "--out", "grid.tsv", "--figure", "texts/grid.png"),
        ("prune", "--out", "texts/small"),
        ("fingerprint", "no/such/model", "--out", "texts/f.safetensors"),
    ],
)
def test_no_output_goes_into_the_texts_that_are_read(args, capsys, tmp_path, monkeypatch):
    """The next run would read it as one of the texts."""
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("The cat sat on the mat.")
    monkeypatch.chdir(tmp_path)
    model = () if args[0] == "fingerprint" else ("--model", "no/such/model")
    code, _, said = run(capsys, *args, "--text", "texts", *model)
    assert code == 2 and "overlaps the input texts" in said
    assert [path.name for path in (tmp_path / "texts").iterdir()] == ["a.txt"]


def test_a_file_that_ends_too_early_is_named(capsys, monkeypatch, tmp_path):
    geometry = NeuronGeometry.from_sizes([50, 50])
    path = tmp_path / "map.nii.gz"
    geometry.to_img(np.arange(100.0)).to_filename(path)
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()))[:-40])
    with pytest.raises(DatasetError, match=r"map.nii.gz is damaged"):
        geometry.to_array(path)
    monkeypatch.setattr(pipeline, "describe_environment", lambda: geometry.to_array(path))
    code, _, said = run(capsys, "info")
    assert code == 2 and str(path) in said and "interrupted" not in said
    monkeypatch.setattr(pipeline, "describe_environment", fails_with(EOFError("it ends early")))
    code, _, said = run(capsys, "info")
    assert code == 2 and "damaged: it ends early" in said


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_full_disks_and_missing_rights_name_the_path(number, capsys, monkeypatch):
    monkeypatch.setattr(
        pipeline, "describe_environment", fails_with(OSError(number, os.strerror(number), "/some/file"))
    )
    code, _, said = run(capsys, "info")
    assert code == 1 and said.startswith(f"llmbrain: /some/file: {os.strerror(number)}.") and "Traceback" not in said


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_names_the_file_that_was_written(tmp_path, monkeypatch):
    """The system names no file when a disk is full; the writer does."""
    from pathlib import Path

    def fill(self, text, **_):
        with open("/dev/full", "w") as file:
            file.write(text)

    monkeypatch.setattr(Path, "write_text", fill)
    with pytest.raises(OSError) as error:
        write_text(tmp_path / "a.txt", "x")
    assert error.value.errno == errno.ENOSPC and error.value.filename == str(tmp_path / "a.txt")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("args", "option"),
    [
        (["run", "--out", "x", "--threshold", "nan"], "--threshold"),
        (["run", "--out", "x", "--threshold", "inf"], "--threshold"),
        (["run", "--out", "x", "--threshold", "-1"], "--threshold"),
        (["run", "--out", "x", "--n-components", "0"], "--n-components"),
        (["run", "--out", "x", "--random-state", "-1"], "--random-state"),
        (["run", "--out", "x", "--ratio", "nan"], "--ratio"),
        (["run", "--out", ""], "--out"),
        (["record", "--out", "x", "--max-tokens", "-1"], "--max-tokens"),
        (["record", "--out", "x", "--max-tokens", "0"], "--max-tokens"),
        (["record", "--out", "x", "--batch-size", "0"], "--batch-size"),
        (["record", "--out", " "], "--out"),
        (["lesion", "x", "--max-tokens", "1"], "--max-tokens"),
        (["lesion", "x", "--n-controls", "0"], "--n-controls"),
        (["lesion", "x", "--strength", "2"], "--strength"),
        (["lesion", "x", "--value", "nan"], "--value"),
        (["networks", "x", "--n-repeats", "-1"], "--n-repeats"),
        (["networks", "x", "--n-components", "0"], "--n-components"),
        (["info", "--max-tokens", "0"], "--max-tokens"),
        (["record", "--out", "x", "--layers", "1-1000000000"], "--layers"),
    ],
)
def test_numbers_out_of_range_are_refused_before_any_work(args, option, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    start = time.perf_counter()
    code, _, said = run(capsys, *args)
    assert code == 2 and option in said and said.count("\n") == 1 and "Traceback" not in said
    assert list(tmp_path.iterdir()) == [] and time.perf_counter() - start < 30
