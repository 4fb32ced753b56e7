"""The command line: one command per station, and one for the whole path."""

import errno
import os
import sys
import time
import traceback
import warnings

import typer

from ..exceptions import LLMBrainError, LLMBrainWarning, ParameterError
from .app import app

__all__ = ["app", "main"]

INTERRUPTED = 130
_HEAD_START = 1.0  # seconds for the first process to say what is wrong: torchrun stops all when one ends
USAGE_ERROR = typer.BadParameter.__mro__[2]  # click's ClickException, which typer does not export
_FULL = "Free some space, or choose another disk; then repeat the command."
_DENIED = "Choose a place that you may read and write, or change its permissions; then repeat the command."
_REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO), _FULL),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), _DENIED),
}
_WRONG_PATHS = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP)


def main(args=None):
    """Run the command line. An error is one sentence, with ``--debug`` after its traceback.

    The exit code is 0 for success, 2 for wrong input, 130 for an interruption and 1 for anything unexpected.
    """
    args = list(sys.argv[1:] if args is None else args)
    debug = "--debug" in args
    if debug:  # accepted anywhere on the line
        args = [a for a in args if a != "--debug"]
    try:
        _check_here()
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            code = app([*["--debug"] * debug, *(args or ["--help"])], standalone_mode=False)
        if sys.stdout is not None:  # else it was closed
            sys.stdout.flush()
    except SystemExit:  # from click, if what reads the output has ended
        code = 1
        typer.echo(f"{_speaker()}: nobody reads the output any more. Finished parts are kept.", err=True)
    except Exception as error:
        code, message = _explain(error)
        if debug and code != INTERRUPTED:
            traceback.print_exc()
        typer.echo(f"{_speaker()}: {message}", err=True)
    except KeyboardInterrupt:
        code = INTERRUPTED
    if code == INTERRUPTED:  # typer turns Ctrl-C into this value and prints nothing
        message = "interrupted. Finished parts are kept; repeat the command to resume."
        typer.echo(f"{_speaker()}: {message}", err=True)
    if code:
        if _number() not in ("", "0"):
            time.sleep(_HEAD_START)
        sys.exit(code)


def _check_here():
    """Refuse a current folder that was removed: libraries would fail in it, some without a Python error."""
    try:
        os.getcwd()
    except FileNotFoundError:
        raise ParameterError("The current folder was removed. Change to another folder, and repeat.") from None


def _number():
    """Number of this process as the launcher gives it, or an empty text."""
    env = os.environ
    return env.get("RANK", "") if env.get("WORLD_SIZE", "1") != "1" else ""


def _speaker():
    """Name of the program, with the number of the process if there are several."""
    return f"llmbrain, process {int(_number()) + 1}" if _number().isdecimal() else "llmbrain"


def _explain(error):
    """Exit code and sentence of an error."""
    if isinstance(error, LLMBrainError):
        return 2, str(error)
    if isinstance(error, typer.Exit):
        return error.exit_code, ""
    if isinstance(error, typer.Abort):
        # typer turns an EOFError into this: a file that ends too early
        return 2, f"a file is damaged: {error.__cause__ or 'it ends too early'}. Restore it, or make it again."
    if isinstance(error, USAGE_ERROR):
        return 2, f"{error.format_message()} (see --help)"
    if isinstance(error, OSError):
        where = f"{os.fspath(error.filename)}: " if error.filename else _full_stream()
        if error.errno in _WRONG_PATHS:
            return 2, f"{where}{error.strerror}. Choose another path."
        remedy = _REMEDIES.get(error.errno, "Repeat the command once this is solved.")
        return 1, f"{where}{error.strerror or error}. {remedy} Finished parts are kept."
    what = f"{type(error).__name__}: {error}".strip().rstrip(".")
    return 1, f"unexpected {what}. Repeat the command with --debug to see where."


def _full_stream():
    """Name of the output that cannot be written, as the beginning of a message; an empty text if both can."""
    for name, stream in {"standard output": sys.stdout, "standard error": sys.stderr}.items():
        try:
            stream.write("\n")  # what failed before is no longer in the buffer
            stream.flush()
        except OSError:
            return f"{name}: "
        except (AttributeError, ValueError):  # closed
            continue
    return ""


def _show_warning(message, category, *_where, **_more):
    """Show a warning as a sentence, without the line of code."""
    name = "llmbrain" if issubclass(category, LLMBrainWarning) else category.__name__
    typer.echo(f"{name}: {message}", err=True)
