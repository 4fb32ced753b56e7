"""The last lines of a command: what it wrote, and which command comes next."""

import os
import shlex
from pathlib import Path

import typer

__all__ = ["end", "shell"]


def shell(*words):
    """Join words into a command line that can be pasted into a shell.

    Examples
    --------
    >>> shell("llmbrain", "report", "my study")
    "llmbrain report 'my study'"
    """
    return shlex.join(map(str, words))


def end(wrote, *then):
    """Print what a command wrote and the next command.

    Parameters
    ----------
    wrote : list of path-like
        Files, folders or patterns of files; empty for a command that writes nothing.
    *then : str
        Words of the next command, or one sentence.
    """
    for path in wrote:
        typer.echo(f"Wrote {_short(path)}")
    typer.echo(f"Next: {shell(*then) if len(then) > 1 else then[0]}")


def _short(path):
    """A path relative to the working folder, if it lies in it."""
    try:
        near = os.path.relpath(path)
    except ValueError:  # another drive
        return str(path)
    return str(path) if near.startswith(os.pardir) else str(Path(near))
