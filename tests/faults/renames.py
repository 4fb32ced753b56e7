"""Kills at renames: whatever publishes a result is stopped just before and just after each file gets its name."""

import contextlib
import os
from functools import partial

from attacks import KINDS
from processes import fork
from room import Unclear
from writers import Writer, publishers, read

from llmbrain.files import atomic

KILLED = 137


@contextlib.contextmanager
def at_renames(act):
    """Call ``act(n, "before")`` and ``act(n, "after")`` around the n-th rename or exchange of folders."""
    places = [(os, "replace"), (os, "rename"), (atomic, "_exchange")]
    originals, n = [getattr(*place) for place in places], [0]

    def wrap(original):
        def renamed(*args, **kwargs):
            n[0] += 1
            number = n[0]
            act(number, "before")
            result = original(*args, **kwargs)
            act(number, "after")
            return result

        return renamed

    for (where, name), original in zip(places, originals):
        setattr(where, name, wrap(original))
    try:
        yield n
    finally:
        for (where, name), original in zip(places, originals):
            setattr(where, name, original)


def killed(writer, n, when):
    """Kill a writer at a rename, read what is there, and run the writer again."""
    folder = writer.copy()

    def work():
        with at_renames(lambda k, w: os._exit(KILLED) if (k, w) == (n, when) else None):
            return writer.work(folder)

    code, said = fork(work)
    if code != KILLED:
        raise Unclear(f"was not killed: {code} {said}")
    read(writer.room, writer.name, folder)
    if not writer.name.startswith("record") and "figure" not in writer.name:  # they publish several results
        writer.old_or_new(folder)
    writer.finished(folder)


def count_renames(writer):
    """Number of renames of an undisturbed run."""
    with at_renames(lambda n, when: None) as count:
        writer.work(writer.copy()).worked()
    return count[0]


@KINDS.register("kill at every rename", long=True)
def kills_at_renames(room, names=None):
    """The process ends before, or right after, the n-th time that a file gets its name; then others read it."""
    for name, (work, earlier) in publishers(room).items():
        for options in (None, earlier)[: 1 + (earlier is not None)] if names is None or name in names else ():
            writer = Writer(room, name, work, options)
            for n in range(1, count_renames(writer) + 1):
                for when in ("before", "after"):
                    yield f"{name} over {writer.earlier}: {when} rename {n}", partial(killed, writer, n, when)
