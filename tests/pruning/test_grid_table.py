"""The table of a grid: shares that are merged, and tables of earlier versions."""

from pathlib import Path

import pandas as pd
import pytest

from llmbrain.exceptions import DatasetError, ParameterError
from llmbrain.files import read_tsv, with_hashes, write_json, write_tsv
from llmbrain.pruning import Recipe, merge_grid, run_grid
from llmbrain.pruning.grid_table import GRID_COLUMNS, GRID_KEYS, as_table, read_rows

SENTENCES = [f"the cat number {i} sat on the mat and then the rain in spain fell over hills {i * 7}" for i in range(16)]


def test_merged_shares_are_the_table_of_one_process(model, tokenizer, tmp_path):
    out = tmp_path / "grid.tsv"
    recipes = [Recipe(score, "uniform", "none", {"context": 32}) for score in ("flap", "random", "wanda")]
    settings = {"seeds": (0,), "context": 32, "progress": False}

    def part(share=None, recipes=recipes):
        where = {} if share is None else {"out": out}
        options = settings | {"share": share}
        return run_grid(model, tokenizer, SENTENCES, SENTENCES[:3], recipes, ratios=(0.5,), settings=options, **where)

    whole = part()
    part("2/2")
    with pytest.raises(DatasetError, match="lacks the shares 1/2"):
        merge_grid(out)
    part("1/2", recipes[:2])
    with pytest.raises(DatasetError, match="shares .* of another grid"):
        merge_grid(out)
    part("1/2")
    merged = merge_grid(out)
    pd.testing.assert_frame_equal(merged.drop(columns="seconds"), whole.drop(columns="seconds"), check_exact=True)
    assert [file.name for file in tmp_path.iterdir()] == ["grid.tsv"]
    with pytest.raises(DatasetError, match="holds no shares"):
        merge_grid(out)
    with pytest.raises(ParameterError, match="9 shares were started for 3 rows"):
        part("1/9")


@pytest.mark.parametrize("content", ["", "my notes\n", "[]", "\x00\x01", None])
@pytest.mark.parametrize("suffix", [".tsv", ".json"])
def test_damaged_files_of_shares_are_one_sentence(content, suffix, tmp_path):
    out, file = tmp_path / "grid.tsv", tmp_path / f"grid.share-1-of-1{suffix}"
    rows = dict.fromkeys(GRID_KEYS, "x") | {"ratio": 0.2, "seed": 0}
    write_tsv(tmp_path / "grid.share-1-of-1.tsv", pd.DataFrame([rows]))
    write_json(tmp_path / "grid.share-1-of-1.json", with_hashes({"constants": {}, "keys": []}))
    changed = file.read_text().replace("0.2", "a").replace('"keys": [', '"locks": [')
    file.write_text(changed if content is None else content)
    with pytest.raises(DatasetError, match=file.name):
        merge_grid(out)


ROW = {
    **dict.fromkeys(GRID_COLUMNS), "score": "flap", "allocation": "uniform", "compensation": "none", "variant": "",
    "ratio": 0.2, "seed": 0, "perplexity": 20 / 3, "parameters": 123456789, "context": 64, "test_tokens": 99,
    "test_hash": "0123456789012345", "calibration_hash": "12e4567890123456", "bos": "none", "seconds": 1.5,
}  # fmt: skip


@pytest.mark.parametrize("column", GRID_COLUMNS)
@pytest.mark.parametrize("other", ["7", "n/a", "another", None])
def test_cells_that_were_edited_are_refused(column, other, tmp_path):
    """Also of the dense model, by whose perplexity all others are divided; a table without the column is one case."""
    out = tmp_path / "grid.tsv"
    write_tsv(out, as_table([ROW, {**ROW, "score": "dense"}]))
    assert read_rows(out, {"context": 64, "test_hash": ROW["test_hash"]})[0]["perplexity"] == ROW["perplexity"]
    table = read_tsv(out, dtype=str)
    known = table.loc[1, column]
    if other is None:
        table = table.drop(columns=column)
    else:
        table.loc[1, column] = other
    write_tsv(out, table)
    if column == "seconds" or (pd.isna(known) and other is None):
        assert len(read_rows(out, {})) == 2
        return
    with pytest.raises(DatasetError, match=r"grid.tsv (is damaged|has no column)"):
        read_rows(out, {})


def test_tables_of_before_stay_readable():
    from llmbrain.plotting import plot_pruning_grid

    table = read_tsv(Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "fast_drop_65536.tsv")
    assert {"dense", "flap"} <= set(table.score)
    assert plot_pruning_grid(table) is not None
