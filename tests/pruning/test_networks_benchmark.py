"""The benchmark that compares recipes with and without networks."""

import importlib
import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from llmbrain.pruning import Recipe, run_grid
from llmbrain.text import Window, text_windows

SENTENCES = [f"the cat number {i} sat on the mat and then the rain in spain fell over hills {i * 7}" for i in range(16)]


def recipes_of(*rows, options=None, networks=None, name=""):
    return [Recipe(*names, {"context": 32, **(options or {})}, networks, name) for names in rows]


@pytest.fixture(scope="module")
def benchmark():
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "pruning_networks.py"
    spec = importlib.util.spec_from_file_location("pruning_networks", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_draws_share_no_window(benchmark):
    windows = [Window(np.arange(i, i + 10), np.ones(10)) for i in range(0, 1000, 10)] + [Window([1, 2], [0, 1])]
    draws = [window for d in range(25) for window in benchmark.draw_windows(windows, 40, 10, d)]
    assert sorted(np.concatenate([window.ids for window in draws]).tolist()) == list(range(1000))
    with pytest.raises(SystemExit, match="no draw 25"):
        benchmark.draw_windows(windows, 40, 10, 25)


def test_planted_gains_are_told_from_chance(benchmark):
    """A role that helps by 5 %, one that harms, one that does nothing; draws differ by far more than that."""
    rng = np.random.default_rng(0)
    gains = {"network x FLAP": -0.05, "network": 0.3, "joint network x FLAP": 0.0, "uniform": 0.0}
    rows = []
    for draw in range(4):
        level = 4 + rng.normal(0, 0.5)
        for name, gain in gains.items():
            for ratio in (0.2, 0.5):
                loss = level + gain + rng.normal(0, 0.005)
                rows.append((*benchmark.ROWS[name], ratio, draw, 2048, np.exp(loss)))
    names = ["score", "allocation", "compensation", "variant", "ratio", "draw", "tokens", "perplexity"]
    table = pd.DataFrame(rows, columns=names)
    found = benchmark.paired(table, 0.2, "network x FLAP", "uniform")
    assert found["n"] == 4 and found["low"] < -0.05 < found["high"] < 0
    text = benchmark.markdown(table).splitlines()
    answers = {
        line.split(" | ")[0].strip("| "): line.split(" | ")[1] for line in text[text.index("") + 1 :] if "|" in line[:1]
    }
    assert answers["selection: z x FLAP"] == "yes"
    assert answers["selection: largest z"] == "no, worse"
    assert answers["joint layers: selection, z x FLAP"] == "no"
    assert answers["allocation: threshold on maps"] == "not run"
    one = table[table.draw == 0]
    assert benchmark.verdict([benchmark.paired(one, 0.2, "network x FLAP", "uniform")]) == "one draw, better"


def test_every_row_of_the_comparison_runs_and_is_answered(benchmark, model, tokenizer, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(benchmark.__file__).parent)
    windows, _ = text_windows([" ".join(SENTENCES)], tokenizer, 32)
    from pruning_grid import recipes_of

    options = {**benchmark.OPTIONS, "context": 32}
    recipes = recipes_of(benchmark.ROWS.values(), benchmark.VARIANTS, options, "layers")
    run_grid(model, tokenizer, benchmark.draw_windows(windows, 256, 32, 1), SENTENCES[:3], recipes, ratios=(0.5,),
             out=tmp_path / "networks_delete_256_draw1.tsv",
             settings={"seeds": (1,), "context": 32, "progress": False})  # fmt: skip
    table = benchmark.collect(tmp_path)
    assert table.draw.unique().tolist() == [1] and len(table) == 1 + len(benchmark.ROWS)
    text = benchmark.markdown(table)
    assert "not run" not in text and text.count("one draw") == len(benchmark.PAIRS) + len(benchmark.ASIDE)
