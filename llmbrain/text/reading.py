"""Reading files: UTF-8 text, JSONL, and the data of the package."""

import importlib.util
import json
import os
import stat
from pathlib import Path

from ..exceptions import CorpusError


def data_path(*parts):
    """Locate a file or folder of the data that ships with the package.

    Parameters
    ----------
    *parts : str
        Path below the data folder, such as ``"demo", "train"``.

    Returns
    -------
    path : Path
        In the installed package, or in the checkout beside it.

    Raises
    ------
    CorpusError
        If the data are missing.

    Examples
    --------
    >>> data_path("demo", "train").is_dir()
    True
    """
    spec = importlib.util.find_spec("llmbrain.data")  # None in a checkout that is not installed
    installed = list(spec.submodule_search_locations or []) if spec else []
    candidates = [*map(Path, installed), Path(__file__).resolve().parents[2] / "data"]
    for root in candidates:
        path = root.joinpath(*parts)
        if path.exists():
            return path
    raise CorpusError(
        f"The data file {'/'.join(parts)!r} of llmbrain was not found in "
        f"{' and '.join(str(c) for c in candidates)}. Reinstall the package."
    )


def read_jsonl(path):
    """Read a JSONL file: a list of ``(line number from 1, dict)``; blank lines are allowed, an empty file is not."""
    rows = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise CorpusError(
                f"{path}, line {number}: not valid JSON ({error.msg}). A .jsonl file has one object per line."
            ) from error
        if not isinstance(row, dict):
            raise CorpusError(
                f'{path}, line {number}: a {type(row).__name__} where an object is needed, as in {{"text": "..."}}.'
            )
        rows.append((number, row))
    if not rows:
        raise CorpusError(f'{path} is empty. A .jsonl file has one object per line, as in {{"text": "..."}}.')
    return rows


def read_text(path):
    """Read a UTF-8 text without its byte-order mark and with ``\\n`` as line ends; binary or empty files are errors."""
    try:
        raw = _read_bytes(Path(path))
    except OSError as error:
        raise CorpusError(f"{path} cannot be read: {error.strerror or error}.") from error
    if b"\x00" in raw:
        raise CorpusError(
            f"{path} is not text: byte {raw.index(0)} is NUL (a binary file, or UTF-16). "
            "Use plain text in UTF-8, or remove the file from the folder."
        )
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{path} is not UTF-8 text (byte {error.start} is 0x{raw[error.start]:02x}). "
            "Convert it, for example with: iconv -f latin1 -t utf8"
        ) from error
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not text.strip():
        raise CorpusError(f"{path} is empty ({len(raw)} bytes, only white space).")
    return text


def _read_bytes(path):
    """Content of a file or pipe; devices may never end."""
    mode = path.stat().st_mode
    if not stat.S_ISFIFO(mode):
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise CorpusError(f"{path} is a device or a socket, not a file. Copy the text into a file.")
        return path.read_bytes()
    pipe = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe that nobody writes is empty, and is not waited for
    os.set_blocking(pipe, True)
    with open(pipe, "rb") as file:
        return file.read()


def shorten(value):
    """Represent a value in an error message, in at most 60 characters."""
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."
