"""Full disks, at several moments of everything that writes: a small file system, or files that cannot grow."""

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

from attacks import KINDS
from processes import fork
from room import Broken, Lost, Unclear, Wrong
from writers import Writer, publishers, read

LARGE = 64 << 20


@contextlib.contextmanager
def small_disk(folder, n_bytes):
    """A file system in memory of ``n_bytes`` at ``folder``, or None where it cannot be mounted."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={n_bytes}", "tmpfs", str(folder)], capture_output=True, check=False
    ) if sys.platform == "linux" and os.getuid() == 0 else None  # fmt: skip
    if done is None or done.returncode:
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)


def can_mount(folder):
    """Whether a small file system can be mounted here."""
    with small_disk(folder, 1 << 20) as disk:
        return disk is not None


@contextlib.contextmanager
def limited(n_bytes):
    """Files of at most ``n_bytes`` in this process: the same errors as on a full disk, without a file system."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def _resize(folder, n_bytes):
    subprocess.run(["mount", "-o", f"remount,size={n_bytes}", str(folder)], check=True, capture_output=True)


def says_where(code, said, folder):
    """Check the message of a full disk: the path and what to do, no traceback."""
    if code not in (0, 1, 2) or "Traceback" in said or "unexpected" in said or "Error(" in said:
        raise Unclear(f"ended with {code}: {said}")
    if code and (
        str(folder) not in said or not any(word in said for word in ("Free some space", "free some", "another"))
    ):
        raise Unclear(f"does not name the file or what to do: {said}")


@KINDS.register("full disks", long=True)
def full_disks(room, names=None, parts=(0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98)):
    """Every writer on a disk that is full after a part of what it writes, and is made larger afterwards."""
    for writer in _writers(room, names):
        for part in parts:
            yield f"{writer.name} over {writer.earlier}: full after {part:.0%}", partial(_full, writer, part)


def _writers(room, names):
    for name, (work, earlier) in publishers(room).items():
        if names is None or name in names:
            yield Writer(room, name, work, earlier)


def _full(writer, part):
    with small_disk(writer.room.fresh("disk"), LARGE) as disk:
        if disk is None:
            raise Broken("no file system can be mounted here")
        folder = writer.copy(disk / "files")
        before, used = {p for p in folder.rglob("*") if p.is_file()}, shutil.disk_usage(disk).used
        writer.work(folder).worked()
        needed = shutil.disk_usage(disk).used - used
        shutil.rmtree(folder)
        writer.copy(folder)
        _resize(disk, max(shutil.disk_usage(disk).used + int(part * needed), 4096))
        code, said = fork(partial(writer.work, folder))
        says_where(code, said, disk)
        if code == 0 and part == 0 and needed > 4096:
            raise Wrong("nothing could be written, and yet it ended well")
        gone = [p.name for p in before if not p.is_file()]
        if gone:
            raise Lost(f"{gone} is gone")
        _resize(disk, LARGE)
        read(writer.room, writer.name, folder)
        writer.finished(folder)


@KINDS.register("files that cannot grow", long=True)
def limited_files(room, names=None, sizes=(0, 1000, 10_000, 50_000)):
    """Every writer where files can have a few bytes only."""
    for writer in _writers(room, names):
        for n_bytes in sizes:
            yield f"{writer.name} over {writer.earlier}: {n_bytes} bytes", partial(_limited, writer, n_bytes)


def _limited(writer, n_bytes):
    folder = writer.copy()

    def work():
        with limited(n_bytes):
            return writer.work(folder)

    code, said = fork(work)
    says_where(code, said, folder)
    if code == 0 and n_bytes == 0:
        raise Wrong("nothing could be written, and yet it ended well")
    left = [p for p in folder.rglob("*") if ".part" in p.name and p.is_file() and p.stat().st_size > n_bytes]
    if left:
        raise Unclear(f"left over: {left[0].name}")
    read(writer.room, writer.name, folder)
    writer.finished(folder)
