"""Directions above noise: edges against simulation, planted factors counted."""

import numpy as np
import pytest

from llmbrain.exceptions import NumericalWarning, ParameterError
from llmbrain.networks.evidence import noise


def factors(n_tokens, n_neurons, n_factors, strength=1.0, rho=0.0, seed=0, n_runs=1):
    """Planted dense factors in noise whose tokens are correlated by `rho`."""
    rng = np.random.default_rng(seed)
    loadings = rng.normal(size=(n_factors, n_neurons))
    runs = []
    for _ in range(n_runs):
        noise = rng.normal(size=(n_tokens, n_neurons))
        for t in range(1, n_tokens if rho else 0):
            noise[t] = rho * noise[t - 1] + np.sqrt(1 - rho**2) * noise[t]
        runs.append((strength * rng.normal(size=(n_tokens, n_factors)) @ loadings + noise).astype(np.float32))
    return runs


@pytest.mark.parametrize(("t", "v"), [(200, 800), (600, 300)])
def test_edge_and_bound_are_those_of_simulated_noise(t, v):
    largest = [noise.spectrum(noise.standardized_sample(factors(t, v, 0, seed=s)))[0] for s in range(20)]
    assert np.mean(largest) == pytest.approx((1 + np.sqrt(t / v)) ** 2, rel=0.03)
    assert np.mean(np.array(largest) > noise.noise_bound(t - 1, v)) <= 0.15


@pytest.mark.parametrize("n_factors", [0, 1, 7])
@pytest.mark.parametrize(("t", "v"), [(150, 600), (400, 250)])
def test_marchenko_pastur_and_parallel_analysis_count_planted_factors(n_factors, t, v):
    sample = noise.standardized_sample(factors(t, v, n_factors, n_runs=2))
    assert noise.marchenko_pastur_count(sample)[0] == n_factors
    for null in noise.SHUFFLES:
        parallel, eigenvalues, bound = noise.parallel_analysis(sample, null=null, n_draws=10)
        assert n_factors <= parallel <= n_factors + 1
        assert len(bound) == len(eigenvalues)


def test_marchenko_pastur_says_when_there_is_no_noise():
    # a spectrum that falls like a power has directions of all sizes and no edge
    rng = np.random.default_rng(5)
    x = (rng.normal(size=(150, 150)) * np.arange(1, 151) ** -1.0) @ rng.normal(size=(150, 400))
    with pytest.warns(NumericalWarning, match="no bulk"):
        count, _ = noise.marchenko_pastur_count(noise.standardized_sample([x.astype("f4")]))
    assert count == 74


def test_only_the_shift_null_survives_autocorrelation():
    # noise that is smooth over tokens and independent over neurons holds no factor at all
    sample = noise.standardized_sample(factors(300, 200, 0, rho=0.8))
    assert noise.parallel_analysis(sample, null="permute")[0] > 10
    assert noise.parallel_analysis(sample, null="shift")[0] <= 1


def test_spectrum_does_not_care_which_side_is_longer():
    x = noise.standardized_sample(factors(80, 120, 3))
    direct = np.linalg.eigvalsh(x[0].astype(float) @ x[0].T.astype(float) / 120)[::-1][:79]
    assert np.allclose(noise.spectrum(x), direct, atol=1e-4)
    wide = [x[0][:, :50]]
    assert np.allclose(noise.spectrum(wide), np.linalg.eigvalsh(wide[0] @ wide[0].T / 50)[::-1][:50], atol=1e-4)
    share, cumulative = noise.explained_variance(noise.spectrum(x))
    assert cumulative[-1] == pytest.approx(1) and (np.diff(share) <= 1e-12).all()


def test_sample_of_neurons_is_standardised_and_drops_the_dead():
    run = factors(50, 300, 1)[0] * 5 + 3
    run[:, 7] = 2.0
    sample = noise.standardized_sample([run], max_neurons=300)[0]
    assert sample.shape == (50, 299) and np.allclose(sample.mean(0), 0, atol=1e-5)
    assert np.allclose(sample.std(0, ddof=1), 1, atol=1e-4)
    assert noise.standardized_sample([run], max_neurons=40)[0].shape[1] in (39, 40)
    with pytest.raises(ParameterError, match="constant"):
        noise.standardized_sample([np.ones((5, 5), np.float32)])
