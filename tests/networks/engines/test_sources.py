"""Blocks of neurons of arrays and of files, against plain indexing."""

import numpy as np
import pytest

from llmbrain.networks.engines import sources
from llmbrain.networks.engines.sources import ArraySource


def test_blocks_of_any_size_hold_the_same(tmp_path):
    rng = np.random.default_rng(0)
    run = rng.standard_normal((30, 900)).astype(np.float32)
    path = tmp_path / "run.bin"
    path.write_bytes(b"head" + run.tobytes())
    columns = np.sort(rng.choice(900, 700, replace=False))

    def mapped():
        return np.memmap(path, np.float32, "r", 4, run.shape)

    for source in (
        ArraySource(mapped, 30, 900),
        ArraySource(lambda: run, 30, 900),
        ArraySource(lambda: run.astype(">f8"), 30, 900),
    ):
        out = np.empty((30, 333), np.float32)
        source.read(100, 433, out)
        np.testing.assert_array_equal(out, run[:, 100:433])
    some = ArraySource(mapped, 30, 700, columns)
    out = np.empty((30, 200), np.float32)
    some.read(50, 250, out)
    np.testing.assert_array_equal(out, run[:, columns[50:250]])


def test_gaps_between_columns_are_read_into_the_void(tmp_path):
    run = np.random.default_rng(0).standard_normal((20, 1000)).astype(np.float32)
    run.tofile(tmp_path / "run.bin")
    columns = np.setdiff1d(np.arange(1000), [0, 17, 18, 400, 401, 402, 999])
    mapped = np.memmap(tmp_path / "run.bin", np.float32, "r", 0, run.shape)
    for where in (columns, columns[100:500], columns[390:399], slice(3, 700)):
        out = np.zeros((20, len(run[0, where])), np.float32)
        assert sources._read_file(mapped, where, out)
        np.testing.assert_array_equal(out, run[:, where])
    for where in (columns[::-1], np.arange(0, 1000, 3), np.arange(0, 1000, 2)):  # not worth it, or in another order
        assert sources._pieces(where) is None
        source = ArraySource(lambda: mapped, 20, len(where), where)
        out = np.zeros((20, len(where)), np.float32)
        source.read(0, len(where), out)
        np.testing.assert_array_equal(out, run[:, where])


@pytest.mark.parametrize("offset", [0, 4, 3 * 4096 + 352])
def test_pieces_of_a_map_are_read_from_their_own_place(offset, tmp_path):
    run = np.random.default_rng(0).standard_normal((40, 900)).astype(np.float32)
    (tmp_path / "run.bin").write_bytes(bytes(offset) + run.tobytes())
    whole = np.memmap(tmp_path / "run.bin", np.float32, "r", offset, run.shape)
    flat = np.memmap(tmp_path / "run.bin", np.float32, "r", offset)
    for piece in (
        whole, whole[7:], whole[3:9], whole[2:20][3:], whole[39:], whole.reshape(80, 450)[11:],
        flat[1800:].reshape(-1, 300), flat.reshape(run.shape)[5:6], whole.view(np.uint8)[4:].view(np.float32),
    ):  # fmt: skip
        out = np.zeros((len(piece), 250), np.float32)
        assert sources._read_file(piece, slice(20, 270), out)
        np.testing.assert_array_equal(out, np.array(piece)[:, 20:270])
    private = np.memmap(tmp_path / "run.bin", np.float32, "c", offset, run.shape)
    private[:] = 7  # in this process alone
    for other in (private, whole[3:].copy(), whole[::2], whole[::-1], whole[:, 100:500], whole + 1, np.asarray(whole)):
        out = np.zeros((len(other), 250), np.float32)
        assert not sources._read_file(other, slice(20, 270), out)
        ArraySource(lambda other=other: other, *other.shape).read(20, 270, out)
        np.testing.assert_array_equal(out, np.array(other)[:, 20:270])


def test_integers_with_a_scale():
    stored = np.random.default_rng(0).integers(-9, 9, (20, 300)).astype(np.int16)
    scale = np.linspace(0.1, 2, 300).astype(np.float32)
    source = ArraySource(lambda: stored, 20, 300, None, scale)
    out = np.empty((20, 100), np.float32)
    source.read(200, 300, out)
    np.testing.assert_allclose(out, stored[:, 200:] * scale[200:], rtol=1e-6)
