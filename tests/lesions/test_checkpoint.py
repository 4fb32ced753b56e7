"""Checkpoints of lesion studies: what is kept, and for whom."""

import numpy as np
import pytest

from llmbrain.exceptions import DatasetError, LLMBrainWarning
from llmbrain.lesions import LesionStudy
from llmbrain.lesions.checkpoint import Checkpoint, read_checkpoint, remove_checkpoints
from llmbrain.parallel.shares import only_launch

HALF = np.array([[1.0, np.nan]])


def test_unfinished_numbers_of_another_study_are_set_aside_and_found_again(tmp_path):
    path = tmp_path / "study.npz"
    Checkpoint(path, ["first"]).keep(HALF, now=True)
    second = Checkpoint(path, ["second"])
    assert second.found is None
    with pytest.warns(LLMBrainWarning, match="held 50% of another study, which is kept as study.aside-"):
        second.keep(HALF * 2, now=True)
    second.keep(HALF * 3, now=True)  # without a warning
    assert len(list(tmp_path.iterdir())) == 2
    first = Checkpoint(path, ["first"])
    np.testing.assert_array_equal(first.found, HALF)
    with pytest.warns(LLMBrainWarning, match="another study"):
        first.keep(np.array([[1.0, 5.0]]), now=True)
    np.testing.assert_array_equal(Checkpoint(path, ["second"]).found, HALF * 3)
    assert len(list(tmp_path.iterdir())) == 2  # what was set aside of the first study is in its file again
    Checkpoint(path, ["second"]).keep(HALF * 4, now=True)  # the first is finished and need not be kept
    assert [file.name for file in tmp_path.iterdir()] == ["study.npz"]


def test_removal_spares_other_studies(tmp_path):
    path = tmp_path / "study.npz"
    Checkpoint(path, ["first"]).keep(HALF, now=True)
    with pytest.warns(LLMBrainWarning):
        Checkpoint(path, ["second"]).keep(HALF, now=True)
    Checkpoint(path, ["second"], task="pairs").keep(HALF, now=True)
    remove_checkpoints(path)
    (left,) = tmp_path.iterdir()
    np.testing.assert_array_equal(read_checkpoint(left)["numbers"], HALF)


def test_two_studies_cannot_write_one_checkpoint_at_a_time(tiny, masks, tmp_path):
    study = LesionStudy(masks[:1], ["the cat sat on the mat again"], n_controls=2, controls=("layer",))
    with only_launch(tmp_path / "c.npz"), pytest.raises(DatasetError, match="Another launch is writing"):
        study.run(*tiny, progress=False, checkpoint=tmp_path / "c.npz")
    study.run(*tiny, progress=False, checkpoint=tmp_path / "c.npz")
    assert [file.name for file in tmp_path.iterdir()] == ["c.npz"]
