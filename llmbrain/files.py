"""Atomic files: each file is written next to its destination and renamed, so an interrupted run damages nothing."""

import contextlib
import ctypes
import errno
import hashlib
import json
import os
import platform
import re
import shutil
import time
import uuid
import zlib
from pathlib import Path

from .exceptions import ParameterError

__all__ = [
    "atomic_dir",
    "atomic_path",
    "check_apart",
    "check_output_folder",
    "check_output_table",
    "discard_leftovers",
    "fill",
    "mark_folder",
    "publish",
    "read_json",
    "read_tsv",
    "save_img",
    "sha256",
    "sibling",
    "write_any",
    "write_json",
    "write_text",
    "write_tsv",
]


_HOST = f"{zlib.crc32(platform.node().encode()):08x}"
_DAY = 86400


def publish(part, path):
    """Rename a complete file or folder to its final name; after a power failure the old or the new one is there.

    The bytes are on the disk before the name points to them, and the name is on the disk when this returns.
    """
    part, path = Path(part), Path(path)
    _sync_all(part)
    os.replace(part, path)
    _sync(path.parent)


def _sync_all(path):
    """Wait until a file, or a folder with all that it holds, is on the disk."""
    for inside in path.rglob("*") if path.is_dir() else ():
        _sync(inside)
    _sync(path)


def _sync(path):
    """Wait until a file or the entries of a folder are on the disk, where the system can say so."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EROFS):  # file systems without it
            raise
    finally:
        os.close(descriptor)


def sibling(path, kind="part"):
    """Temporary name next to a path, which tells the process that writes it."""
    # The suffix stays at the end: nibabel and pandas choose the format by it.
    return path.with_name(f".{uuid.uuid4().hex[:8]}-{_HOST}-{os.getpid()}.{kind}.{path.name}")


@contextlib.contextmanager
def atomic_path(path):
    """Yield a temporary :class:`pathlib.Path` next to ``path`` that is renamed to ``path`` if the block succeeds.

    Missing parent folders are created. If the block raises, the temporary file is removed. Leftovers of killed runs are
    removed too.

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
    discard_leftovers([path])
    part = sibling(path)
    try:
        with _naming(path, part):
            yield part
            publish(part, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()


@contextlib.contextmanager
def _naming(path, part):
    """Name ``path`` in errors of the system while ``part`` is written: a full disk names no file."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # numpy says only how many items it could not write
            raise OSError(errno.EIO, f"{error} (is the disk full?)", str(path)) from error
        if not isinstance(error.filename, (str, bytes, os.PathLike)) or str(part) in os.fsdecode(error.filename):
            error.filename = str(path)
        raise
    except Exception as error:  # libraries in Rust have exceptions of their own, with the number in the text
        found = re.search(r"\(os error (\d+)\)", str(error))
        if found is None:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1])), str(path)) from error


@contextlib.contextmanager
def atomic_dir(path):
    """Yield a temporary folder, a :class:`pathlib.Path`, that replaces ``path`` if the block succeeds.

    An existing folder at ``path`` stays intact until the new one is complete. If the block raises, the temporary folder
    is removed. Leftovers of killed runs are removed too.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _recover(path)
    part = sibling(path)
    try:
        with _naming(path, part):
            part.mkdir()
            yield part
            _replace_folder(part, path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _replace_folder(part, path):
    """Put a complete folder in the place of another; what was there before ends up in ``part``, or is deleted."""
    if path.is_dir():
        _sync_all(part)
        if _exchange(part, path):
            return _sync(path.parent)
    old = None
    if path.exists():
        old = sibling(path, "old")
        os.replace(path, old)
    try:
        publish(part, path)
    except BaseException as error:
        if old is not None and not path.exists():
            os.replace(old, path)
        elif isinstance(error, OSError) and error.errno in (errno.ENOTEMPTY, errno.EEXIST) and path.is_dir():
            return _replace_folder(part, path)  # another process has put its own folder there in the meantime
        raise
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)
    return None


def _exchange(one, other):
    """Exchange two folders in one step, so that a kill leaves a whole one; return False if the system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return rename(here, os.fsencode(os.path.abspath(one)), here, os.fsencode(os.path.abspath(other)), exchange) == 0


def _recover(path):
    """Put back a folder that a killed run had moved aside, and delete what killed runs left beside it."""
    for kind, leftover in _leftovers(path):
        if not leftover.is_dir():
            continue
        if kind == "old" and not path.exists():
            os.replace(leftover, path)
        else:
            shutil.rmtree(leftover, ignore_errors=True)


def discard_leftovers(paths):
    """Delete the temporary files that killed processes left beside files."""
    for path in paths:
        for _, leftover in _leftovers(path):
            if not leftover.is_dir():
                with contextlib.suppress(OSError):  # removed by another process, or of another user
                    leftover.unlink()


def _leftovers(path):
    """Temporary files and folders beside a path whose processes have ended, with their kind."""
    left = re.compile(rf"\.[0-9a-f]{{8}}-([0-9a-f]{{8}})-(\d+)\.(part|old)\.{re.escape(path.name)}")
    names = os.listdir(path.parent) if path.parent.is_dir() else []
    found = [(m, path.with_name(name)) for name in names if (m := left.fullmatch(name))]
    return [(m[3], p) for m, p in found if not _may_run(m[1], int(m[2]), p)]


def _may_run(host, pid, leftover):
    """Return whether the process that wrote a folder may still run; of another machine, for one day."""
    if host == _HOST and os.name == "posix":
        if pid == os.getpid():
            return True
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True
    try:
        return time.time() - leftover.stat().st_mtime < _DAY
    except FileNotFoundError:  # its process has just renamed it
        return True


def sha256(path):
    """SHA-256 of a file, as ``sha256sum`` prints it."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)


def _digest(file):
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


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
        _recover(path)
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
        Columns by which an earlier table is recognised.

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


def _plain(value):
    """Convert numpy scalars, arrays and paths to JSON types."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON.")


def write_text(path, text):
    """Write a text file atomically (UTF-8, line feeds)."""
    return write_any(path, text)


def write_json(path, obj):
    """Write ``obj`` as indented JSON, atomically. Numpy values are accepted."""
    return write_any(path, _json_text(obj))


def _json_text(obj):
    text = json.dumps(obj, indent=2, ensure_ascii=False, default=_plain)
    # UTF-8 has no surrogates; they occur alone in file names and damaged texts
    return re.sub("[\ud800-\udfff]", lambda found: f"\\u{ord(found[0]):04x}", text) + "\n"


def read_json(path):
    """Read a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def write_tsv(path, frame):
    """Write a data frame as a BIDS table: tab-separated, with a header line, ``n/a`` for missing values.

    Every row is one line. Characters that would break a line or cannot be written are escaped with a backslash as in
    JSON, a backslash is doubled, and the text ``n/a`` becomes ``n\\/a``. Cells that begin with ``=``, ``+``, ``-`` or
    ``@`` are written as they are: import them as text into a spreadsheet, which would take them for formulas.
    """
    return write_any(path, frame)


def _write_frame(path, frame):
    import pandas as pd

    texts = [k for k in range(frame.shape[1]) if not pd.api.types.is_numeric_dtype(frame.dtypes.iloc[k])]
    columns = [frame.iloc[:, k] for k in range(frame.shape[1])]
    for k in texts:
        columns[k] = pd.Series([_escape(v) for v in columns[k]], index=frame.index, dtype=object)
    escaped = pd.concat(columns, axis=1) if texts else frame
    escaped.columns = [_escape(name) for name in frame.columns]
    escaped.to_csv(path, sep="\t", index=False, na_rep="n/a", lineterminator="\n")


def read_tsv(path, **kwargs):
    """Read a BIDS table written by :func:`write_tsv`.

    Columns of text that may look like numbers need ``dtype={name: str}``.
    """
    import pandas as pd

    options = {"na_values": ["n/a"], "keep_default_na": False, "skip_blank_lines": False, **kwargs}
    frame = pd.read_csv(path, sep="\t", **options)
    for k in range(frame.shape[1]):
        column = frame.iloc[:, k]
        if not pd.api.types.is_numeric_dtype(column.dtype) and any("\\" in v for v in column if isinstance(v, str)):
            texts = [_unescape(v) for v in column]
            try:
                frame.isetitem(k, pd.Series(texts, index=frame.index, dtype=column.dtype))
            except UnicodeEncodeError:  # Arrow's strings hold no lone surrogates
                frame.isetitem(k, pd.Series(texts, index=frame.index, dtype=object))
    frame.columns = [_unescape(name) for name in frame.columns]
    return frame


_UNSAFE = re.compile("[\\\\\x00-\x1f\x7f\x85\u2028\u2029\ufeff\ud800-\udfff]")
_ESCAPED = re.compile(r"\\(?:u([0-9a-f]{4})|([nrt\\/]))")
_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t", "\\": r"\\"}
_LONG = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\", "/": "/"}


def _escape(value):
    """Escape a text for one cell of a table; other values pass through."""
    if not isinstance(value, str):
        return value
    if value == "n/a":
        return r"n\/a"
    return _UNSAFE.sub(lambda found: _SHORT.get(found[0]) or f"\\u{ord(found[0]):04x}", value)


def _unescape(value):
    """Undo :func:`_escape`."""
    if not isinstance(value, str):
        return value
    return _ESCAPED.sub(lambda found: chr(int(found[1], 16)) if found[1] else _LONG[found[2]], value)


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
        _write_frame(path, content)
    elif hasattr(content, "dataobj"):
        import nibabel as nib

        nib.save(content, path)
    else:
        Path(path).write_text(_json_text(content), encoding="utf-8", newline="\n")


def save_img(path, img):
    """Save a NIfTI image atomically."""
    return write_any(path, img)
