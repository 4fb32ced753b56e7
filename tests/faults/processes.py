"""Attacks on running processes: kills, interruptions and full disks. Each process is a fork, which starts at once."""

import contextlib
import errno
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from attacks import KINDS, differs
from room import Broken, Lost, Unclear, Wrong, command

KILLED = 137


def fork(work, stop=None):
    """Run ``work()`` in a child process; ``stop(pid)`` may end it. Return its exit status and what it said."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            os.close(read)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            answer = work()
            os.write(write, (answer.err + (repr(answer.error) if answer.error else ""))[-2000:].encode())
            code = answer.code
        finally:
            os._exit(code)
    os.close(write)
    if stop is not None:
        stop(pid)
    with os.fdopen(read, "rb") as pipe:
        said = pipe.read().decode("utf-8", "replace")
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), said


def stations(room, study):
    """Run all commands that make a study, one after the other; stop at the first that fails."""
    for args in room.stations(study):
        answer = command(*args)
        if answer.code or answer.error:
            return answer
    return answer


def resumed(room, study, said=""):
    """Check that the study can be finished, with the results of a run that was never stopped."""
    answer = stations(room, study)
    if answer.code or answer.error:
        raise Lost(f"cannot be resumed: {answer.err or answer.error} (before: {said})")
    if differs(room.study, study):
        raise Wrong(f"{differs(room.study, study)} differs after the run was resumed")
    for path in study.rglob("*"):
        if ".part." in path.name or ".old." in path.name:
            raise Unclear(f"{path.relative_to(study)} is left over")


@KINDS.register("kill -9 at random moments", long=True)
def random_kills(room, n=8, seed=0):
    """A whole study is made, killed at a random moment, and resumed."""
    start = time.perf_counter()
    fork(partial(stations, room, room.fresh()))
    whole = time.perf_counter() - start
    for i in range(n):
        yield f"after {i + 1}/{n}", partial(_stopped, room, random.Random(seed + i).random() * whole, signal.SIGKILL)


@KINDS.register("Ctrl-C at random moments", long=True)
def random_interrupts(room, n=6, seed=1):
    """A whole study is made, interrupted at a random moment, and resumed."""
    start = time.perf_counter()
    fork(partial(stations, room, room.fresh()))
    whole = time.perf_counter() - start
    for i in range(n):
        yield f"after {i + 1}/{n}", partial(_stopped, room, random.Random(seed + i).random() * whole, signal.SIGINT)


def _stopped(room, after, how):
    study = room.fresh()

    def stop(pid):
        time.sleep(after)
        os.kill(pid, how)

    code, said = fork(partial(stations, room, study), stop)
    if how == signal.SIGINT and code not in (0, 130):
        raise Unclear(f"an interruption ended with {code}: {said}")
    if how == signal.SIGINT and code == 130 and "interrupted" not in said:
        raise Unclear(f"no message: {said}")
    resumed(room, study, said)


@KINDS.register("kill -9 at a rename", long=True, most=8)
def kills_at_renames(room):
    """The process ends before, or right after, the n-th time that a file gets its name."""
    total = _count_renames(partial(stations, room, room.fresh()))
    for n in range(1, total + 1):
        for when in ("before", "after"):
            yield f"{when} rename {n} of {total}", partial(_killed_at, room, n, when)
    pruned = partial(_prune_over, room)
    for n in range(1, _count_renames(lambda: pruned(room.fresh("pruned"))) + 1):
        for when in ("before", "after"):
            yield f"prune: {when} rename {n}", partial(_prune_killed_at, room, n, when)


_RENAMES = ("replace", "rename")


def _with_renames(act, work):
    """Call ``act(n)`` before and after each rename, as ``act(n, "before")``, while ``work`` runs."""
    originals, n = {name: getattr(os, name) for name in _RENAMES}, [0]

    def wrap(original):
        def renamed(*args, **kwargs):
            n[0] += 1
            act(n[0], "before")
            result = original(*args, **kwargs)
            act(n[0], "after")
            return result

        return renamed

    for name, original in originals.items():
        setattr(os, name, wrap(original))
    try:
        return work(), n[0]
    finally:
        for name, original in originals.items():
            setattr(os, name, original)


def _count_renames(work):
    return _with_renames(lambda n, when: None, work)[1]


def _killed_at(room, n, when):
    study = room.fresh()
    end = lambda k, w: os._exit(KILLED) if (k, w) == (n, when) else None  # noqa: E731
    code, said = fork(lambda: _with_renames(end, partial(stations, room, study))[0])
    if code != KILLED:
        raise Broken(f"was not killed: {code} {said}")
    resumed(room, study)


def _prune_over(room, out):
    args = ("--text", room.corpus, "--test-text", room.heldout, "--recipe", "flap", "--out", out)
    return command("prune", "--model", room.model, *args)


def _prune_killed_at(room, n, when):
    """A pruned model is replaced by another one; the folder must hold one of them at any time."""
    out = room.fresh("pruned")
    _prune_over(room, out).worked()
    end = lambda k, w: os._exit(KILLED) if (k, w) == (n, when) else None  # noqa: E731
    fork(lambda: _with_renames(end, partial(_prune_over, room, out))[0])
    if not (out / "model.safetensors").is_file():
        raise Lost("the earlier pruned model is gone")
    command("evaluate", out, "--text", room.heldout, "--context", 64).worked()
    _prune_over(room, out).worked()
    if [p.name for p in out.parent.iterdir()] != ["pruned"]:
        raise Unclear(f"left over: {[p.name for p in out.parent.iterdir()]}")


# --------------------------------------------------------------------------------------------------------- full disks
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


def writers(room):
    """Name and command of everything that writes, given a folder to write into; some need a finished study."""
    text = ("--text", room.corpus, "--test-text", room.heldout)
    grid = ("--model", room.model, *text, "--scores", "flap", "--allocations", "uniform",
            "--compensations", "none", "--ratios", "0.2")  # fmt: skip
    found = {args[0]: args for args in room.stations("STUDY")}
    found["record int16"] = room.record("STUDY2", "--storage", "int16")
    found["run"] = ("run", "--model", room.model, "--text", room.corpus, "--out", "RUN", "--quick", "--threshold",
                    1.0, "--n-components", 3)  # fmt: skip
    for kind in ("hetero", "padded", "uniform", "gguf"):
        found[f"prune {kind}"] = ("prune", "--model", room.model, *text, "--recipe", "flap", "--allocation",
                                  "uniform", "--out", "PRUNED", "--format", kind)  # fmt: skip
    found["grid"] = ("grid", *grid, "--out", "grid.tsv")
    found["grid figure"] = ("grid", *grid, "--out", "grid.tsv", "--figure", "grid.png")
    return found


@KINDS.register("full disks", long=True, most=24)
def full_disks(room, sizes=(0, 4096, 20_000, 65_536, 120_000)):
    """Every writer on a disk with little space, which is made larger afterwards."""
    for name, args in writers(room).items():
        for n_bytes in sizes:
            yield f"{name}: {n_bytes} bytes free", partial(_full, room, name, args, n_bytes)


@KINDS.register("files that cannot grow", most=12)
def limited_files(room, sizes=(0, 1000, 20_000)):
    """Every writer where files can have a few bytes only."""
    for name, args in writers(room).items():
        if name == "run":
            continue
        for n_bytes in sizes:
            yield f"{name}: {n_bytes} bytes", partial(_limited, room, name, args, n_bytes)


def _prepare(room, name, folder):
    """Put the study that a command needs into a folder, without what the command writes."""
    if name in ("networks", "lesion", "report"):
        shutil.copytree(room.study, folder / "STUDY")
        patterns = {
            "networks": ("*canica*", "*lesion*", "report*"),
            "lesion": ("*lesion*", "report*"),
            "report": ("report*",),
        }
        for pattern in patterns[name]:
            for path in list((folder / "STUDY").rglob(pattern)):
                path.unlink()


def _placed(args, folder):
    names = ("STUDY", "STUDY2", "RUN", "PRUNED", "grid.tsv", "grid.png")
    return [folder / a if isinstance(a, str) and a in names else a for a in args]


def says_where(code, said, folder):
    """Check the message of a full disk: the path and what to do, no traceback."""
    if code not in (0, 1, 2) or "Traceback" in said or "unexpected" in said or "Error(" in said:
        raise Unclear(f"ended with {code}: {said}")
    if code and (
        str(folder) not in said or not any(word in said for word in ("Free some space", "free some", "another"))
    ):
        raise Unclear(f"does not name the file or what to do: {said}")


def _full(room, name, args, n_bytes):
    folder = room.fresh("disk")
    with small_disk(folder, 64 << 20) as disk:
        if disk is None:
            raise Broken("no file system can be mounted here")
        _prepare(room, name, folder)
        before = {p for p in folder.rglob("*") if p.is_file()}
        used = shutil.disk_usage(folder).used
        _resize(folder, max(used + n_bytes, 4096))
        code, said = fork(lambda: command(*_placed(args, folder)))
        says_where(code, said, folder)
        if code == 0 and n_bytes == 0:
            raise Wrong("nothing could be written, and yet it ended well")
        if any(not p.is_file() for p in before):
            raise Lost(f"{[p.name for p in before if not p.is_file()]} is gone")
        _resize(folder, 64 << 20)
        code, said = fork(lambda: command(*_placed(args, folder)))
        if code:
            raise Lost(f"cannot be resumed: {said}")
        if name in ("record", "networks", "lesion"):
            made = folder / "STUDY"
            missing = differs(made, room.study)
            if missing:
                raise Wrong(f"{missing} differs after the disk was made larger")


def _resize(folder, n_bytes):
    subprocess.run(["mount", "-o", f"remount,size={n_bytes}", str(folder)], check=True, capture_output=True)


def _limited(room, name, args, n_bytes):
    folder = room.fresh("disk")
    folder.mkdir()
    _prepare(room, name, folder)

    def work():
        with limited(n_bytes):
            return command(*_placed(args, folder))

    code, said = fork(work)
    says_where(code, said, folder)
    if code == 0 and n_bytes == 0:
        raise Wrong("nothing could be written, and yet it ended well")
    left = [p for p in folder.rglob("*") if ".part" in p.name and p.is_file() and p.stat().st_size > n_bytes]
    if left:
        raise Unclear(f"left over: {left[0].name}")
    code, said = fork(lambda: command(*_placed(args, folder)))
    if code:
        raise Lost(f"cannot be resumed: {said}")


@KINDS.register("places that cannot be written")
def read_only(room):
    """Studies that may only be read: reading works, output that goes elsewhere works, the rest names the place."""
    for name in ("networks", "lesion", "report", "record"):
        yield f"{name} into a folder without rights", partial(_read_only, room, name)
    yield "report of a read-only study to another file", partial(_report_elsewhere, room)
    yield "networks of a read-only study in memory", partial(_networks_in_memory, room)


def _as_nobody(work):
    """Run as a user without rights, if this one may change that."""

    def dropped():
        if os.getuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        return work()

    return fork(dropped)


def _without_rights(study):
    for path in [study, *study.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    for parent in study.parents[:3]:
        with contextlib.suppress(OSError):
            parent.chmod(0o755)


def _read_only(room, name):
    study = room.copy() if name != "record" else room.fresh("study")
    study.mkdir(exist_ok=True)
    _without_rights(study)
    args = next(args for args in room.stations(study) if args[0] == name)
    code, said = _as_nobody(lambda: command(*args))
    if code not in (1, 2) or str(study) not in said or "unexpected" in said or os.strerror(errno.EACCES) not in said:
        raise Unclear(f"ended with {code}: {said}")


def _report_elsewhere(room):
    from llmbrain.reporting import generate_report

    study = room.copy()
    _without_rights(study)
    out = room.fresh("report.html")
    out.parent.chmod(0o777)
    _elsewhere(lambda: generate_report(study).save(out))
    if not out.is_file():
        raise Broken("no report")


def _networks_in_memory(room):
    from llmbrain import CanICA
    from llmbrain.dataset import open_recording

    study = room.copy()
    _without_rights(study)
    _elsewhere(lambda: CanICA(n_components=2, n_init=1, random_state=0).fit(open_recording(study)).networks_)


def _elsewhere(work):
    from room import Answer

    def quiet():
        try:
            work()
        except Exception as error:
            return Answer(1, "", repr(error))
        return Answer(0, "", "")

    code, said = _as_nobody(quiet)
    if code:
        raise Unclear(said)
