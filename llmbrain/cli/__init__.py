"""The command line: one command a station, and one for the whole path."""

import sys
import warnings

import typer

from ..exceptions import LLMBrainError, LLMBrainWarning
from .app import app

__all__ = ["app", "main"]


def _say_warning(message, category, *_where, **_more):
    """Warnings as sentences: whoever types a command has no use for the line of code."""
    if issubclass(category, LLMBrainWarning):
        typer.echo(f"llmbrain: {message}", err=True)
    else:
        typer.echo(f"{category.__name__}: {message}", err=True)


def main(args=None):
    """Run the command line; errors of llmbrain are shown without a traceback unless ``--debug`` is given.

    Parameters
    ----------
    args : list of str, optional
        Instead of ``sys.argv[1:]``.
    """
    args = list(sys.argv[1:] if args is None else args)
    debug = "--debug" in args
    if debug:  # accepted anywhere on the line
        args = ["--debug", *(a for a in args if a != "--debug")]
    if not args:
        args = ["--help"]
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _say_warning
            app(args, standalone_mode=False)
    except LLMBrainError as error:
        if debug:
            raise
        typer.echo(f"llmbrain: {error}", err=True)
        sys.exit(2)
    except typer.Exit as leave:
        sys.exit(leave.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        typer.echo("llmbrain: interrupted; what is finished is kept, the same command goes on from there.", err=True)
        sys.exit(130)
    except Exception as error:
        if hasattr(error, "format_message"):  # a usage error of the command line itself
            typer.echo(f"llmbrain: {error.format_message()} (see --help)", err=True)
            sys.exit(2)
        if debug:
            raise
        what = f"{type(error).__name__}: {error}".strip().rstrip(".")
        typer.echo(f"llmbrain: unexpected {what}. The same command with --debug shows where.", err=True)
        sys.exit(1)
