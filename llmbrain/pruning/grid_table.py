"""The table of a grid: its columns, rows of an earlier run, and the shares of several jobs put together."""

import hashlib
import json
from pathlib import Path

from .. import parallel
from ..dataset.checks import read_own, read_table
from ..exceptions import DatasetError
from ..files import as_path, check_output_table, write_tsv

GRID_COLUMNS = (
    "score", "allocation", "compensation", "variant", "ratio", "seed", "perplexity", "ratio_to_dense", "parameters",
    "neurons_removed", "decoder_removed", "total_removed", "minimal_pairs", "context", "test_tokens",
    "calibration_tokens", "calibration_hash", "seconds", "ratio_of", "test_hash", "settings_hash",
    "weights_hash", "bos", "row_hash",
)  # fmt: skip


GRID_KEYS = GRID_COLUMNS[:6]  # columns that identify a row
_TEXTS = (*GRID_COLUMNS[:4], "calibration_hash", *GRID_COLUMNS[-6:])
_REMEDY = "Remove it, or use another file."


def key_of(row):
    """Values that identify a row."""
    return tuple(row[k] for k in GRID_KEYS)


def as_table(rows):
    """Rows as a data frame, each with a hash of its other cells, by which :func:`read_rows` sees edits."""
    import pandas as pd

    return pd.DataFrame([{**row, "row_hash": _hash(row)} for row in rows], columns=list(GRID_COLUMNS))


def _hash(row):
    """Hash of the cells of a row but its seconds, of numbers to twelve digits; ``r`` keeps it a text."""
    cells = [row.get(name) for name in GRID_COLUMNS[:-1] if name != "seconds"]
    cells = ["" if cell is None or cell != cell else cell for cell in cells]
    cells = [cell if isinstance(cell, str) else f"{float(cell):.12g}" for cell in cells]
    return "r" + hashlib.sha256("\t".join(cells).encode()).hexdigest()[:12]


def as_text(rows):
    """Rows as JSON, exact to the last bit."""
    return json.dumps(rows, default=lambda value: value.item())


def first_of_each(rows):
    """Rows without those whose key occurred before; the dense model first."""
    rows = list({key_of(row): row for row in reversed(rows)}.values())[::-1]
    return sorted(rows, key=lambda row: row["score"] != "dense")


def in_order(rows, keys):
    """Rows of several processes in the order of one: other rows of an earlier table first, then those with the keys."""
    place = {key: k for k, key in enumerate(keys)}
    return sorted(first_of_each(rows), key=lambda row: place.get(key_of(row), -1))


def read_rows(out, constants, minimal_pairs=False):
    """Read the rows of an earlier run, and refuse those that differ in ``constants`` (column -> value of all rows).

    With ``minimal_pairs`` rows without minimal pairs are refused too. Returns a list of dicts, empty without a file.
    """
    if not Path(out).is_file():
        return []
    frame = read_table(out, dtype=dict.fromkeys(_TEXTS, str))
    missing = [name for name in GRID_KEYS if name not in frame]
    if missing:
        raise DatasetError(f"{out} has no column {missing[0]!r}: it is not the table of a grid. {_REMEDY}")
    frame = frame.reindex(columns=list(GRID_COLUMNS))
    frame[list(GRID_KEYS[:4])] = frame[list(GRID_KEYS[:4])].fillna("")
    try:
        frame["ratio"], frame["seed"] = frame["ratio"].astype(float), frame["seed"].astype(int)
        changed = [key_of(row) for row in frame.to_dict("records") if row["row_hash"] != _hash(row)]
    except (ValueError, TypeError) as error:
        raise DatasetError(f"{out} is damaged ({error}). {_REMEDY}") from error
    if changed:
        row = ", ".join(str(cell) for cell in changed[0] if cell != "")
        raise DatasetError(f"{out} is damaged: its row {row} has changed since it was written. {_REMEDY}")
    for name, value in constants.items():
        if not (frame[name].astype(str) == str(value)).all():
            raise DatasetError(
                f"{out} holds results with another {name} than this run's ({value}). Results are comparable only "
                "with the same model, calibration, context, evaluation text and kind of ratio. Use another file."
            )
    if minimal_pairs and frame["minimal_pairs"].isna().any():
        raise DatasetError(f"{out} holds results without minimal pairs, which this run requests. Use another file.")
    return frame.to_dict("records")


def _read_note(path):
    """What a share has noted beside its rows: the constants and the keys of the whole table."""
    return read_own(path, "Run that share again, and then merge again.")


def merge_grid(out):
    """Put together the shares of a grid.

    Parameters
    ----------
    out : path-like
        The ``out`` of the shares; their files lie beside it, and are removed.

    Returns
    -------
    pandas.DataFrame
        The table of a single process, except for the seconds.

    Raises
    ------
    DatasetError
        If there are no shares, or some are missing, unfinished or of another grid; the message names them.
    """
    check_output_table(out, GRID_KEYS)
    out, files = as_path(out), parallel.Share.find(out)
    notes = {part: file.with_suffix(".json") for part, file in files.items()}
    noted = {part: _read_note(note) for part, note in notes.items() if note.is_file()}
    parallel.check_complete(noted, out.parent)
    usual = max(noted.values(), key=list(noted.values()).count)
    other = [str(part) for part, one in noted.items() if one != usual]
    if other:
        raise DatasetError(
            f"The shares {', '.join(other)} are of another grid than the others: another model, text or evaluation, or "
            "other recipes. Run them again with the command of the others."
        )
    rows = [row for part in noted for row in read_rows(files[part], usual["constants"])]
    keys = list(map(tuple, usual["keys"]))
    rows = in_order(rows, keys)
    there = set(map(key_of, rows))
    missing = [k for k, key in enumerate(keys) if key not in there]
    if missing:  # stopped by max_seconds
        count = len(noted)
        names = sorted({str(parallel.Share(k % count, count)) for k in missing})
        raise DatasetError(f"The shares {', '.join(names)} lack {len(missing)} rows. Repeat them, and merge again.")
    table = as_table(rows)
    write_tsv(out, table)
    for file in files.values():
        file.unlink()
        file.with_suffix(".json").unlink(missing_ok=True)
    return table
