"""Atomic files: each file is written next to its destination and renamed, so an interrupted run damages nothing."""

import contextlib
import json
import os
import shutil
import uuid
from pathlib import Path

__all__ = ["atomic_dir", "atomic_path", "read_json", "read_tsv", "save_img", "write_json", "write_text", "write_tsv"]


def _sibling(path):
    # The suffix stays at the end: nibabel and pandas choose the format by it.
    return path.with_name(f".{uuid.uuid4().hex[:8]}.part.{path.name}")


@contextlib.contextmanager
def atomic_path(path):
    """Yield a temporary path next to ``path`` that is renamed to ``path`` if the block succeeds.

    Parameters
    ----------
    path : path-like
        The file to write. Missing parent folders are created.

    Yields
    ------
    pathlib.Path
        The path to write to. The file is removed if the block raises.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> target = pathlib.Path(tempfile.mkdtemp()) / "a.txt"
    >>> with atomic_path(target) as part:
    ...     _ = part.write_text("complete")
    >>> target.read_text()
    'complete'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _sibling(path)
    try:
        yield part
        os.replace(part, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()


@contextlib.contextmanager
def atomic_dir(path):
    """Yield a temporary folder that replaces ``path`` if the block succeeds.

    An existing folder at ``path`` stays intact until the new one is complete.

    Parameters
    ----------
    path : path-like
        The folder to write.

    Yields
    ------
    pathlib.Path
        An empty folder next to ``path``. It is removed if the block raises.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _sibling(path)
    part.mkdir()
    try:
        yield part
        old = None
        if path.exists():
            old = _sibling(path)
            os.replace(path, old)
        try:
            os.replace(part, path)
        except BaseException:
            if old is not None:
                os.replace(old, path)
            raise
        if old is not None:
            shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _plain(value):
    """Convert numpy scalars, arrays and paths to JSON types."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def write_text(path, text):
    """Write a text file atomically (UTF-8, line feeds)."""
    with atomic_path(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")
    return Path(path)


def write_json(path, obj):
    """Write ``obj`` as indented JSON, atomically. Numpy values are accepted."""
    return write_text(path, json.dumps(obj, indent=2, ensure_ascii=False, default=_plain) + "\n")


def read_json(path):
    """Read a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def write_tsv(path, frame):
    """Write a data frame as a BIDS table: tab-separated, with a header line, ``n/a`` for missing values."""
    with atomic_path(path) as part:
        frame.to_csv(part, sep="\t", index=False, na_rep="n/a", lineterminator="\n")
    return Path(path)


def read_tsv(path, **kwargs):
    """Read a BIDS table written by :func:`write_tsv`."""
    import pandas as pd

    return pd.read_csv(path, sep="\t", na_values=["n/a"], keep_default_na=False, **kwargs)


def save_img(path, img):
    """Save a NIfTI image atomically."""
    import nibabel as nib

    with atomic_path(path) as part:
        nib.save(img, part)
    return Path(path)
