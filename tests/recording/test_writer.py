"""Writing: the overlapped scanner and the memory map give the bytes of the plain way, and say when the disk is full."""

import errno
import resource
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_model, tiny_tokenizer

from llmbrain import NeuronGeometry
from llmbrain.exceptions import RecordingError
from llmbrain.models import find_sites
from llmbrain.recording import cuda, mapping, record, recorder
from llmbrain.recording.mapping import MappedFile
from llmbrain.recording.writer import RunWriter

TEXTS = [
    "The other hero entered the house.",
    "It is a note.",
    "On the third morning the old heron stood in the river and ate one more of the restless fish, as ever.",
    "def add(a, b):\n\treturn a + b\n",
] * 2


def quiet(model, out, **options):
    return record(model, tiny_tokenizer(), TEXTS, out, progress=False, **options)


def images(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in Path(folder).rglob("*_bold.nii")}


@pytest.fixture
def overlapped(monkeypatch):
    """Record the way a GPU does, on the CPU, in transfers of one or two tokens."""
    monkeypatch.setattr(recorder, "_scanner_for", lambda model: cuda.CudaScanner)
    monkeypatch.setattr(cuda, "_BYTES", 1500)


@pytest.mark.parametrize("storage", ["float32", "int16"])
@pytest.mark.parametrize(("dtype", "few"), [(torch.float32, 0), (torch.bfloat16, 99)])
def test_both_scanners_write_the_same_bytes(storage, dtype, few, tmp_path, request, monkeypatch):
    """Eight runs at once, written (few=0) or mapped, in transfers that end anywhere."""
    model = tiny_model("llama").to(dtype)
    options = {"storage": storage, "tokens_per_run": 15, "batch_size": 1, "site": ["mlp", "layer"], "every": 2}
    plain = quiet(model, tmp_path / "plain", **options)
    request.getfixturevalue("overlapped")
    monkeypatch.setattr(cuda, "_FEW", few)
    at_once = []
    scan = cuda.CudaScanner.scan
    monkeypatch.setattr(
        cuda.CudaScanner, "scan", lambda self, runs, *more: at_once.append(len(runs)) or scan(self, runs, *more)
    )
    quick = quiet(model, tmp_path / "quick", **options)
    assert len(plain["mlp"]) > 8 and at_once[0] == 8 and sum(at_once) == len(plain["mlp"])
    assert images(tmp_path / "plain") == images(tmp_path / "quick")
    for a, b in zip(plain["mlp"], quick["mlp"]):
        assert a.events.equals(b.events)
        assert a.sidecar == b.sidecar


@pytest.mark.usefixtures("overlapped")
def test_an_error_keeps_the_runs_of_the_group_before(tmp_path, monkeypatch):
    """Their end is written while the next group is computed."""
    model, options = tiny_model("llama"), {"tokens_per_run": 99, "batch_size": 1}
    calls, run_batch = [], cuda.run_batch
    monkeypatch.setattr(cuda, "_RUNS", 2)
    monkeypatch.setattr(cuda, "_BYTES", 1 << 20)

    def failing(*args):
        calls.append(args)
        if len(calls) == n_calls:
            raise KeyError("the last batch")
        return run_batch(*args)

    n_calls = None
    monkeypatch.setattr(cuda, "run_batch", failing)
    whole = quiet(model, tmp_path / "whole", **options)
    n_calls = len(calls)
    calls.clear()
    with pytest.raises(KeyError, match="the last batch"):
        quiet(model, tmp_path / "broken", **options)
    func = next((tmp_path / "broken").glob("sub-*/func"))
    assert len(list(func.glob("*_bold.json"))) == (len(whole) - 1) // 2 * 2 > 0
    assert not list(func.glob(".*.part.nii"))
    quiet(model, tmp_path / "broken", **options)
    assert images(tmp_path / "broken") == images(tmp_path / "whole")


@pytest.mark.parametrize(("free", "at_once"), [(0, 1), (320_000, 2), (1 << 32, 8)])
def test_as_many_runs_at_once_as_the_device_has_room_for(free, at_once, monkeypatch):
    monkeypatch.setattr(cuda._Lane, "free_bytes", lambda self: free)
    model = tiny_model("llama")
    sites = find_sites(model)
    assert cuda.CudaScanner(model, [sites], n_rows=40, n_runs=20).n_runs == at_once  # two sets of 40 x 193 x 4 bytes
    assert cuda.CudaScanner(model, [sites], n_rows=40, n_runs=1).n_runs == 1


@pytest.mark.usefixtures("overlapped")
def test_runs_of_which_a_part_is_there(tmp_path):
    """A site that is lacking in some runs, and a run that another process holds, while eight are recorded at once."""
    model, options = tiny_model("llama"), {"tokens_per_run": 30, "site": ["mlp", "layer"]}
    whole = quiet(model, tmp_path / "whole", **options)
    n_runs = len(whole["mlp"])
    quiet(model, tmp_path / "study", **options)
    study = whole["mlp"].study.open(tmp_path / "study")
    for run, name in ((2, "mlp"), (3, "layer"), (4, "mlp"), (4, "layer")):
        study.path("bold_json", run=run, site=name).unlink()
        study.path("bold", run=run, site=name).unlink()
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "study").rglob("*_bold.nii")}
    quiet(model, tmp_path / "study", **options)
    assert len(kept) == 2 * n_runs - 4 and all(p.stat().st_mtime_ns == t for p, t in kept.items())
    assert images(tmp_path / "study") == images(tmp_path / "whole")


@pytest.mark.usefixtures("overlapped")
@pytest.mark.parametrize("tokens_per_run", [99, 4096])
@pytest.mark.parametrize("text", [0, 2, 3])
def test_what_is_not_finite_is_named_by_the_overlapped_scanner(text, tokens_per_run, tmp_path):
    """Its batches are looked at late; several runs at once, or several batches of one."""
    model = tiny_model("llama")

    def break_one(module, args, output):
        output = output.clone()
        if output.shape[1] == lengths[text]:
            output[0, 5, 5] = float("inf")
        return output

    lengths = [len(ids) for ids in tiny_tokenizer()(TEXTS)["input_ids"]]
    model.model.layers[2].mlp.act_fn.register_forward_hook(break_one)
    with pytest.raises(
        RecordingError, match=rf"Layer 2 .* unit 5, is -?inf at token 5 .*'text-000[{text + 1}{text + 5}]'"
    ):
        quiet(model, tmp_path / "study", batch_size=1, tokens_per_run=tokens_per_run)
    assert not list((tmp_path / "study").rglob("*bold*"))


@pytest.mark.usefixtures("overlapped")
def test_a_disk_that_fills_up_is_an_error(tmp_path, monkeypatch):
    calls = []

    def full(self, begin, end):
        calls.append(1)
        if len(calls) > 20:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(MappedFile, "_make_pages", full)
    with pytest.raises(RecordingError, match=r"no space for a run of .*No space left"):
        quiet(tiny_model("llama"), tmp_path / "study")
    assert not list((tmp_path / "study").rglob("*bold*"))


def test_threads_fill_one_file(tmp_path):
    geometry = NeuronGeometry.from_sizes([700, 650, 700])
    rows = np.random.default_rng(0).normal(size=(300, geometry.n_voxels)).astype(np.float32)
    for name, put in (("mapped", RunWriter.put_mapped), ("written", RunWriter.put)):
        writer = RunWriter(tmp_path / f"{name}.nii", geometry, len(rows), reserve=False)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda a, w=writer, p=put: p(w, a, rows[a : a + 7]), range(0, len(rows), 7)))
        writer.close()
    mapped = (tmp_path / "mapped.nii").read_bytes()
    assert mapped == (tmp_path / "written.nii").read_bytes() and mapped[352:] == rows.tobytes()


def test_a_mapped_file_takes_no_memory(tmp_path):
    """The pages that were written are the file's, not the process's."""
    size, piece = 256 << 20, np.ones(4 << 20, np.uint8)
    with open(tmp_path / "file", "w+b") as file:
        file.truncate(size)
        mapped = MappedFile(file.fileno(), size)
        if not mapped:
            pytest.skip("this system has no such maps")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for place in range(0, size, len(piece)):
            mapped.write(place, piece)
        mapped.close()
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 << 10  # KiB
        file.seek(-1, 2)
        assert file.read() == b"\1"


@pytest.mark.parametrize("missing", ["madvise", "populate", "mmap"])
def test_systems_without_it_write_the_same(missing, tmp_path, monkeypatch):
    if missing == "madvise":
        monkeypatch.setattr(mapping, "_advise", lambda: None)
    if missing == "populate":
        monkeypatch.setattr(mapping, "_POPULATE_WRITE", 999)
    if missing == "mmap":
        monkeypatch.setattr(mapping.mmap, "mmap", lambda *args: (_ for _ in ()).throw(OSError(errno.ENODEV, "none")))
    geometry = NeuronGeometry.from_sizes([70, 65])
    rows = np.random.default_rng(0).normal(size=(50, geometry.n_voxels)).astype(np.float32)
    writer = RunWriter(tmp_path / "a.nii", geometry, len(rows), reserve=False)
    writer.put_mapped(0, rows[:20])
    writer.put_mapped(20, rows[20:])
    writer.close()
    assert (tmp_path / "a.nii").read_bytes()[352:] == rows.tobytes()
