"""The same result whatever holds the runs, and errors for what holds none."""

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from planted import GEOMETRY, K, recovery
from reoriented import AXES, misplaced

from llmbrain.exceptions import (
    DatasetError,
    GeometryMismatchError,
    MaskError,
    ParameterError,
)
from llmbrain.geometry import NeuronGeometry
from llmbrain.networks import CanICA


def test_every_kind_of_input_gives_the_same_maps(planted, fitted, tmp_path):
    runs, _ = planted
    imgs = [GEOMETRY.to_img(run) for run in runs]
    paths = [tmp_path / f"run{i}{suffix}" for i, suffix in enumerate((".nii", ".nii.gz"))]
    for path, img in zip(paths, imgs):
        nib.save(img, path)
    np.save(tmp_path / "run.npy", runs[0])
    for given in (imgs, paths, [str(p) for p in paths], [tmp_path / "run.npy", imgs[1]], [paths[0], runs[1]]):
        again = CanICA(K, geometry=GEOMETRY).fit(given)
        assert recovery(fitted.components_, again.components_).min() > 1 - 1e-4


def test_scaled_integers_are_read_with_their_slope(planted, tmp_path):
    run = planted[0][0]
    img = GEOMETRY.to_img(run)
    img.set_data_dtype(np.int16)
    nib.save(img, tmp_path / "run.nii")
    exact = CanICA(3, geometry=GEOMETRY).fit([run])
    stored = CanICA(3, geometry=GEOMETRY).fit(tmp_path / "run.nii")
    assert recovery(exact.components_, stored.components_).min() > 0.99


def test_a_single_run_need_not_be_in_a_list(planted):
    run = planted[0][0]
    one = CanICA(3, geometry=GEOMETRY).fit(run)
    np.testing.assert_array_equal(one.components_, CanICA(3, geometry=GEOMETRY).fit([run]).components_)
    assert len(one.transform(run)) == 1


def test_arrays_without_a_geometry_are_one_layer(planted):
    found = CanICA(3).fit(planted[0])
    assert found.geometry_ == NeuronGeometry.from_sizes([GEOMETRY.n_neurons])


def test_a_recording_in_every_form(tmp_path):
    from tiny import tiny_model, tiny_tokenizer

    import llmbrain
    from llmbrain.dataset import Study

    texts = [
        "A river runs past the old mill, and nobody counts its turns. " * 3,
        "def add(a, b):\n    return a + b\n" * 5,
    ]
    options = {"context": 128, "tokens_per_run": 120, "progress": False}
    recording = llmbrain.record(tiny_model("llama"), tiny_tokenizer(), texts, tmp_path / "study", **options)
    assert len(recording) > 1
    expected = CanICA(3, n_init=2).fit(recording)
    arrays = [run.to_array() for run in recording]
    study = tmp_path / "study"
    for given in (study, str(study), Study.open(study), list(recording), recording.paths):
        np.testing.assert_array_equal(CanICA(3, n_init=2).fit(given).components_, expected.components_)
    for course, again in zip(expected.transform(recording), expected.transform(arrays)):
        np.testing.assert_allclose(course, again, atol=1e-3)
    assert expected.networks_.info["files"] == [run.path.name for run in recording]
    # and what is written of them can be read again, the time courses run by run as tables
    expected.networks_.save(study)
    tables = sorted(study.rglob("*_mixing.tsv"))
    assert [len(pd.read_csv(t, sep="\t")) for t in tables] == [run.n_tokens for run in recording]
    assert list(pd.read_csv(tables[0], sep="\t")) == ["network-00", "network-01", "network-02"]


def test_bad_runs(planted, tmp_path):
    runs, _ = planted
    cases = [
        ([], ParameterError, "empty"),
        ([runs[0], runs[1][:, :100]], GeometryMismatchError, "100 neurons"),
        (runs[0][0], ParameterError, "shape"),
        ([["a", "b"]], ParameterError, "real array"),
        (tmp_path / "none.nii", DatasetError, "does not exist"),
        (tmp_path, DatasetError, "no study"),
        (nib.Nifti1Image(np.zeros((20, 10, 10), np.float32), np.eye(4)), ParameterError, "four axes"),
        (
            nib.Nifti1Image(np.zeros((3, 10, 10, 5), np.float32), np.eye(4)),
            GeometryMismatchError,
            "Run 0: .* has the shape",
        ),
        (runs[0][:1], ParameterError, "tokens"),
    ]
    for given, error, match in cases:
        with pytest.raises(error, match=match):
            CanICA(3, geometry=GEOMETRY).fit(given)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ParameterError, match="neither a NIfTI"):
        CanICA(3, geometry=GEOMETRY).fit(tmp_path / "notes.txt")
    with pytest.raises(ParameterError, match=r"Number of confounds \(\d\) must match number of images \(2\)"):
        CanICA(3, geometry=GEOMETRY).fit(runs, confounds=[np.zeros((200, 1))])
    with pytest.raises(DatasetError, match=r"confounds of run 1: .*nowhere.tsv does not exist"):
        CanICA(3, geometry=GEOMETRY).fit(runs, confounds=[None, tmp_path / "nowhere.tsv"])
    with pytest.raises(ParameterError, match="confounds of run 0 must be numbers"):
        CanICA(3, geometry=GEOMETRY).fit(runs, confounds=[pd.DataFrame({"kind": ["code"] * 200}), None])
    with pytest.raises(ParameterError, match="one row per token"):
        CanICA(3, geometry=GEOMETRY).fit(runs, confounds=[np.zeros((20, 1)), None])
    with pytest.raises(MaskError, match="no neuron"):
        CanICA(3, geometry=GEOMETRY, mask=GEOMETRY.to_img(np.zeros(1940))).fit(runs)


@pytest.mark.parametrize("axes", [*AXES, "shifted"])
def test_runs_whose_layers_are_reversed_or_moved_are_refused(axes, planted, tmp_path):
    turned = misplaced(GEOMETRY.to_img(planted[0][0]))[axes]
    nib.save(turned, tmp_path / "turned.nii")
    for run in (turned, tmp_path / "turned.nii"):
        for geometry in (GEOMETRY, None):
            with pytest.raises(GeometryMismatchError, match="Run 1: .*(affine|the shape)"):
                CanICA(3, geometry=geometry).fit([GEOMETRY.to_img(planted[0][1]), run])
    with pytest.raises(GeometryMismatchError, match="affine|the shape"):
        CanICA(3, geometry=GEOMETRY, mask=misplaced(GEOMETRY.mask_img)[axes]).fit(planted[0])
