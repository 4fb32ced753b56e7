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
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_scanners_write_the_same_bytes(storage, dtype, tmp_path, request):
    model = tiny_model("llama").to(dtype)
    options = {"storage": storage, "tokens_per_run": 90, "batch_size": 2, "site": ["mlp", "layer"], "every": 2}
    plain = quiet(model, tmp_path / "plain", **options)
    request.getfixturevalue("overlapped")
    quick = quiet(model, tmp_path / "quick", **options)
    assert len(plain["mlp"]) > 1
    assert images(tmp_path / "plain") == images(tmp_path / "quick")
    for a, b in zip(plain["mlp"], quick["mlp"]):
        assert a.events.equals(b.events)
        assert a.sidecar == b.sidecar


@pytest.mark.usefixtures("overlapped")
@pytest.mark.parametrize("text", [0, 3, 6])
def test_what_is_not_finite_is_named_by_the_overlapped_scanner(text, tmp_path):
    """Its batches are looked at late; the first, a middle and the last one."""
    model = tiny_model("llama")

    def break_one(module, args, output):
        output = output.clone()
        if output.shape[1] == lengths[text]:
            output[0, 5, 5] = float("inf")
        return output

    lengths = [len(ids) for ids in tiny_tokenizer()(TEXTS)["input_ids"]]
    model.model.layers[2].mlp.act_fn.register_forward_hook(break_one)
    with pytest.raises(RecordingError, match=r"Layer 2 .* unit 5, is -?inf at token 5"):
        quiet(model, tmp_path / "study", batch_size=1)
    assert not list((tmp_path / "study").rglob("*bold*"))


@pytest.mark.usefixtures("overlapped")
def test_a_disk_that_fills_up_is_an_error(tmp_path, monkeypatch):
    calls = []

    def full(self, begin, end):
        calls.append(1)
        if len(calls) > 20:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(MappedFile, "_make_pages", full)
    with pytest.raises(RecordingError, match=r"no room for a run of .*No space left"):
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
