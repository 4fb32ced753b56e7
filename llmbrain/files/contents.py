"""Texts, JSON, tables and images: the kind of content decides the format of the file."""

import hashlib
import json
import os
import re
from pathlib import Path

from .atomic import atomic_path
from .tables import fill_table


def write_any(path, content):
    """Write a file atomically, see :func:`fill`; returns its path."""
    with atomic_path(path) as part:
        fill(part, content)
    return Path(path)


def fill(path, content):
    """Write a text as it is, a data frame as a table, an image, or any other object as JSON; not atomic.

    Parameters
    ----------
    path : path-like
        Of an image, the end of its name decides the format.
    content : str, pandas.DataFrame, image, or object that JSON can hold
    """
    if isinstance(content, str):
        Path(path).write_text(content, encoding="utf-8", newline="\n")
    elif hasattr(content, "to_csv"):
        fill_table(path, content)
    elif hasattr(content, "dataobj"):
        import nibabel as nib

        nib.save(content, path)
    else:
        Path(path).write_text(_json_text(content), encoding="utf-8", newline="\n")


def write_text(path, text):
    """Write a text file atomically (UTF-8, line feeds)."""
    return write_any(path, text)


def write_json(path, obj):
    """Write ``obj`` as indented JSON, atomically. Numpy values are accepted."""
    return write_any(path, _json_text(obj))


def read_json(path):
    """Read a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def as_read(obj):
    """What :func:`read_json` returns of an object that :func:`write_json` has written."""
    return json.loads(_json_text(obj))


def save_img(path, img):
    """Save a NIfTI image atomically."""
    return write_any(path, img)


def _json_text(obj):
    text = json.dumps(obj, indent=2, ensure_ascii=False, default=_plain)
    # UTF-8 has no surrogates; they occur alone in file names and damaged texts
    return re.sub("[\ud800-\udfff]", lambda found: f"\\u{ord(found[0]):04x}", text) + "\n"


def _plain(value):
    """Convert numpy scalars, arrays and paths to JSON types."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON.")


def sha256(path):
    """SHA-256 of a file, as ``sha256sum`` prints it."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
