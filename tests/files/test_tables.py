"""Tables in which every text survives."""

import numpy as np
import pandas as pd
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmbrain.files import read_tsv, write_tsv

HOSTILE = [
    "", " ", "n/a", "N/A", "nan", "NaN", "None", "null", "\r", "\n", "\r\n", "a\tb", '"', '""', "'", '"a', "\\", "\\n",
    "\\\\", "n\\/a", "\\u000a", "=1+1", "+1", "-1", "@x", "#", "1", "007", "1e5", "True", "inf", "\x00", "\x0b", "\x1c",
    "\x85", "\u2028", "\ufeff", "\ud800", "\udfff", "\udc80", "é", "日本", "👩‍👩‍👧", "<script>", "a,b;c", "\u202e",
]  # fmt: skip
TEXT = st.text(st.characters(exclude_categories=()), max_size=8) | st.sampled_from(HOSTILE)


@given(rows=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=8))
@example(rows=[(a, b) for a in HOSTILE for b in ("x", "")])
@settings(max_examples=150, deadline=None)
def test_every_text_survives_a_table(rows, tmp_path_factory):
    frame = pd.DataFrame(rows, columns=["token", "document"], dtype=object)
    frame["n"] = np.arange(len(frame))
    path = write_tsv(tmp_path_factory.getbasetemp() / "table.tsv", frame)
    read = read_tsv(path, dtype={"token": str, "document": str})
    assert [tuple(row) for row in read.to_numpy().tolist()] == [(*row, n) for n, row in enumerate(rows)]
    assert path.read_bytes().count(b"\n") == len(rows) + 1 and b"\r" not in path.read_bytes()
    assert path.read_text(encoding="utf-8").splitlines()[1:] == path.read_text(encoding="utf-8").split("\n")[1:-1]
    one = read_tsv(write_tsv(path, frame[["token"]]), dtype=str)  # empty cells are empty lines
    assert one["token"].tolist() == [row[0] for row in rows]


@given(names=st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=4, unique=True))
@settings(max_examples=50, deadline=None)
def test_every_name_of_a_column_survives_a_table(names, tmp_path_factory):
    path = write_tsv(tmp_path_factory.getbasetemp() / "names.tsv", pd.DataFrame([range(len(names))], columns=names))
    assert list(read_tsv(path)) == names


def test_missing_values_are_not_texts(tmp_path):
    frame = pd.DataFrame({"token": ["n/a", None, "", np.nan], "value": [1.5, np.nan, 0.0, np.inf]})
    path = write_tsv(tmp_path / "table.tsv", frame)
    assert path.read_text().splitlines()[1:] == ["n\\/a\t1.5", "n/a\tn/a", "\t0.0", "n/a\tinf"]
    read = read_tsv(path, dtype={"token": str})
    assert read["token"].isna().tolist() == [False, True, False, True] and read["token"][0] == "n/a"
    assert read["value"].isna().tolist() == [False, True, False, False]
