"""The option ``--share`` and the command ``merge``, as jobs of an array use them."""

import numpy as np
import pytest
from commands import run
from tiny import tiny_model, tiny_tokenizer

from llmbrain.dataset import open_recording
from llmbrain.masks import NeuronMask

TEXT = "On the third morning the old heron stood in the river and ate one more of the restless fish, as ever. " * 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model and two texts on disk."""
    root = tmp_path_factory.mktemp("model")
    tiny_model("llama").save_pretrained(root / "tiny")
    tiny_tokenizer().save_pretrained(root / "tiny")
    (root / "heron.txt").write_text(TEXT)
    (root / "other.txt").write_text("It is a note on the tide that the other boats came in with. " * 6)
    return root


def tables(study):
    return {path.name: path.read_bytes() for path in study.rglob("*desc-masks*.tsv")}


def test_shares_of_a_study_merge_to_what_one_process_writes(folder, tmp_path, capsys):
    study = tmp_path / "study"

    def record(*args):
        return run(capsys, "record", "-m", folder / "tiny", "-t", folder / "heron.txt", "-o", study,
                   "--tokens-per-run", 100, *args)  # fmt: skip

    assert run(capsys, "merge", study)[0] == 2
    code, out, err = record("--share", "2/2")
    assert code == 0 and out.splitlines()[-1] == f"Next: llmbrain merge {study}", err
    code, _, err = run(capsys, "merge", study)
    assert code == 2 and "belong to the shares 1/2" in err
    record("--share", "1/2")
    code, out, _ = run(capsys, "merge", study)
    runs = open_recording(study)
    assert code == 0 and f"The recording is complete: {len(runs)} runs." in out
    code, _, err = run(capsys, "merge", study)
    assert code == 2 and "holds no shares" in err

    rng, masks = np.random.default_rng(0), []
    for name in ("one", "two"):
        mask = NeuronMask(rng.random(runs.geometry.n_neurons) < 0.1, runs.geometry, name=name)
        mask.save(tmp_path / f"{name}.nii.gz")
        masks += ["--mask", tmp_path / f"{name}.nii.gz"]
    lesion = [
        "lesion",
        study,
        *masks,
        "-m",
        folder / "tiny",
        "--text",
        folder / "other.txt",
        "--control",
        "layer",
        "--n-controls",
        3,
    ]
    code, out, err = run(capsys, *lesion, "--share", "1/2")
    assert code == 0 and f"Next: llmbrain merge {study}" in out and not tables(study), err
    code, _, err = run(capsys, "merge", study)
    assert code == 2 and "lacks the shares 2/2" in err
    run(capsys, *lesion, "--share", "2/2")
    (note,) = study.rglob(".*_desc-masks_lesion.part.json")
    whole = note.read_text()
    for damaged in ("", "[]", "{}", whole.replace('"n_controls"', '"n_turns"')):
        note.write_text(damaged)
        code, _, err = run(capsys, "merge", study)
        assert code == 2 and note.name in err, err
    note.write_text(whole)
    code, out, err = run(capsys, "merge", study)
    assert code == 0 and f"Next: llmbrain report {study}" in out, err
    merged = tables(study)
    assert len(merged) == 3 and not list(study.rglob(".*part*"))
    assert run(capsys, *lesion)[0] == 0
    assert tables(study) == merged
    code, _, err = run(capsys, "merge", tmp_path / "grid.tsv")
    assert code == 2 and "holds no shares to merge" in err
