"""Files and folders that are written next to their destination and renamed."""

import contextlib
import ctypes
import errno
import os
import re
import shutil
from pathlib import Path

from .leftovers import discard_leftovers, recover, sibling
from .paths import as_path


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
    path = as_path(path)
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
    path = as_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    recover(path)
    part = sibling(path)
    try:
        with _naming(path, part):
            part.mkdir()
            yield part
            _open_to_the_same(part)
            _replace_folder(part, path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _open_to_the_same(folder):
    """Let those who may read a new folder read its files: safetensors writes files for their owner alone."""
    if os.name == "posix":
        for file in folder.rglob("*"):
            if file.is_file() and not file.is_symlink():
                file.chmod(file.stat().st_mode | (folder.stat().st_mode & 0o444))


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
