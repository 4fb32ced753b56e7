"""Writing a run: token by token into the final NIfTI layout, under a temporary name until it is whole."""

import os
from pathlib import Path

import numpy as np

from ..exceptions import RecordingError

__all__ = ["RunWriter", "nifti_header"]

_OFFSET = 352  # 348 bytes of header, 4 that say that no extension follows
_ROWS = 16  # tokens that are put in file order at a time; they should fit the processor's cache


def nifti_header(geometry, n_tokens, dtype=np.float32, slope=None):
    """Make the header of a run: the first 352 bytes of the file.

    Examples
    --------
    >>> from llmbrain import NeuronGeometry
    >>> len(nifti_header(NeuronGeometry.from_sizes([6, 6]), 10))
    352
    """
    import nibabel as nib

    volume = np.broadcast_to(np.zeros((), dtype), (*geometry.shape, n_tokens))
    header = nib.Nifti1Image(volume, np.eye(4)).header
    header.set_xyzt_units("mm", "sec")
    header.set_slope_inter(1.0 if slope is None else slope, 0.0)
    header["descrip"] = b"llmbrain: (layer, row, col, token)"
    header["vox_offset"] = _OFFSET
    return header.binaryblock + b"\0\0\0\0"


class RunWriter:
    """Write activations of a run in any order of tokens; the file appears under its name when it is closed.

    The file has its final size from the start, so a full disk is noticed before the first token.

    Parameters
    ----------
    path : path-like
        The final ``.nii``.
    geometry : NeuronGeometry
    n_tokens : int
    dtype : numpy dtype
        float32, or int16 with ``scale``.
    scale : ndarray of shape (n_neurons,), optional
        What one step of int16 means for each neuron.
    """

    def __init__(self, path, geometry, n_tokens, dtype=np.float32, scale=None):
        self.path = Path(path)
        self.part = self.path.with_name(f".{self.path.name}.part.nii")
        self.n_tokens = n_tokens
        self.dtype = np.dtype(dtype)
        self.n_clipped = 0
        # Column of a block for each voxel in file order; padding reads the block's last column, which is kept at 0.
        self.columns = np.full(geometry.n_voxels, geometry.n_neurons, np.intp)
        self.columns[geometry.disk_voxels] = np.arange(geometry.n_neurons)
        self._steps = None
        if scale is not None:
            self._steps = np.append(1 / np.asarray(scale, np.float32), np.float32(0))[self.columns]
        self._bytes = n_tokens * geometry.n_voxels * self.dtype.itemsize
        self._scratch = np.empty((_ROWS, geometry.n_voxels), np.float32)
        self.part.parent.mkdir(parents=True, exist_ok=True)
        # Unbuffered writes at their final place rather than a writable memory map: as quick, the pages written do not
        # count as this process's memory, and a full disk is an error instead of a crash.
        self.file = open(self.part, "wb", buffering=0)  # noqa: SIM115 - closed by close() or abandon()
        self.file.write(nifti_header(geometry, n_tokens, self.dtype))
        self._reserve()

    def _reserve(self):
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self.file.fileno(), _OFFSET, self._bytes)
            else:
                self.file.truncate(_OFFSET + self._bytes)
        except OSError as error:
            self.abandon()
            raise RecordingError(
                f"{self.path.parent} has no room for a run of {self._bytes / 2**20:.0f} MiB ({error.strerror}). Free "
                "some space, choose another folder, or record fewer layers or tokens."
            ) from error

    def write(self, row, block):
        """Write tokens.

        Parameters
        ----------
        row : int
            Row of the first token in the run.
        block : ndarray of shape (n, n_neurons + 1), float32
            Neurons in flat order, and a last column of zeros.
        """
        for a in range(0, len(block), _ROWS):
            rows = block[a : a + _ROWS]
            ordered = self._scratch[: len(rows)]
            np.take(rows, self.columns, axis=1, out=ordered, mode="clip")  # clip: without it numpy buffers the output
            self._put(row + a, ordered if self._steps is None else self._quantise(ordered))

    def _put(self, row, ordered):
        self.file.seek(_OFFSET + row * ordered[0].nbytes)
        left = memoryview(ordered).cast("B")
        while left:  # one call may write less than it was given
            left = left[self.file.write(left) :]

    def _quantise(self, ordered):
        steps = np.rint(ordered * self._steps)
        self.n_clipped += int(np.count_nonzero(np.abs(steps) > 32767))
        return np.clip(steps, -32767, 32767).astype(self.dtype)

    def close(self):
        """Give the file its name."""
        self.file.close()
        os.replace(self.part, self.path)

    def abandon(self):
        """Remove what was written."""
        self.file.close()
        self.part.unlink(missing_ok=True)
