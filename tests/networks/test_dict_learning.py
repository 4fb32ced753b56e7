"""DictLearning on planted networks, with nilearn as the oracle."""

import numpy as np
import pytest
from planted import GEOMETRY, K, recovery

from llmbrain.exceptions import (
    HarmfulOptionWarning,
    NumericalWarning,
    ParameterError,
)
from llmbrain.networks import DictLearning


def test_sparse_dictionary_reaches_nilearns_objective(planted):
    runs, _ = planted
    ours = DictLearning(K, geometry=GEOMETRY).fit(runs)
    stock = DictLearning(K, geometry=GEOMETRY, engine="nilearn").fit(runs)
    assert ours.alpha_ == pytest.approx(0.1 * 20)
    assert recovery(stock.components_, ours.components_).min() > 0.97


def test_dictionary_can_begin_from_given_maps(planted):
    runs, maps = planted
    begun = DictLearning(K, geometry=GEOMETRY, dict_init=maps).fit(runs)
    from_image = DictLearning(K, geometry=GEOMETRY, dict_init=GEOMETRY.to_img(maps)).fit(runs)
    assert recovery(maps, begun.components_).min() > 0.85
    np.testing.assert_allclose(begun.components_, from_image.components_, atol=1e-5)


def test_every_epoch_of_the_dictionary_counts(planted):
    runs, _ = planted
    options = {"geometry": GEOMETRY, "solver_params": {"tol": 1e-8}}
    settled = DictLearning(K, **options).fit(runs)
    assert settled.converged_.all() and settled.n_iter_[0] > 4
    far = []
    for n in (1, 2, 4):
        with pytest.warns(NumericalWarning, match=f"did not converge in {n} passes"):
            found = DictLearning(K, n_epochs=n, **options).fit(runs)
        assert found.n_iter_.tolist() == [n] and not found.converged_.any()
        far.append(np.abs(found.components_ - settled.components_).max())
    assert far[0] > 3 * far[1] > 9 * far[2] > 0
    with pytest.warns(HarmfulOptionWarning, match="n_epochs=1 has no effect"):
        DictLearning(K, geometry=GEOMETRY, engine="nilearn", n_epochs=1).fit(runs)


def test_alpha_follows_the_data_and_dead_atoms_are_flagged(planted):
    runs, maps = planted
    short = [run[:100] for run in runs[:1]]
    assert DictLearning(K, geometry=GEOMETRY).fit(short).alpha_ == pytest.approx(1.0)
    with pytest.raises(ParameterError, match="no neuron in any map"):  # nilearn's default
        DictLearning(K, geometry=GEOMETRY, alpha=10).fit(short)
    with pytest.warns(NumericalWarning, match=r"networks are empty \(numbers .* and are flagged"):
        found = DictLearning(2 * K, geometry=GEOMETRY, alpha=9.0).fit(runs)
    empty = np.flatnonzero(~found.components_.any(1))
    assert 0 < len(empty) < 2 * K and np.isfinite(found.components_).all()
    assert found.networks_.metrics["flagged"][empty].all() and set(empty) <= set(found.networks_.flagged)


def test_a_dictionary_needs_no_more_directions_than_atoms():
    rng = np.random.default_rng(0)
    maps = rng.laplace(size=(6, 800)) ** 3
    low = (rng.standard_normal((100, 6)) @ maps).astype(np.float32)  # rank 6, and twice as many rows are wanted
    for k in (4, 6):
        assert DictLearning(k).fit([low]).components_.shape == (k, 800)
    with pytest.raises(ParameterError, match="n_components=7, but there are only 6"):
        DictLearning(7).fit([low])


@pytest.mark.parametrize("params", [{"alpha": -1}, {"alpha": "big"}, {"n_epochs": 0}, {"dict_init": np.ones((2, 9))}])
def test_bad_dictionary_parameters(params, planted):
    with pytest.raises(ParameterError):
        DictLearning(K, geometry=GEOMETRY, **params).fit(planted[0])


def test_alpha_that_kills_all_atoms(planted):
    with pytest.raises(ParameterError, match="no neuron in any map"):
        DictLearning(K, geometry=GEOMETRY, alpha=1e4).fit(planted[0])
