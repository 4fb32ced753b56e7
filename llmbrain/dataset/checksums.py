"""Checksums of runs: of every volume while it is recorded, of some volumes or all when a run is checked."""

import hashlib

import numpy as np

SAMPLES = 64  # volumes that the quick check reads; a damaged stretch of 1/64 of the run contains one of them


def volume_sums(volumes):
    """Sum the bytes of each volume of ``(n_tokens, n_voxels)``, as in the file, as whole numbers of 64 bits.

    Sums are of fewer bits if 64 do not divide the size. They wrap around; any changed word changes its sum.

    Examples
    --------
    >>> volume_sums(np.array([[1, 0], [0, 3]], np.int32)).tolist() == [1, 3 << 32]
    True
    """
    volumes = np.ascontiguousarray(volumes)
    width = volumes.shape[1] * volumes.itemsize
    size = next(size for size in (8, 4, 2, 1) if width % size == 0)
    return volumes.view(f"i{size}").sum(axis=1, dtype=np.int64)


def sampled(n_tokens):
    """Numbers of the volumes that the quick check reads, evenly spaced, with the first and the last."""
    return np.unique(np.linspace(0, n_tokens - 1, min(SAMPLES, n_tokens)).round().astype(int))


def checksums(sums):
    """Hash the sums of all volumes of a run, and those of :func:`sampled`: the ``Checksums`` of a sidecar."""
    return {"Sample": hash_sums(sums[sampled(len(sums))]), "All": hash_sums(sums)}


def hash_sums(sums):
    """Hash sums of volumes."""
    return hashlib.sha256(np.ascontiguousarray(sums, "<i8").tobytes()).hexdigest()


def run_hash(sidecar):
    """Short hash of a run and its events, by which results recognise the recording that they were made from."""
    return hashlib.sha256(f"{sidecar['Checksums']['All']} {sidecar['EventsHash']}".encode()).hexdigest()[:16]
