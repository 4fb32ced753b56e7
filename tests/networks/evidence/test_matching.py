"""Matching of networks and its nulls: planted networks are recognised, noise is not."""

import numpy as np
import pytest

from llmbrain.exceptions import ParameterError
from llmbrain.networks.evidence import matching

LAYERS = np.repeat(np.arange(5), 400)


def planted_maps(n, n_neurons=2000, share=0.05, seed=0):
    """Sparse maps, each on its own few neurons: what a network looks like."""
    rng = np.random.default_rng(seed)
    return rng.normal(0, 3, (n, n_neurons)) * (rng.random((n, n_neurons)) < share)


def test_matching_undoes_any_order_and_sign():
    rng = np.random.default_rng(0)
    maps = planted_maps(8)
    for _ in range(5):
        order, sign = rng.permutation(8), rng.choice([-1.0, 1.0], 8)
        other = (3.0 * sign[:, None] * maps + 7.0)[order]
        found = matching.match_maps(maps, other)
        assert np.array_equal(order[found.index], np.arange(8))
        assert np.allclose(np.abs(found.score), 1, atol=1e-5)
        assert np.array_equal(found.sign, sign)
        assert np.allclose(matching.standardize_maps(found.align(other)), matching.standardize_maps(maps), atol=1e-5)


def test_matching_with_fewer_networks_leaves_the_worst_unmatched():
    maps = planted_maps(4)
    found = matching.match_maps(maps, maps[[3, 1]])
    assert found.index.tolist() == [-1, 1, -1, 0]
    assert np.isnan(found.align(maps[[3, 1]])[[0, 2]]).all() and np.isnan(found.score[[0, 2]]).all()


def test_correlations_are_numpy_s():
    rng = np.random.default_rng(1)
    a, b = rng.normal(5, 2, (3, 500)), rng.normal(size=(4, 500))
    assert np.allclose(matching.correlate_maps(a, b), np.corrcoef(a, b)[:3, 3:], atol=1e-6)
    flat = np.concatenate([a, np.full((1, 500), 3.3)])
    assert np.allclose(matching.correlate_maps(flat, b)[3], 0)
    with pytest.raises(ParameterError, match="NaN"):
        matching.correlate_maps(np.full((2, 5), np.nan))
    with pytest.raises(ParameterError, match="the same neurons"):
        matching.correlate_maps(a, b[:, 1:])


def test_permutation_within_layers_stays_in_them():
    p = matching.permute_neurons(2000, LAYERS[::-1], 0)
    assert np.array_equal(np.sort(p), np.arange(2000))
    assert np.array_equal(LAYERS[::-1][p], LAYERS[::-1]) and (p != np.arange(2000)).mean() > 0.9


@pytest.mark.parametrize("null", matching.NULLS)
def test_nulls_pass_planted_networks_and_stop_unrelated_ones(null):
    rng = np.random.default_rng(2)
    maps = planted_maps(10)
    again = maps + 0.3 * rng.normal(size=maps.shape)
    kwargs = {"n_draws": 99, "null": null, "layer_of": LAYERS}
    planted = matching.match_maps(maps, again).to_frame(matching.null_matches(maps, again, **kwargs))
    assert (planted["p"] == 0.01).all()
    strangers = planted_maps(10, seed=9)
    table = matching.match_maps(maps, strangers).to_frame(matching.null_matches(maps, strangers, **kwargs))
    assert table["p"].min() > 0.02


def test_layer_null_sees_through_a_shared_layer_profile():
    # maps that agree only in which layers they live: the loose null calls them a match, the strict one does not
    rng = np.random.default_rng(3)
    profile = np.eye(5)[[0, 2, 4]][:, LAYERS]
    a, b = (profile * rng.gamma(1, 1, (3, 2000)) for _ in range(2))
    score = matching.match_maps(a, b)
    p = {n: score.to_frame(matching.null_matches(a, b, 99, n, LAYERS))["p"].max() for n in ("neurons", "layers")}
    assert p["neurons"] == 0.01 and p["layers"] > 0.05


def test_rotation_null_asks_for_axes_not_subspaces():
    # same subspace, axes turned at random: far above permuted maps, yet no reproducible network
    rng = np.random.default_rng(4)
    maps = planted_maps(6)
    turned = np.linalg.qr(rng.normal(size=(6, 6)))[0] @ maps
    table = {n: matching.null_matches(maps, turned, 99, n, LAYERS) for n in ("layers", "rotation")}
    score = matching.match_maps(maps, turned)
    assert score.to_frame(table["layers"])["p"].max() == 0.01
    assert score.to_frame(table["rotation"])["p"].min() > 0.02
