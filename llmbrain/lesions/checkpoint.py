"""Checkpoints of interrupted studies."""

import functools
import hashlib
import re
import time
import types
import uuid
import warnings
import zipfile
from pathlib import Path

import numpy as np

from ..exceptions import LLMBrainWarning
from ..files import atomic_path

__all__ = ["Checkpoint", "describe_function"]

SECONDS_BETWEEN = 20.0


class Checkpoint:
    """Finished numbers of a study, written to a ``.npz`` file and read when the same study resumes.

    Parameters
    ----------
    path : path-like or None
        The file; None keeps nothing.
    parts : list of str or bytes
        Identify the study: weights, lesions, texts. Another study starts from the beginning.
    task : str, optional
        Name of a task that has its own file next to ``path``.

    Attributes
    ----------
    found : ndarray or None
        The numbers of the same study, as far as they were finished.
    """

    def __init__(self, path, parts, task=None):
        self.path = None if path is None else Path(path)
        if self.path is not None and task is not None:
            self.path = self.path.with_name(f"{self.path.stem}.{re.sub('[^0-9A-Za-z_]+', '-', task)}.npz")
        self.key = _digest(parts) if self.path else ""
        self.found = _read(self.path, self.key)
        self._last = time.monotonic()

    def keep(self, numbers, now=False):
        """Write the finished numbers, unless they were written a short time ago and ``now`` is false."""
        if self.path is None or (not now and time.monotonic() - self._last < SECONDS_BETWEEN):
            return
        with atomic_path(self.path) as part, open(part, "wb") as file:
            np.savez(file, key=self.key, numbers=numbers)
        self._last = time.monotonic()


def describe_function(function):
    """Describe a function by its code, defaults and closure, to recognise it in another process.

    Functions that it calls are not included. A function that cannot be described gets a text that never matches.
    """
    text = _describe(function)
    return text + uuid.uuid4().hex if " at 0x" in text else text


def _describe(thing):
    if isinstance(thing, functools.partial):
        return f"partial {_describe(thing.func)} {_describe(thing.args)} {_describe(thing.keywords)}"
    if isinstance(thing, types.CodeType):
        consts = [_describe(c) for c in thing.co_consts]
        return f"{thing.co_name} {thing.co_code.hex()} {thing.co_names} {consts}"
    if isinstance(thing, types.FunctionType):
        enclosed = [_describe(cell.cell_contents) for cell in thing.__closure__ or ()]
        given = _describe(thing.__defaults__), _describe(thing.__kwdefaults__)
        return f"{thing.__module__}.{thing.__qualname__} {_describe(thing.__code__)} {given} {enclosed}"
    if isinstance(thing, np.ndarray):
        return f"{thing.dtype} {thing.shape} {hashlib.sha256(np.ascontiguousarray(thing).tobytes()).hexdigest()}"
    if isinstance(thing, (list, tuple)):
        return f"{type(thing).__name__}[{', '.join(map(_describe, thing))}]"
    if isinstance(thing, dict):
        return f"{{{', '.join(f'{k!r}: {_describe(v)}' for k, v in thing.items())}}}"
    return repr(thing)


def _read(path, key):
    """Read the array that was written under this key, or return None."""
    if path is None or not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as kept:
            return kept["numbers"] if str(kept["key"]) == key else None
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        warnings.warn(
            f"{path} is damaged ({error}); the study starts from the beginning.", LLMBrainWarning, stacklevel=4
        )
        return None


def _digest(parts):
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else part)
        digest.update(b"\0")
    return digest.hexdigest()
