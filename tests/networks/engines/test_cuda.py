"""Networks on a CUDA device are those of the CPU."""

import numpy as np
import pytest
import torch
from planted import planted_runs, recovery

from llmbrain.geometry import NeuronGeometry
from llmbrain.networks import CanICA, DictLearning, gather_evidence, group_ica

DEVICE = "cuda"

pytestmark = pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(scope="module")
def planted():
    return planted_runs(4000, 5, (200, 150, 150), snr=1.0)


def layered(n_layers=3, n_neurons=1000, k=4):
    """Runs whose layers have networks of their own, and the geometry."""
    layers = [planted_runs(n_neurons, k, (160, 140), snr=1.5, seed=s)[0] for s in range(n_layers)]
    return [np.hstack(runs) for runs in zip(*layers)], NeuronGeometry.from_sizes([n_neurons] * n_layers)


@pytest.mark.parametrize("group", ["tokens", "runs", "auto"])
@pytest.mark.parametrize("contrast", ["cube", "logcosh"])
def test_group_ica(group, contrast, planted):
    runs, truth = planted
    options = {"group": group, "contrast": contrast, "n_init": 3}
    expected, found = group_ica(runs, 5, **options), group_ica(runs, 5, device=DEVICE, **options)
    assert found.group == expected.group and found.converged.all()
    assert recovery(expected.maps, found.maps).min() > 0.99 and recovery(truth, found.maps).min() > 0.9
    np.testing.assert_allclose(found.variance, expected.variance, rtol=0.01)
    np.testing.assert_allclose(found.singular_values, expected.singular_values, rtol=1e-3)
    for a, b in zip(expected.time_courses, found.time_courses):
        assert recovery(a.T, b.T).min() > 0.99


def test_confounds_and_dead_neurons(planted):
    runs = [run.copy() for run in planted[0]]
    ramps = [np.linspace(0, 1, len(run)) for run in runs]
    for run, ramp in zip(runs, ramps):
        run += 5 * ramp[:, None].astype(np.float32)
        run[:, 7] = 3
    runs[1][4, 9] = np.nan
    options = {"confounds": ramps, "n_init": 2, "warn": False}
    expected, found = group_ica(runs, 5, **options), group_ica(runs, 5, device=DEVICE, **options)
    assert recovery(expected.maps, found.maps).min() > 0.99
    np.testing.assert_array_equal(found.dead, expected.dead)
    assert np.flatnonzero(found.dead).tolist() == [7, 9]


@pytest.mark.parametrize("group", ["tokens", "runs", "auto"])
@pytest.mark.parametrize("Estimator", [CanICA, DictLearning])
def test_estimators(Estimator, group, planted):
    runs, truth = planted
    expected = Estimator(5, solver_params={"group": group}).fit(runs)
    found = Estimator(5, solver_params={"group": group, "device": DEVICE}).fit(runs)
    assert found.networks_.info["group"] == expected.networks_.info["group"]
    assert recovery(expected.components_, found.components_).min() > 0.99
    np.testing.assert_allclose(found.variance_, expected.variance_, rtol=0.01)
    for a, b in zip(expected.networks_.time_courses, found.networks_.time_courses):
        assert recovery(a.T, b.T).min() > 0.99


@pytest.mark.parametrize("group", ["tokens", "auto"])
@pytest.mark.parametrize("Estimator", [CanICA, DictLearning])
def test_layers(Estimator, group):
    """With all tokens alike the layers are decomposed in one batch, in bfloat16."""
    runs, geometry = layered()
    options = {"scope": "layer", "geometry": geometry}
    expected = Estimator(4, solver_params={"group": group}, **options).fit(runs)
    found = Estimator(4, solver_params={"group": group, "device": DEVICE}, **options).fit(runs)
    for part in range(3):
        where, rows = geometry.layer_slice(part), slice(4 * part, 4 * part + 4)
        assert recovery(expected.components_[rows, where], found.components_[rows, where]).min() > 0.99
        outside = np.delete(found.components_[rows], np.arange(where.start, where.stop), axis=1)
        assert not outside.any()
    np.testing.assert_allclose(np.sort(found.variance_), np.sort(expected.variance_), rtol=0.05)


@pytest.mark.parametrize("seed", [None, np.random.RandomState(3)])
def test_layers_with_every_kind_of_seed(seed):
    runs, geometry = layered()
    fitted = [
        CanICA(4, scope="layer", geometry=geometry, random_state=s, solver_params={"group": "tokens", "device": DEVICE})
        for s in (seed, 0)
    ]
    found, expected = (canica.fit(runs).components_ for canica in fitted)
    for part in range(3):
        where, rows = geometry.layer_slice(part), slice(4 * part, 4 * part + 4)
        assert recovery(expected[rows, where], found[rows, where]).min() > 0.99


@pytest.mark.parametrize("scope", ["model", "layer"])
@pytest.mark.parametrize("contrast", ["cube", "logcosh"])
def test_products_that_are_allowed_to_be_rough_change_nothing(scope, contrast):
    """Whoever has set TF32 for a model gets networks that converge all the same."""
    runs, geometry = layered()
    options = {"scope": scope, "geometry": geometry, "solver_params": {"contrast": contrast, "device": DEVICE}}
    expected = CanICA(4, **options).fit(runs)
    torch.set_float32_matmul_precision("high")
    try:
        found = CanICA(4, **options).fit(runs)
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert np.all(found.converged_) and np.array_equal(found.n_iter_, expected.n_iter_)
    assert recovery(expected.components_, found.components_).min() > 0.99


@pytest.mark.filterwarnings("ignore::llmbrain.exceptions.NumericalWarning")
def test_evidence(planted):
    runs, _ = planted
    networks = CanICA(5).fit(runs).networks_
    expected = gather_evidence(networks, runs, n_repeats=4, n_draws=19).stability
    found = gather_evidence(networks, runs, n_repeats=4, n_draws=19, device=DEVICE).stability
    names = ["iq", "coverage", "stability", "split_half_r", "icc", "dice"]
    np.testing.assert_allclose(found[names], expected[names], atol=0.02)
