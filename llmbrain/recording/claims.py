"""Keeping processes that record into one folder apart."""

import contextlib
import os

__all__ = ["claim"]

try:
    import fcntl
except ImportError:  # Windows: one process at a time
    fcntl = None


@contextlib.contextmanager
def claim(path):
    """Claim a piece of work; yields whether it was free.

    A lock of the operating system on an empty file: it ends with its process, however that dies, so that a killed
    recording never leaves a claim behind.

    Parameters
    ----------
    path : path-like
        The file to lock. Made if needed; it may be left behind, and means nothing without a process that holds it.
    """
    if fcntl is None:
        yield True
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_CREAT | os.O_RDWR)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True
    finally:
        os.close(file)
