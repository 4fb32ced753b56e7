"""Write a run token by token in the final NIfTI layout, under a temporary name until it is complete."""

import os
import threading
from pathlib import Path

import numpy as np

from ..dataset.checksums import volume_sums
from ..exceptions import RecordingError
from ..images import new_img
from .mapping import MappedFile

_OFFSET = 352  # 348 bytes of header and 4 that declare that no extension follows


def nifti_header(geometry, n_tokens, dtype=np.float32):
    """Make the header of a run of ``n_tokens`` volumes, the first 352 bytes of the file."""
    header = new_img(np.broadcast_to(np.zeros((), dtype), (*geometry.shape, n_tokens))).header
    header.set_slope_inter(1.0, 0.0)
    header["descrip"] = b"llmbrain: (layer, row, col, token)"
    header["vox_offset"] = _OFFSET
    return header.binaryblock + b"\0\0\0\0"


class RunWriter:
    """Write the activations of a run, tokens in any order; the file gets its name ``path`` when it is closed.

    The type is float32, or int16 with ``scale``, the activation per step of int16 for each neuron. ``reserve`` takes
    the space for the whole run at once, so that a full disk raises before the first token. A file system in memory
    takes a third of a second per GiB for this; False avoids that wait (with a GPU), and a full disk raises later.

    Attributes: ``columns`` (n_voxels,), the neuron of each voxel in file order, ``n_neurons`` for padding; ``steps``
    (n_voxels,), steps of int16 per unit of activation, or None; ``n_clipped``, the number of values too large for
    int16; ``sums`` (n_tokens,), checksums of the volumes, see :func:`llmbrain.dataset.checksums.volume_sums`.
    """

    def __init__(self, path, geometry, n_tokens, dtype=np.float32, scale=None, reserve=True):
        self.path = Path(path)
        self.part = self.path.with_name(f".{self.path.name}.part.nii")
        self.n_tokens = n_tokens
        self.dtype = np.dtype(dtype)
        self.columns = np.full(geometry.n_voxels, geometry.n_neurons, np.intp)
        self.columns[geometry.disk_voxels] = np.arange(geometry.n_neurons)
        self.steps = None
        if scale is not None:
            self.steps = np.append(1 / np.asarray(scale, np.float32), np.float32(0))[self.columns]
        self.n_clipped = 0
        self.sums = np.zeros(n_tokens, np.int64)
        self.n_bytes = n_tokens * geometry.n_voxels * self.dtype.itemsize
        self._scratch = threading.local()
        self._mapped = None
        self._lock = threading.Lock()
        self.part.parent.mkdir(parents=True, exist_ok=True)
        self.file = open(self.part, "w+b", buffering=0)  # noqa: SIM115 - closed by close() or abandon()
        try:
            self.file.write(nifti_header(geometry, n_tokens, self.dtype))
            if reserve and hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self.file.fileno(), _OFFSET, self.n_bytes)
            else:
                self.file.truncate(_OFFSET + self.n_bytes)
        except OSError as error:
            self.abandon()
            raise self._full(error) from error

    def _full(self, error):
        return RecordingError(
            f"{self.path.parent} has no space for a run of {self.n_bytes / 2**20:.0f} MiB ({error.strerror or error}). "
            "Free some space, choose another folder, or record fewer layers or tokens."
        )

    def write(self, row, block):
        """Write consecutive tokens from ``row`` on; threads may share a writer.

        ``block`` holds the neurons in flat order and a final column of zeros, ``(n, n_neurons + 1)``, float32.
        """
        scratch = getattr(self._scratch, "rows", None)
        if scratch is None or len(scratch) < len(block):
            scratch = self._scratch.rows = np.empty((len(block), len(self.columns)), np.float32)
        ordered = scratch[: len(block)]
        np.take(block, self.columns, axis=1, out=ordered, mode="clip")  # without mode="clip" numpy buffers the output
        if self.steps is not None:
            ordered *= self.steps
            np.rint(ordered, out=ordered)
            n_clipped = int(np.count_nonzero(np.abs(ordered) > 32767))
            with self._lock:
                self.n_clipped += n_clipped
            ordered = np.clip(ordered, -32767, 32767).astype(self.dtype)
        self.put(row, ordered)

    def put(self, row, ordered):
        """Write tokens that are in file order and in the type of the file, ``(n, n_voxels)``."""
        place = _OFFSET + row * len(self.columns) * self.dtype.itemsize
        ordered = np.ascontiguousarray(ordered)
        self.sums[row : row + len(ordered)] = volume_sums(ordered)
        left = memoryview(ordered).cast("B")
        try:
            while left:  # one call may write only a part
                n = self._write_at(left, place)
                left, place = left[n:], place + n
        except OSError as error:
            raise self._full(error) from error

    def put_mapped(self, row, ordered):
        """Like :meth:`put`, but through a memory map, which several threads can fill at the same time."""
        with self._lock:
            if self._mapped is None:
                self._mapped = MappedFile(self.file.fileno(), _OFFSET + self.n_bytes)
        if not self._mapped:
            return self.put(row, ordered)
        self.sums[row : row + len(ordered)] = volume_sums(ordered)
        try:
            self._mapped.write(_OFFSET + row * len(self.columns) * self.dtype.itemsize, ordered)
        except OSError as error:
            raise self._full(error) from error

    def _write_at(self, data, place):
        if hasattr(os, "pwrite"):
            return os.pwrite(self.file.fileno(), data, place)
        with self._lock:
            self.file.seek(place)
            return self.file.write(data)

    def close(self):
        """Close the file and give it its final name."""
        self._release()
        os.replace(self.part, self.path)

    def abandon(self):
        """Close the file and remove it."""
        self._release()
        self.part.unlink(missing_ok=True)

    def _release(self):
        if self._mapped is not None:
            self._mapped.close()
            self._mapped = None
        self.file.close()
