"""ICASSO and split halves: planted networks are stable, noise is not."""

import numpy as np
import pytest

from llmbrain.exceptions import ParameterError
from llmbrain.networks.evidence import matching, stability

LAYERS = np.repeat(np.arange(5), 400)


def planted_maps(n, n_neurons=2000, share=0.05, seed=0):
    """Sparse maps, each on its own few neurons: what a network looks like."""
    rng = np.random.default_rng(seed)
    return rng.normal(0, 3, (n, n_neurons)) * (rng.random((n, n_neurons)) < share)


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
    assert np.bincount(result.labels[result.labels >= 0]).tolist() == [10] * 6 + [1] * 4


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
