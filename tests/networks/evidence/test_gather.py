"""Matching, stability, recurrence, order: planted networks are recognised, noise is not."""

import numpy as np
import pytest

from llmbrain.exceptions import ParameterError
from llmbrain.networks.evidence import matching, stability

LAYERS = np.repeat(np.arange(5), 400)


def planted_maps(n, n_neurons=2000, share=0.05, seed=0):
    """Sparse maps, each on its own few neurons: what a network looks like."""
    rng = np.random.default_rng(seed)
    return rng.normal(0, 3, (n, n_neurons)) * (rng.random((n, n_neurons)) < share)


# --------------------------------------------------------------------------------------------- matching
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
    with pytest.raises(ParameterError, match="different neurons"):
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


# --------------------------------------------------------------------------------------------- stability
def repeats(maps, n, noise, n_noise, seed=0):
    """`n` repetitions: the planted maps in any order and sign, and `n_noise` maps that are never the same."""
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(n):
        found = maps * rng.choice([-1, 1], (len(maps), 1)) + noise * rng.normal(size=maps.shape)
        junk = rng.normal(size=(n_noise, maps.shape[1]))
        out.append(np.concatenate([found, junk])[rng.permutation(len(maps) + n_noise)])
    return out


def test_icasso_tells_networks_from_noise():
    maps = planted_maps(6)
    result = stability.icasso(repeats(maps, 10, 0.1, 4))
    assert result.stable.sum() == 6 and (result.iq[:6] > 0.9).all() and (result.iq[6:] < 0.1).all()
    assert (result.coverage[:6] == 1).all()
    found = matching.match_maps(maps, result.maps[:6])
    assert np.abs(found.score).min() > 0.95
    assert result.to_frame()["n_estimates"].tolist() == [10] * 6 + [1] * 4


def test_iq_falls_with_noise_and_a_singleton_is_never_stable():
    maps = planted_maps(5)
    iq = [stability.icasso(repeats(maps, 8, noise, 0)).iq.mean() for noise in (0.1, 0.4, 1.0)]
    assert (np.diff(iq) < -0.02).all()
    lonely = stability.quality_index(np.array([[1, 0.2], [0.2, 1]]), np.array([0, 1]))
    assert (lonely <= 0).all()


def test_icasso_takes_known_correlations_of_coordinates():
    # maps = coordinates @ orthonormal basis: the cheap path must cluster exactly like the full one
    rng = np.random.default_rng(5)
    basis = np.linalg.qr(rng.normal(size=(2000, 12)))[0].T
    basis -= basis.mean(axis=1, keepdims=True)
    basis = np.linalg.qr(basis.T)[0].T
    near = np.eye(12)[:4] + 0.15 * rng.normal(size=(6, 4, 12))
    coordinates = near / np.linalg.norm(near, axis=2, keepdims=True)
    stacked = np.concatenate(coordinates)
    cheap = stability.icasso(coordinates, correlations=stacked @ stacked.T)
    full = stability.icasso([c @ basis for c in coordinates])
    assert np.allclose(cheap.iq, full.iq, atol=1e-5)
    assert np.allclose(cheap.maps @ basis, full.maps, atol=1e-6)


def test_identical_restarts_give_iq_near_one():
    maps = planted_maps(4)
    result = stability.icasso([maps, maps, maps])
    assert len(result.iq) == 4 and (result.iq > 0.95).all() and result.stable.all()
    with pytest.raises(ParameterError, match="two repetitions"):
        stability.icasso([maps])


def test_split_half_reliability():
    rng = np.random.default_rng(7)
    maps = planted_maps(6)
    a, b = (np.concatenate([maps + 0.2 * rng.normal(size=maps.shape), rng.normal(size=(2, 2000))]) for _ in "ab")
    table = stability.split_half(a, -b[::-1], layer_of=LAYERS, n_draws=99)
    real, noise = table.iloc[:6], table.iloc[6:]
    assert (real["icc"] > 0.85).all() and (real["dice"] > 0.6).all()
    assert (real["p"] == 0.01).all() and (real["p_axes"] == 0.01).all() and (real["r"] < 0).all()
    assert (noise["icc"].abs() < 0.1).all() and (noise["p_axes"] > 0.05).all()
