"""Paths that users give."""

import os
from pathlib import Path

from ..exceptions import ParameterError, ParameterTypeError


def as_path(path):
    """Turn what a user gave as a path into a :class:`pathlib.Path`; refuse what cannot be one.

    Examples
    --------
    >>> as_path("study").name
    'study'
    """
    if not isinstance(path, (str, os.PathLike)) or not isinstance(os.fspath(path), str):
        raise ParameterTypeError(f"{path!r} is not a path. Pass the name of a file or folder as text or pathlib.Path.")
    text = os.fspath(path)
    if not text.strip() or "\0" in text:
        what = "holds a NUL character" if "\0" in text else "is empty"
        raise ParameterError(f"The path {text[:80]!r} {what}. Name a file or a folder.")
    return Path(path)
