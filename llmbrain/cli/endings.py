"""The last lines of a command: what it wrote, and which command comes next."""

import itertools
import os
import shlex
from pathlib import Path

import typer


def shell(*words):
    """Join words into a command line that can be pasted into a shell.

    Examples
    --------
    >>> shell("llmbrain", "report", "my study")
    "llmbrain report 'my study'"
    """
    return shlex.join(map(str, words))


def end(wrote, *then):
    """Print what a command wrote (files, folders or patterns) and the next command.

    ``then`` holds the words of the next command, or one sentence. A study among them becomes its folder and, where
    others lie beside it, the options that choose it.
    """
    for path in wrote:
        typer.echo(f"Wrote {_short(path)}")
    typer.echo(f"Next: {shell(*itertools.chain.from_iterable(map(_words, then))) if len(then) > 1 else then[0]}")


def _words(part):
    """Words of one part of a command."""
    from ..dataset import Study, find_studies

    if not isinstance(part, Study):
        return [part]
    labels = {"--subject": part.subject, "--session": part.session} if len(find_studies(part.root)) > 1 else {}
    return [part.root, *(word for option, label in labels.items() if label for word in (option, label))]


def _short(path):
    """A path relative to the working folder, if it lies in it."""
    try:
        near = os.path.relpath(path)
    except ValueError:  # another drive
        return str(path)
    return str(path) if near.startswith(os.pardir) else str(Path(near))
