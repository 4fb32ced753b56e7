"""Recording of runs: interruptions, several processes, memory, progress."""

import inspect
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from recorded import TEXTS, files_of, quiet
from tiny import tiny_model

from llmbrain.dataset import Study, open_recording
from llmbrain.exceptions import ParameterError
from llmbrain.models import load_model
from llmbrain.recording import record


def test_padding_voxels_stay_zero(tokenizer, tmp_path):
    runs = quiet(tiny_model("llama", intermediate_size=47), tokenizer, TEXTS[:1], tmp_path / "study")
    volume = np.asarray(runs[0].img().dataobj)
    assert volume.shape[:3] == runs.geometry.shape and runs.geometry.n_voxels > runs.geometry.n_neurons
    assert not volume[~runs.geometry.is_neuron].any() and volume[runs.geometry.is_neuron].any()


def test_the_command_line_of_progress(llama, tokenizer, tmp_path, capsys):
    record(llama, tokenizer, TEXTS, tmp_path / "study")
    captured = capsys.readouterr()
    assert "on disk, about" in captured.out and "1 runs, " in captured.out and "func/*desc-mlp*" in captured.out
    assert "token" in captured.err


def test_a_temporary_folder_if_none_is_given(llama, tokenizer):
    runs = quiet(llama, tokenizer, TEXTS)
    assert Path(runs.paths[0]).is_file() and "llmbrain-" in str(runs.root)


@pytest.mark.filterwarnings("ignore:.*too large for int16")
def test_no_recording_lies_in_its_texts_or_its_model(tokenizer, tmp_path):
    """The next recording would read its own files."""
    texts, folder = tmp_path / "texts", tmp_path / "model"
    texts.mkdir()
    (texts / "a.txt").write_text(TEXTS[2])
    tiny_model("llama").save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    model, own = load_model(folder, device="cpu")
    for text, out in ((texts, texts / "study"), (str(texts), texts), (TEXTS, folder / "study")):
        with pytest.raises(ParameterError, match="overlaps the input"):
            quiet(model, own, text, out)
        assert not (out / "study.json").exists()
    quiet(model, own, texts, tmp_path / "study")


def test_an_interrupt_leaves_what_is_finished_and_resuming_ends_with_the_same_bytes(tokenizer, tmp_path):
    model = tiny_model("llama")
    options = {"tokens_per_run": 90, "site": ["mlp", "attention"], "storage": "int16"}
    quiet(model, tokenizer, TEXTS * 3, tmp_path / "whole", **options)
    calls = []

    def interrupt(module, args):
        calls.append(1)
        if len(calls) == 11:  # the first calls only look at how large the activations are
            raise KeyboardInterrupt

    handle = model.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        quiet(model, tokenizer, TEXTS * 3, tmp_path / "study", **options)
    handle.remove()
    done = open_recording(tmp_path / "study", "mlp")
    assert 0 < len(done) < len(open_recording(tmp_path / "whole", "mlp"))
    assert not [name for name in files_of(tmp_path / "study") if ".part." in name]
    before = {run.path: run.path.stat().st_mtime_ns for run in done}
    quiet(model, tokenizer, TEXTS * 3, tmp_path / "study", **options)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    a, b = files_of(tmp_path / "study"), files_of(tmp_path / "whole")
    assert {k for k in a if not k.endswith(".lock")} == {k for k in b if not k.endswith(".lock")}
    assert all(a[k] == b[k] for k in b)


SCRIPT = """
    import sys, time
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    from tiny import tiny_model, tiny_tokenizer
    from llmbrain.recording import record
    model = tiny_model("llama")
    calls = []
    def pause(module, args):
        time.sleep({pause})
        if list(Path({out!r}).rglob({stop_at!r})):
            calls.append(1)
            if len(calls) == 2:  # the first rows are written
                Path({out!r}, "stopped").touch()
                time.sleep(3600)
    model.register_forward_pre_hook(pause)
    record(model, tiny_tokenizer(), {texts!r}, {out!r}, tokens_per_run=90, progress=False, **{options!r})
"""


def start(out, pause=0.0, stop_at="nothing", **options):
    """Record in another process: it pauses before every forward pass, and stops at the second one with such a file."""
    tests = os.path.dirname(os.path.abspath(inspect.getfile(tiny_model)))
    code = SCRIPT.format(tests=tests, texts=TEXTS * 3, out=str(out), pause=pause, stop_at=stop_at, options=options)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], env=environment)


def wait_for(path, process):
    """Wait for a file that another process writes, as long as that process runs."""
    while not path.exists():
        assert process.poll() is None, f"the process ended before it wrote {path.name}"
        time.sleep(0.02)


def test_kill_9_in_the_middle_of_a_run(llama, tokenizer, tmp_path):
    options = {"tokens_per_run": 90, "batch_size": 1}
    quiet(llama, tokenizer, TEXTS * 3, tmp_path / "whole", **options)
    process = start(tmp_path / "study", stop_at=".*run-03*.part.nii", batch_size=1)
    try:
        wait_for(tmp_path / "study" / "stopped", process)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    (tmp_path / "study" / "stopped").unlink()
    assert len(open_recording(tmp_path / "study")) == 2 and list((tmp_path / "study").rglob(".*run-03*.part.nii"))
    quiet(llama, tokenizer, TEXTS * 3, tmp_path / "study", **options)
    a, b = files_of(tmp_path / "study"), files_of(tmp_path / "whole")
    assert set(a) == set(b)
    assert all(a[name] == b[name] for name in b)


def test_locks_of_finished_runs_that_a_killed_process_left_are_removed(llama, tokenizer, tmp_path):
    quiet(llama, tokenizer, TEXTS, tmp_path / "study")
    lock = Study.open(tmp_path / "study").path("lock", run=1)
    lock.touch()
    quiet(llama, tokenizer, TEXTS, tmp_path / "study")
    assert not lock.exists()


def test_processes_share_the_runs(llama, tokenizer, tmp_path):
    """Two processes at once, one that has every other run to do and one that wants all: as if one had done it."""
    n_runs = len(quiet(llama, tokenizer, TEXTS * 3, tmp_path / "whole", tokens_per_run=90))
    even = list(range(2, n_runs + 1, 2))
    pair = [start(tmp_path / "both", 0.1, run_index=even), start(tmp_path / "both", 0.1)]
    for numbers in (range(2, n_runs + 1, 2), range(1, n_runs + 1, 2), n_runs):  # meanwhile, one after the other
        runs = quiet(llama, tokenizer, TEXTS * 3, tmp_path / "array", tokens_per_run=90, run_index=numbers)
        assert [run.index for run in runs] == ([n_runs] if numbers == n_runs else list(numbers))
    assert [process.wait(timeout=600) for process in pair] == [0, 0]
    expected = files_of(tmp_path / "whole")
    for name in ("array", "both"):
        assert files_of(tmp_path / name) == expected


def test_memory_does_not_grow_with_the_corpus(tmp_path):
    """Peak memory after a recording of 20 MB and after one of 200 MB, in a process of its own."""
    tests = os.path.dirname(os.path.abspath(inspect.getfile(tiny_model)))
    code = f"""
        import resource, sys
        sys.path.insert(0, {tests!r})
        from tiny import tiny_model, tiny_tokenizer
        from llmbrain.recording import record
        model = tiny_model("llama", intermediate_size=1536, num_hidden_layers=8, max_position_embeddings=512)
        text = "On the third morning the old heron stood in the river. " * 9
        for n in (1, 1, 10):  # the first one also loads what is imported late
            out = f"{{sys.argv[1]}}/{{n}}"
            runs = record(model, tiny_tokenizer(), [text] * 4 * n, out, batch_size=4, progress=False)
            size = sum(run.path.stat().st_size for run in runs)
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, size / 2**20)
    """
    out = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    _, (peak_small, size_small), (peak_large, size_large) = np.array(out.stdout.split(), float).reshape(3, 2)
    assert size_large == pytest.approx(10 * size_small, rel=0.01) and size_small > 40
    assert peak_large - peak_small < 0.1 * (size_large - size_small)
