"""Checkpoints of interrupted studies."""

import functools
import hashlib
import os
import re
import time
import types
import uuid
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np

from ..exceptions import DatasetError, LLMBrainWarning
from ..files import atomic_path
from ..parallel import Share, check_complete

SECONDS_BETWEEN = 20.0
_ASIDE = ".aside-"


class Checkpoint:
    """Finished numbers of a study, written to a ``.npz`` file and read when the same study resumes; None keeps nothing.

    ``parts`` identify the study: weights, lesions, texts. Another study starts from the beginning; the unfinished
    numbers of the one before are set aside beside the file, and used when that study is repeated. ``task`` names a
    task that has its own file next to ``path``. With a ``share``, that share is written into a file of its own, and the
    files of all shares are read.

    Attributes: ``found``, the numbers of the same study as far as they were finished, NaN elsewhere; ``finished``
    (bool), which of them were, in the shape that was kept. Both are None for a new study.
    """

    def __init__(self, path, parts, task=None, share=None):
        self.key = "" if path is None else _digest(parts)
        self.found = self.finished = self.path = self._other = None
        if path is not None:
            whole = _with_task(Path(path), task)
            self.path = whole if share is None else share.path(whole)
            for file in (whole, *Share.find(whole).values(), _aside(self.path, self.key)):
                kept = read_checkpoint(file)
                self._take(kept)
                if file == self.path and kept and kept["key"] != self.key and not kept["finished"].all():
                    self._other = kept
        self._last = time.monotonic()

    def _take(self, kept):
        """Add the finished numbers of another file of the same study."""
        if kept is None or kept["key"] != self.key:
            return
        numbers, finished = kept["numbers"], kept["finished"]
        if self.found is None:
            self.found, self.finished = numbers, finished
        elif self.found.shape == numbers.shape:
            self.found = np.where(finished, numbers, self.found)
            self.finished = self.finished | finished

    def keep(self, numbers, finished=None, now=False):
        """Write the finished numbers, unless they were written a short time ago and ``now`` is false.

        ``finished`` has the shape of ``numbers`` or one that is broadcast to it; by default all but NaN are finished.
        """
        if self.path is None or (not now and time.monotonic() - self._last < SECONDS_BETWEEN):
            return
        finished = ~np.isnan(numbers) if finished is None else finished
        self._set_aside()
        with atomic_path(self.path) as part, open(part, "wb") as file:
            np.savez(file, key=self.key, numbers=numbers, finished=finished)
        _aside(self.path, self.key).unlink(missing_ok=True)
        self._last = time.monotonic()

    def _set_aside(self):
        """Rename the unfinished numbers of another study before they are overwritten."""
        if self._other is None:
            return
        aside = _aside(self.path, self._other["key"])
        os.replace(self.path, aside)
        held = f"{self.path} held {np.mean(self._other['finished']):.0%} of another study, which is kept as "
        warnings.warn(f"{held}{aside.name} and goes on when that study is repeated.", LLMBrainWarning, stacklevel=4)
        self._other = None


def check_shares(path, tasks=(None,)):
    """Raise an error unless the shares beside a checkpoint belong together and are complete.

    Parameters
    ----------
    path : path-like
        The checkpoint of the whole study.
    tasks : sequence of str or None
        Names of the tasks that have their own files; None for the tasks on texts.

    Raises
    ------
    DatasetError
        The message names the shares that are missing, unfinished or of another study.
    """
    for task in tasks:
        whole = _with_task(Path(path), task)
        kept = {share: read_checkpoint(file) for share, file in Share.find(whole).items()}
        check_complete(kept, whole.parent)
        keys = {share: None if one is None else one["key"] for share, one in kept.items()}
        usual = max(keys.values(), key=list(keys.values()).count)
        other = [str(share) for share, key in keys.items() if key != usual]
        if other:
            raise DatasetError(
                f"The shares {', '.join(other)} are of another study than the others: other networks, texts, options "
                "or weights, or a damaged file. Run them again with the command of the others."
            )
        finished = np.logical_or.reduce(
            [np.broadcast_to(one["finished"], one["numbers"].shape) for one in kept.values()]
        )
        if not finished.all():
            raise DatasetError(
                f"{np.mean(~finished):.1%} of the values are missing. Repeat the shares that were interrupted; if none "
                "was, they ran on GPUs of different memory, which form other batches: set max_batch_tokens."
            )


def remove_checkpoints(path):
    """Remove the files of a finished study, of all its tasks and shares, but not what was set aside of others."""
    path = Path(path)
    for left in path.parent.glob(f"{path.stem}*"):
        if _ASIDE not in left.name:
            left.unlink(missing_ok=True)


def _aside(path, key):
    return path.with_name(f"{path.stem}{_ASIDE}{key[:12]}{path.suffix}")


def _with_task(path, task):
    return path if task is None else path.with_name(f"{path.stem}.{re.sub('[^0-9A-Za-z_]+', '-', task)}.npz")


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


def read_checkpoint(path):
    """Read ``key``, ``numbers`` and ``finished`` of a file; None if it is missing or damaged."""
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as kept:
            return {"key": str(kept["key"]), "numbers": kept["numbers"], "finished": kept["finished"]}
    except (ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        message = f"{path} is damaged ({error}); the study starts from the beginning."
        warnings.warn(message, LLMBrainWarning, stacklevel=5)
        return None


def _digest(parts):
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else part)
        digest.update(b"\0")
    return digest.hexdigest()
