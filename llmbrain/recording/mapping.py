"""A file that many threads fill at once, through a memory map whose pages do not stay in the process."""

import ctypes
import errno
import mmap
import os

import numpy as np

__all__ = ["MappedFile"]

_POPULATE_WRITE = 23  # Linux 5.14: make the pages at once, and say it if there is no room for them


class MappedFile:
    """Write pieces of a file of a fixed size, several threads at a time.

    A system lets one thread at a time write into a file (the file is locked for each call), but any number fill the
    pages of its map. The pages of a piece are made in one call, which turns a full disk into an error instead of the
    signal that ends a process, and are given back when the piece is written, so that they do not count as memory of
    this process. Large pages are asked for where the file system has them: a file in memory is then written several
    times as fast.

    Parameters
    ----------
    descriptor : int
        Of a file open for reading and writing that has its final size already.
    size : int
        Bytes of the file.

    Notes
    -----
    False where the system cannot do this (no Linux, or a file system without writable maps); write otherwise then.
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
        """Copy an array to a place in the file, in bytes from its beginning.

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
        """Let go of the map."""
        if self._map is not None:
            self._bytes = None
            self._map.close()
            self._map = None

    def _make_pages(self, begin, end):
        error = self._try(begin, end, _POPULATE_WRITE)
        if error in (errno.EFAULT, errno.ENOMEM):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if error:  # an older system: claim the room, the pages come one by one
            os.posix_fallocate(self._descriptor, begin, end - begin)

    def _try(self, begin, end, advice):
        """Give the system an advice about a part of the map; returns 0, or the number of the error."""
        return 0 if self._advise(self._address + begin, end - begin, advice) == 0 else ctypes.get_errno()


def _advise():
    """The system's ``madvise``, which unlike Python's own lets other threads run, or None."""
    if not hasattr(mmap, "MADV_DONTNEED") or not hasattr(os, "posix_fallocate"):
        return None
    try:
        advise = ctypes.CDLL(None, use_errno=True).madvise
    except (OSError, AttributeError):
        return None
    advise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return advise
