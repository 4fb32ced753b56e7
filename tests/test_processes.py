"""Stations in two processes of torch.distributed against the same work in one."""

from pathlib import Path

import pytest
from commands import run
from launching import launch

SCRIPT = """
import shutil, sys
from pathlib import Path
import numpy as np
import pandas as pd
import torch
sys.path.insert(0, sys.argv[2])
from recorded import files_of
from tiny import tiny_model, tiny_tokenizer
import llmbrain as lb
from llmbrain import parallel as p
from llmbrain.exceptions import ParameterError
from llmbrain.lesions import CallableTask, LossTask
from llmbrain.masks import masks_from_maps
from llmbrain.pruning import combine, run_grid

torch.set_num_threads(1)
folder = Path(sys.argv[1])
model, tokenizer = tiny_model("llama"), tiny_tokenizer()
TEXTS = [f"the cat number {i} sat on the mat and then the rain in spain fell over hills {i * 7}" for i in range(9)]
options = {"tokens_per_run": 250, "storage": "int16", "progress": False}

def refused(function, message):
    try:
        function()
    except ParameterError as error:
        assert message in str(error), error
    else:
        raise AssertionError(message)

with p.processes():
    first = p.main_process()
    shared, one = folder / "shared", folder / f"one-{p.rank()}"
    runs = lb.record(model, tokenizer, TEXTS, shared, **options)
    assert len(runs) == 3  # an uneven split
    with p.alone():
        lb.record(model, tokenizer, TEXTS, one, **options)
    same = files_of(shared) == files_of(one)
    assert same
    p.barrier()
    if first:  # an interrupted recording: one run is left, and one process has no work
        Path(runs[1].path).with_suffix(".json").unlink()
        Path(runs[1].path).unlink()
    p.barrier()
    lb.record(model, tokenizer, TEXTS, shared, **options)
    assert files_of(shared) == files_of(one)
    other = TEXTS[p.rank() :]
    refused(lambda: lb.record(model, tokenizer, other, folder / "differ", **options), "process 2 of 2 differ")
    refused(lambda: lb.record(model, tokenizer, TEXTS[:1], folder / "few", progress=False), "started for 1 runs")
    refused(lambda: lb.record(model, tokenizer, TEXTS, **options), "one folder")
    assert not (folder / "differ").exists() and not (folder / "few").exists()

    geometry = runs.geometry
    masks = masks_from_maps(np.random.default_rng(0).standard_normal((2, geometry.n_neurons)), geometry, 1.5)

    def score(model, tokenizer):
        return model(torch.arange(6)[None]).logits[0, :3, 0].detach().numpy()

    tasks = [LossTask(TEXTS[:4]), CallableTask(score, name="score")]
    options = {"max_batch_tokens": 200}
    study = lb.LesionStudy(masks, tasks, n_controls=3, controls=["layer"], reference=runs, options=options)
    both = study.run(model, tokenizer, checkpoint=folder / "kept.npz", progress=False)
    assert len(list(folder.glob("kept*.npz"))) == 4  # of two processes, texts and callable
    p.barrier()  # the repeated call below writes another one
    with p.alone():
        alone = study.run(model, tokenizer, progress=False)
    for name in ("table", "controls", "items"):
        pd.testing.assert_frame_equal(getattr(both, name), getattr(alone, name), check_exact=True)
    # a repeated call measures nothing again, also alone
    score.__defaults__ = None
    with p.alone():
        again = study.run(model, tokenizer, checkpoint=folder / "kept.npz", progress=False)
    pd.testing.assert_frame_equal(again.table, alone.table, check_exact=True)

    recipes = combine(("flap", "wanda", "random"), ("uniform",), ("none",), options={"context": 32})
    settings = {"seeds": (0,), "context": 32, "progress": False}
    grid = lambda out: run_grid(model, tokenizer, TEXTS, TEXTS[:3], recipes, ratios=(0.5,), out=out, settings=settings)
    table = grid(folder / "grid.tsv")
    with p.alone():
        expected = grid(None)
    pd.testing.assert_frame_equal(table.drop(columns="seconds"), expected.drop(columns="seconds"), check_exact=True)
    assert sorted(f.name for f in folder.glob("grid*")) == ["grid.tsv"]
print("done")
"""


def test_every_station_gives_what_one_process_gives(tmp_path):
    path = tmp_path / "script.py"
    path.write_text(SCRIPT, encoding="utf-8")
    found = launch([path, tmp_path / "work", Path(__file__).parent], n=2, preload="torch,transformers,llmbrain.pruning")
    assert [(code, out[-5:]) for code, out, _ in found] == [(0, "done\n")] * 2, found


def test_commands_without_shared_work_refuse_several_processes(tmp_path, monkeypatch, capsys):
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("llmbrain.cli._HEAD_START", 0.0)
    code, _, err = run(capsys, "report", tmp_path)
    assert code == 2 and "llmbrain, process 2: 'llmbrain report' runs in one process, but 2 were started" in err


@pytest.mark.parametrize("share", ["0/2", "three"])
def test_the_command_record_refuses_a_wrong_share(tmp_path, capsys, share):
    code, _, err = run(capsys, "record", "-o", tmp_path / "out", "--share", share)
    assert code == 2 and "NUMBER/COUNT" in err and not (tmp_path / "out").exists()
