"""Temporary files: their names, and what killed runs left behind."""

import contextlib
import os
import platform
import re
import shutil
import time
import uuid
import zlib

_HOST = f"{zlib.crc32(platform.node().encode()):08x}"
_DAY = 86400


def sibling(path, kind="part"):
    """Temporary name next to a path, which tells the process that writes it."""
    # The suffix stays at the end: nibabel and pandas choose the format by it.
    return path.with_name(f".{uuid.uuid4().hex[:8]}-{_HOST}-{os.getpid()}.{kind}.{path.name}")


def recover(path):
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
