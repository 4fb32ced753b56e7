"""Layers and windows decomposed separately, and masks."""

import numpy as np
import pytest
from planted import GEOMETRY, planted_runs

from llmbrain.exceptions import (
    NumericalWarning,
)
from llmbrain.geometry import NeuronGeometry
from llmbrain.masks import NeuronMask
from llmbrain.networks import CanICA, DictLearning


@pytest.mark.parametrize(("scope", "parts"), [("layer", 4), (2, 3), (4, 1)])
def test_scopes(scope, parts):
    geometry = NeuronGeometry.from_sizes([400, 500, 600, 500])
    runs, _ = planted_runs(geometry.n_neurons, 4, density=0.05, snr=1.0)
    found = CanICA(2, geometry=geometry, scope=scope, n_init=2).fit(runs)
    assert found.components_.shape == (2 * parts, geometry.n_neurons)
    if scope == "layer":
        for k in range(4):
            own = geometry.layer_of == k
            alone, maps = CanICA(2, n_init=2).fit([run[:, own] for run in runs]), found.components_[2 * k : 2 * k + 2]
            np.testing.assert_allclose(np.abs(maps[:, own]), np.abs(alone.components_), atol=1e-4)
            assert not maps[:, ~own].any()
            z = found.networks_.z[2 * k, own]
            assert abs(z.mean()) < 1e-4 and z.std() == pytest.approx(1, abs=1e-3)
    for own, again in zip(found.networks_.time_courses, found.transform(runs)):
        np.testing.assert_allclose(own, again, atol=2e-3)


def test_layers_of_files_are_layers_of_arrays(tmp_path):
    geometry = NeuronGeometry.from_sizes([400, 500, 600])
    runs, _ = planted_runs(geometry.n_neurons, 4, density=0.05, snr=1.0)
    for run, path in zip(runs, ("0.nii", "1.nii")):
        run[:, 450] = 3.0
        geometry.to_img(run).to_filename(tmp_path / path)
    with pytest.warns(NumericalWarning, match="1 of 500 neurons are constant"):
        arrays = CanICA(2, geometry=geometry, scope="layer", n_init=2).fit(runs)
    with pytest.warns(NumericalWarning, match="1 of 500 neurons are constant"):
        files = CanICA(2, geometry=geometry, scope="layer", n_init=2).fit([tmp_path / "0.nii", tmp_path / "1.nii"])
    np.testing.assert_allclose(files.components_, arrays.components_, atol=1e-4)
    assert np.flatnonzero(files.dead_).tolist() == [450]
    with pytest.warns(NumericalWarning, match="1 of 500 neurons are constant"):
        learned = DictLearning(2, geometry=geometry, scope="layer").fit([tmp_path / "0.nii", tmp_path / "1.nii"])
    assert [a.shape[1] for a in learned.loadings_init_] == [2] * 3
    for k, row in enumerate(learned.components_init_):
        assert row[geometry.layer_of == k // 2].any() and not row[geometry.layer_of != k // 2].any()


def test_mask_restricts_the_networks(planted):
    runs, _ = planted
    mask = NeuronMask(GEOMETRY.layer_of < 10, GEOMETRY)
    for given in (mask, mask.to_img()):
        for engine in ("torch", "nilearn"):
            found = CanICA(3, geometry=GEOMETRY, mask=given, engine=engine, n_init=2).fit(runs)
            assert not found.components_[:, ~mask.values].any()
            assert found.components_[:, mask.values].any()
