"""Keeping what an interrupted study has done."""

import hashlib
import time
from pathlib import Path

import numpy as np

from ..files import atomic_path

__all__ = ["Checkpoint"]

SECONDS_BETWEEN = 20.0


class Checkpoint:
    """Sums of losses that are written now and then, and read again by the same study.

    Parameters
    ----------
    path : path-like or None
        A ``.npz`` file; None keeps nothing.
    parts : list of str or bytes
        What makes the study the same: weights, lesions, texts. Another study begins anew.
    shape : tuple of int
    """

    def __init__(self, path, parts, shape):
        self.path = None if path is None else Path(path)
        self.key = _digest(parts) if self.path else ""
        self.sums = np.full(shape, np.nan)
        self._last = time.monotonic()
        if self.path and self.path.is_file():
            with np.load(self.path, allow_pickle=False) as kept:
                if str(kept["key"]) == self.key and kept["sums"].shape == shape:
                    self.sums = kept["sums"]

    def keep(self, sums, now=False):
        """Write the sums if some time has passed."""
        if self.path is None or (not now and time.monotonic() - self._last < SECONDS_BETWEEN):
            return
        with atomic_path(self.path) as part, open(part, "wb") as file:
            np.savez(file, key=self.key, sums=sums)
        self._last = time.monotonic()

    def done(self):
        """Write the sums as they are in the end."""
        self.keep(self.sums, now=True)


def _digest(parts):
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else part)
        digest.update(b"\0")
    return digest.hexdigest()
