"""Outputs that replace only earlier outputs of the same kind."""

import hashlib
import os
from pathlib import Path

from ..exceptions import ParameterError
from .contents import read_json, write_json
from .keyhashes import with_hashes
from .leftovers import recover
from .paths import as_path

_BLOCK, _BLOCKS = 4096, 64  # of a file, to see whether it has changed
_FIGURE_HEADS = (b"Matplotlib", b"%PDF-1.4\n%\xac\xdc \xab\xba")  # PNG, SVG and PostScript; PDF


def mark_folder(folder, marker, obj):
    """Write ``obj`` and the files of a folder as JSON, so that :func:`check_output_folder` recognises it."""
    folder = Path(folder)
    files = {p.relative_to(folder).as_posix(): sample_hash(p) for p in sorted(folder.rglob("*")) if not p.is_dir()}
    return write_json(folder / marker, with_hashes({**obj, "files": files}))


def sample_hash(path):
    """Hash the size and 64 evenly spaced blocks of a file, the last one included: what :func:`mark_folder` lists."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        for k in range(_BLOCKS):
            file.seek(max(size - _BLOCK, 0) * k // (_BLOCKS - 1))
            digest.update(file.read(_BLOCK))
    return digest.hexdigest()[:16]


def check_apart(path, inputs, around=True):
    """Refuse an output that is an input or lies in one: the next run would read it.

    Parameters
    ----------
    path : path-like
    inputs : sequence
        Files and folders that are read; names of anything else, such as ``"demo"``, are ignored.
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
        The folder to write. It may be missing, empty, or written with :func:`mark_folder` and unchanged since: files
        that were added, exchanged or edited are not replaced.
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
    path = as_path(path)
    if not path.name:
        raise ParameterError(f"The output folder {str(path)!r} has no name of its own. Choose a named folder.")
    if path.parent.is_dir():
        recover(path)
    check_apart(path, inputs)
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise ParameterError(f"The output {path} exists and is not a folder. Choose another folder.")
    if path.is_dir() and any(path.iterdir()):
        own = _marked_files(path / marker)
        for file in sorted(p for p in path.rglob("*") if p.is_symlink() or not p.is_dir()):
            name = file.relative_to(path).as_posix()
            if name != marker and name not in own:
                raise ParameterError(
                    f"The folder {path} holds {name}, which is not part of an earlier output of this kind. "
                    "It is not replaced. Choose another folder."
                )
            if file.is_symlink() or (name != marker and sample_hash(file) != own[name]):
                raise ParameterError(
                    f"The folder {path} holds {name}, which has changed since it was written. It is not replaced. "
                    "Choose another folder."
                )
    return path


def _file_or_free(path):
    """The path, if a file is there or nothing."""
    path = as_path(path)
    if path.exists() and not path.is_file():
        raise ParameterError(f"The output {path} is not a file, so it is not replaced. Choose another file.")
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
    path = _file_or_free(path)
    if not path.exists():
        return path
    with open(path, encoding="utf-8", errors="replace") as file:
        header = file.readline(100_000).rstrip("\n").split("\t")
    missing = [name for name in columns if name not in header]
    if missing:
        raise ParameterError(
            f"The file {path} has no column {missing[0]!r}, so it is not an earlier output of this kind. It is not "
            "replaced. Choose another file."
        )
    return path


def check_output_figure(path):
    """Refuse a figure that would replace anything but a figure that Matplotlib has drawn.

    Parameters
    ----------
    path : path-like
        The file to write. It may be missing, empty, or a figure that Matplotlib wrote as PNG, SVG, PDF or PostScript.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    ParameterError
    """
    return check_output_head(path, _FIGURE_HEADS, "a figure that Matplotlib has drawn")


def check_output_head(path, heads, what):
    """Refuse an output file that exists, is not empty, and has none of some texts (bytes) in its first 2,000 bytes."""
    path = _file_or_free(path)
    if path.exists() and path.stat().st_size:
        with open(path, "rb") as file:
            head = file.read(2000)
        if not any(known in head for known in heads):
            raise ParameterError(f"The file {path} is not {what}; it is not replaced. Choose another file.")
    return path


def _marked_files(path):
    """Return the files that a marker lists, with their hashes; none if there is no readable marker."""
    try:
        found = read_json(path)
    except (OSError, ValueError):
        return {}
    files = found.get("files") if isinstance(found, dict) else None
    return files if isinstance(files, dict) else {}
