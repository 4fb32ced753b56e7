"""Kills and interruptions at random moments. Each process is a fork, which starts at once."""

import os
import random
import signal
import time
from functools import partial

from attacks import KINDS, differs
from room import Lost, Unclear, Wrong, command


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
