"""Outputs that replace only earlier outputs of the same kind."""

import os
from pathlib import Path

from ..exceptions import ParameterError
from .contents import read_json, write_json
from .leftovers import recover

__all__ = ["check_apart", "check_output_folder", "check_output_table", "mark_folder"]


def mark_folder(folder, marker, obj):
    """Write ``obj`` and a list of a folder's files as JSON, so that :func:`check_output_folder` recognises it."""
    folder = Path(folder)
    files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir())
    return write_json(folder / marker, {**obj, "files": files})


def check_apart(path, inputs, around=True):
    """Refuse an output that is an input or lies in one: the next run would read it.

    Parameters
    ----------
    path : path-like
    inputs : sequence
        Files and folders that are read; names of anything else, such as ``"demo"``, are passed over.
    around : bool
        Whether the output may not contain an input either, because it is replaced as a whole.

    Raises
    ------
    ParameterError
    """
    for source in inputs:
        if isinstance(source, (str, os.PathLike)) and str(source) not in ("", "demo") and os.path.exists(source):
            one, other = Path(source).resolve(), Path(path).resolve()
            if one == other or one in other.parents or (around and other in one.parents):
                raise ParameterError(f"The output {path} overlaps the input {source}. Choose another place.")


def check_output_folder(path, marker, inputs=()):
    """Refuse an output folder that holds anything but an earlier output of the same kind.

    Parameters
    ----------
    path : path-like
        The folder to write. It may be missing, empty, or written with :func:`mark_folder` and unchanged since.
    marker : str
        Name of the JSON file that marks the kind of output.
    inputs : sequence of path-like
        Files and folders that are read. The output may not be one of them, lie in one, or contain one.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    ParameterError
        If the folder overlaps an input or holds other files.
    """
    path = Path(path)
    if not path.name:
        raise ParameterError(f"The output folder {str(path)!r} has no name of its own. Choose a named folder.")
    if path.parent.is_dir():
        recover(path)
    check_apart(path, inputs)
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise ParameterError(f"The output {path} exists and is not a folder. Choose another folder.")
    if path.is_dir() and any(path.iterdir()):
        own = _marked_files(path / marker) | {marker}
        foreign = sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_symlink() or not p.is_dir())
        foreign = [name for name in foreign if name not in own]
        if foreign:
            raise ParameterError(
                f"The folder {path} holds {foreign[0]}, which is not part of an earlier output of this kind. "
                "It is not replaced. Choose another folder."
            )
    return path


def check_output_table(path, columns):
    """Refuse an output file that is anything but an earlier table of the same kind.

    Parameters
    ----------
    path : path-like
        The file to write. It may be missing, or a table written with :func:`write_tsv`.
    columns : sequence of str
        Columns that an earlier table must have.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    ParameterError
    """
    path = Path(path)
    if not path.exists():
        return path
    if not path.is_file():
        raise ParameterError(f"The output {path} is no file; it is not replaced. Choose another file.")
    with open(path, encoding="utf-8", errors="replace") as file:
        header = file.readline(100_000).rstrip("\n").split("\t")
    missing = [name for name in columns if name not in header]
    if missing:
        raise ParameterError(
            f"The file {path} has no column {missing[0]!r}, so it is no earlier output of this kind; it is not "
            "replaced. Choose another file."
        )
    return path


def _marked_files(path):
    """Return the files that a marker lists; none if there is no readable marker."""
    try:
        found = read_json(path)
    except (OSError, ValueError):
        return set()
    files = found.get("files") if isinstance(found, dict) else None
    return {f for f in files if isinstance(f, str)} if isinstance(files, list) else set()
