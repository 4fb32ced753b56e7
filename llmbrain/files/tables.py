"""Tables as BIDS wants them, in which every text survives."""

import re
from pathlib import Path

from .atomic import atomic_path

_UNSAFE = re.compile("[\\\\\x00-\x1f\x7f\x85\u2028\u2029\ufeff\ud800-\udfff]")
_ESCAPED = re.compile(r"\\(?:u([0-9a-f]{4})|([nrt\\/]))")
_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t", "\\": r"\\"}
_LONG = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\", "/": "/"}


def write_tsv(path, frame):
    """Write a data frame as a BIDS table: tab-separated, with a header line, ``n/a`` for missing values.

    Every row is one line. Characters that would break a line or cannot be written are escaped with a backslash as in
    JSON, a backslash is doubled, and the text ``n/a`` becomes ``n\\/a``. Cells that begin with ``=``, ``+``, ``-`` or
    ``@`` are written as they are: import them as text into a spreadsheet, which would take them for formulas.
    """
    with atomic_path(path) as part:
        fill_table(part, frame)
    return Path(path)


def fill_table(path, frame):
    """Write a data frame as :func:`write_tsv` does; not atomic."""
    import pandas as pd

    texts = [k for k in range(frame.shape[1]) if not pd.api.types.is_numeric_dtype(frame.dtypes.iloc[k])]
    columns = [frame.iloc[:, k] for k in range(frame.shape[1])]
    for k in texts:
        columns[k] = pd.Series([_escape(v) for v in columns[k].tolist()], index=frame.index, dtype=object)
    escaped = pd.concat(columns, axis=1) if texts else frame
    escaped.columns = [_escape(name) for name in frame.columns]
    escaped.to_csv(path, sep="\t", index=False, na_rep="n/a", lineterminator="\n")


def read_tsv(path, **kwargs):
    """Read a BIDS table written by :func:`write_tsv`.

    Columns of text that may look like numbers need ``dtype={name: str}``.
    """
    import pandas as pd

    options = {"na_values": ["n/a"], "keep_default_na": False, "skip_blank_lines": False, **kwargs}
    frame = pd.read_csv(path, sep="\t", **options)
    for k in range(frame.shape[1]):
        column = frame.iloc[:, k]
        if not pd.api.types.is_numeric_dtype(column.dtype) and any("\\" in v for v in column if isinstance(v, str)):
            texts = [_unescape(v) for v in column]
            try:
                frame.isetitem(k, pd.Series(texts, index=frame.index, dtype=column.dtype))
            except UnicodeEncodeError:  # Arrow's strings hold no lone surrogates
                frame.isetitem(k, pd.Series(texts, index=frame.index, dtype=object))
    frame.columns = [_unescape(name) for name in frame.columns]
    return frame


def _escape(value):
    """Escape a text for one cell of a table; other values pass through."""
    if not isinstance(value, str):
        return value
    if value == "n/a":
        return r"n\/a"
    if value.isprintable() and "\\" not in value:  # nothing to escape, found three times as fast
        return value
    return _UNSAFE.sub(lambda found: _SHORT.get(found[0]) or f"\\u{ord(found[0]):04x}", value)


def _unescape(value):
    """Undo :func:`_escape`."""
    if not isinstance(value, str):
        return value
    return _ESCAPED.sub(lambda found: chr(int(found[1], 16)) if found[1] else _LONG[found[2]], value)
