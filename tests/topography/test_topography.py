"""The display order of neurons: a permutation within layers that makes planted networks compact, and nothing else."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import planted_maps

from llmbrain.exceptions import GeometryMismatchError, ParameterError
from llmbrain.geometry import NeuronGeometry
from llmbrain.topography import Topography, fit_topography, loadings_from_maps
from llmbrain.topography.layout import assign_to_grid, hilbert_curve


@given(st.integers(1, 23), st.integers(1, 23))
@settings(max_examples=60, deadline=None)
def test_the_curve_visits_every_cell_once_in_steps_of_one(rows, cols):
    curve = hilbert_curve(rows, cols)
    assert len(np.unique(curve, axis=0)) == len(curve) == rows * cols
    steps = np.abs(np.diff(curve, axis=0)).max(axis=1)
    assert (steps <= 1).all()  # at odd sides one step may be diagonal


def test_the_curve_keeps_neighbours_close():
    """Cells near each other on the curve are near on the sheet: far nearer than in row order."""
    curve = hilbert_curve(32, 32)
    distance = np.linalg.norm(curve[16:] - curve[:-16], axis=1).mean()
    assert distance < 5.5  # 16 steps along a row-order line are up to 16 cells away


def test_assignment_is_close_to_the_optimum():
    from scipy.optimize import linear_sum_assignment

    points = np.random.default_rng(0).normal(size=(240, 2))
    cells = assign_to_grid(points, 16, 15, 0)
    assert sorted(cells) == list(range(240))
    scaled = (points - points.min(axis=0)) * [16, 15] / np.ptp(points, axis=0)
    grid = np.stack(np.divmod(np.arange(240), 15), axis=1)
    cost = ((scaled[:, None] - grid[None]) ** 2).sum(axis=-1)
    best = cost[linear_sum_assignment(cost)].sum()
    assert cost[np.arange(240), cells].sum() < 1.02 * best


@pytest.mark.parametrize("method", ["transport", "hilbert"])
@pytest.mark.parametrize("sizes", [[60, 60], [97, 50, 13], [1, 2, 3]])
def test_the_order_is_a_permutation_within_layers_and_comes_back(method, sizes):
    geometry = NeuronGeometry.from_sizes(sizes)
    values = np.random.default_rng(0).normal(size=(4, geometry.n_neurons)).astype(np.float32)
    topography = fit_topography(values, geometry, method)
    shown = topography.arrange(values)
    for before, after in zip(geometry.split(values), geometry.split(shown)):
        np.testing.assert_array_equal(np.sort(before, axis=1), np.sort(after, axis=1))
    np.testing.assert_array_equal(topography.restore(shown), values)
    for rank, size in zip(geometry.split(topography.rank()), sizes):
        assert sorted(rank) == list(range(size))


def compactness(values, geometry):
    """Mean distance on the sheet between the neurons of a network that lie in the same layer."""
    rows, cols = geometry.shape[1:]
    distances = []
    for part in geometry.split(values):
        where = np.stack(np.divmod(np.flatnonzero(part), cols), axis=1)
        if len(where) > 2:
            distances.append(np.linalg.norm(where[:, None] - where[None], axis=-1).mean())
    return np.mean(distances)


@pytest.mark.parametrize("method", ["transport", "hilbert"])
def test_sorting_on_one_half_makes_blobs_of_the_other_half(method):
    """Planted networks seen through independent noise: sorted on one half, they are compact in the other."""
    geometry = NeuronGeometry.from_sizes([1536] * 6)
    truth = planted_maps(geometry, 8, noise=0.0)
    first, second = (truth + np.random.default_rng(s).normal(size=truth.shape) for s in (1, 2))
    topography = fit_topography(first, geometry, method)
    network = second[3] > 4
    natural, sorted_ = compactness(network, geometry), compactness(topography.arrange(network), geometry)
    assert sorted_ < 0.6 * natural
    # noise alone makes no blobs: what is not in the data of the other half does not appear there
    noise = np.random.default_rng(3).normal(size=geometry.n_neurons) > 2
    assert compactness(topography.arrange(noise), geometry) > 0.9 * natural


def test_equal_places_mean_equal_networks_in_all_layers():
    geometry = NeuronGeometry.from_sizes([1536] * 4)
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(6, geometry.n_neurons))
    for k in range(6):
        maps[k, rng.random(geometry.n_neurons) < 0.06] += 8
    topography = fit_topography(maps, geometry)
    shown = topography.arrange(maps)
    rows, cols = geometry.shape[1:]
    centres = np.array(
        [
            [np.stack(np.divmod(np.flatnonzero(layer[k] > 5), cols)).mean(axis=1) for layer in geometry.split(shown)]
            for k in range(6)
        ]
    )
    within = centres.std(axis=1).mean()
    between = centres.mean(axis=1).std(axis=0).mean()
    assert within < 0.4 * between


def test_loadings_from_maps_are_those_of_the_half():
    """Two halves with the same networks and different noise: the loadings of each follow its own data."""
    geometry = NeuronGeometry.from_sizes([400] * 3)
    rng = np.random.default_rng(0)
    truth = planted_maps(geometry, 4, noise=0.0)
    other = truth.copy()
    other[0] = np.roll(truth[0], 37)  # one network has moved in the second half
    halves = [rng.normal(size=(150, 4)) @ m + rng.normal(size=(150, geometry.n_neurons)) for m in (truth, other)]
    first, second = (loadings_from_maps(x, truth) for x in halves)
    r = [np.abs(np.diag(np.corrcoef(found, np.sign(truth))[:4, 4:])) for found in (first, second)]
    assert (r[0] > 0.5).all() and (r[1][1:] > 0.5).all() and r[1][0] < 0.5 * r[0][0]
    with pytest.raises(GeometryMismatchError, match="do not fit"):
        loadings_from_maps(halves[0][:, :-1], truth)


def test_it_is_saved_with_what_it_was_computed_from(tmp_path):
    geometry = NeuronGeometry.from_sizes([30, 20])
    topography = fit_topography(np.random.default_rng(0).normal(size=(3, 50)), geometry, source="runs 1, 3")
    topography.save(tmp_path / "order.nii.gz")
    again = Topography.load(tmp_path / "order.nii.gz")
    np.testing.assert_array_equal(again.cells, topography.cells)
    assert again.geometry == geometry and again.info == topography.info
    assert "runs 1, 3" in again.note and "isplay" in again.note


def test_it_does_not_depend_on_chance():
    geometry = NeuronGeometry.from_sizes([30, 20])
    features = np.random.default_rng(0).normal(size=(3, 50))
    first, second = (fit_topography(features, geometry, random_state=5).cells for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_bad_input_is_named():
    geometry = NeuronGeometry.from_sizes([4, 4])
    with pytest.raises(GeometryMismatchError, match="8 neurons"):
        fit_topography(np.zeros((2, 7)), geometry)
    with pytest.raises(ParameterError, match="Choose from"):
        fit_topography(np.zeros((2, 8)), geometry, method="tsne")
    with pytest.raises(ParameterError, match="finite"):
        fit_topography(np.full((2, 8), np.nan), geometry)
    with pytest.raises(ParameterError, match="permutation"):
        Topography(np.array([0, 1, 2, 3, 4, 5, 6, 7]), geometry)
    with pytest.raises(GeometryMismatchError, match="last axis"):
        Topography(np.tile(np.arange(4), 2), geometry).arrange(np.zeros(7))


def test_features_without_any_network_still_give_an_order():
    geometry = NeuronGeometry.from_sizes([9, 9])
    for features in (np.zeros((2, 18)), np.ones((1, 18))):
        for method in ("transport", "hilbert"):
            assert sorted(fit_topography(features, geometry, method).cells[:9]) == list(range(9))
