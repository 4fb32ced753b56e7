"""A file that many threads fill at once, through a memory map whose pages do not stay in the process.

Used only on CUDA, where files are the bottleneck. Measured with a 7B-shaped model on an H200 and 16 cores
(``benchmarks/RESULTS.md``): 16 threads write 2 to 4 GiB/s into one file with ``pwrite``, 4 GiB/s through a map of small
pages and 14.8 GiB/s through one of large pages; a recording of one run at a time reaches 29 % of the speed of the plain
forward pass instead of 5 to 11 %. From four files at once (``cuda._FEW``), ``pwrite`` is as fast.
"""

import ctypes
import errno
import mmap
import os

import numpy as np

_POPULATE_WRITE = 23  # Linux 5.14: allocate the pages at once, and fail if there is no room


class MappedFile:
    """Write pieces of a file of known size, open for reading and writing, from several threads at a time.

    The system locks a file for each write call, but any number of threads can fill the pages of its map. The pages of a
    piece are allocated in one call, so that a full disk raises an error instead of killing the process with a signal,
    and are released when the piece is written, so that they do not count as memory of this process. Large pages are
    requested; file systems without them ignore the request. An instance is false where the system cannot do this (other
    than Linux, or a file system without writable maps).
    """

    def __init__(self, descriptor, size):
        self._descriptor, self._map = descriptor, None
        advise = _advise()
        if advise is None or not size:
            return
        try:
            self._map = mmap.mmap(descriptor, size)
        except OSError:
            return
        self._advise, self._size = advise, size
        self._bytes = np.frombuffer(self._map, np.uint8)
        self._address = self._bytes.ctypes.data
        self._try(0, size, getattr(mmap, "MADV_HUGEPAGE", 14))

    def __bool__(self):
        return self._map is not None

    def write(self, place, array):
        """Copy an array into the file, ``place`` bytes from its beginning.

        Raises
        ------
        OSError
            If the disk is full.
        """
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        begin = place - place % mmap.PAGESIZE
        end = min(-(-(place + len(data)) // mmap.PAGESIZE) * mmap.PAGESIZE, self._size)
        self._make_pages(begin, end)
        np.copyto(self._bytes[place : place + len(data)], data)
        self._try(begin, end, mmap.MADV_DONTNEED)  # of a shared map: the file keeps what was written

    def close(self):
        """Unmap the file."""
        if self._map is not None:
            self._bytes = None
            self._map.close()
            self._map = None

    def _make_pages(self, begin, end):
        error = self._try(begin, end, _POPULATE_WRITE)
        if error in (errno.EFAULT, errno.ENOMEM):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if error:  # an older system: reserve the space; pages are then allocated one by one
            os.posix_fallocate(self._descriptor, begin, end - begin)

    def _try(self, begin, end, advice):
        """Advise the system about a part of the map; return 0 or the error number."""
        return 0 if self._advise(self._address + begin, end - begin, advice) == 0 else ctypes.get_errno()


def _advise():
    """The system's ``madvise``, which unlike Python's own lets other threads run; None if there is none."""
    if not hasattr(mmap, "MADV_DONTNEED") or not hasattr(os, "posix_fallocate"):
        return None
    try:
        advise = ctypes.CDLL(None, use_errno=True).madvise
    except (OSError, AttributeError):
        return None
    advise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return advise
