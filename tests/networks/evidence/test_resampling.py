"""ICASSO over bootstrapped runs: planted networks are stable, components of noise are not."""

import numpy as np
import pytest

from llmbrain.exceptions import ParameterError
from llmbrain.networks import group_ica
from llmbrain.networks.evidence import matching, stability
from llmbrain.networks.evidence.resampling import cut_blocks, joint_subspace, resampled_networks


def planted_runs(n_networks=6, n_neurons=3000, n_runs=3, n_tokens=250, snr=1.0, seed=0):
    """Runs of a few sparse networks in white noise, and the maps they were made of."""
    rng = np.random.default_rng(seed)
    maps = rng.normal(0, 3, (n_networks, n_neurons)) * (rng.random((n_networks, n_neurons)) < 0.05)
    runs = []
    for _ in range(n_runs):
        courses = rng.normal(size=(n_tokens, n_networks))
        runs.append((snr * courses @ maps + rng.normal(size=(n_tokens, n_neurons))).astype(np.float32))
    return runs, maps


@pytest.fixture(scope="module")
def planted():
    return planted_runs()


@pytest.mark.parametrize("group", ["tokens", "runs"])
def test_planted_networks_are_stable_and_surplus_components_are_not(planted, group):
    runs, maps = planted
    result = resampled_networks(runs, 10, n_repeats=10, group=group)
    assert result.stable.sum() == 6
    assert (result.iq[:6] > 0.9).all() and (result.coverage[:6] == 1).all()
    assert (result.iq[6:] * result.coverage[6:] < 0.5).all()
    assert np.abs(matching.match_maps(maps, result.maps[:6]).score).min() > 0.85


def test_pure_noise_has_no_stable_network():
    rng = np.random.default_rng(1)
    noise = [rng.normal(size=(200, 3000)).astype(np.float32) for _ in range(3)]
    result = resampled_networks(noise, 8, n_repeats=10)
    assert not result.stable.any()


def test_centrotypes_are_the_maps_of_a_plain_decomposition(planted):
    runs, _ = planted
    plain = group_ica(runs, 6, group="tokens")
    table = stability.score_networks(plain.maps, resampled_networks(runs, 6, n_repeats=8, group="tokens"))
    assert (table["r"] > 0.98).all() and table["stable"].all()
    assert (stability.restart_stability(plain.rotations, plain.chosen) > 0.95).all()


def test_restarts_alone_are_what_group_ica_does(planted):
    # without resampling the shared subspace must lead to the very same independent components
    runs, _ = planted
    result = resampled_networks(runs, 6, n_repeats=4, resample=False, group="tokens")
    plain = group_ica(runs, 6, group="tokens")
    assert np.abs(matching.match_maps(plain.maps, result.maps).score).min() > 0.999


def test_surplus_components_are_unstable_over_restarts(planted):
    runs, maps = planted
    plain = group_ica(runs, 12, n_init=8, warn=False)
    iq = stability.restart_stability(plain.rotations, plain.chosen)
    real = matching.match_maps(maps, plain.maps).index
    assert iq[real].min() > 0.95 and np.delete(iq, real).mean() < iq[real].min()
    assert np.isnan(stability.restart_stability(plain.rotations[:1], 0)).all()


def test_joint_subspace_is_white_and_rebuilds_the_runs(planted):
    runs, _ = planted
    space = joint_subspace(runs, 18)
    v = space.rows.shape[1]
    assert np.allclose(space.rows @ space.rows.T / v, np.eye(18), atol=1e-4)
    assert np.abs(space.rows.mean(axis=1)).max() < 1e-4
    z = np.concatenate([(r - r.mean(0)) / r.std(0, ddof=1) for r in runs]) @ space.rows.T / v
    assert np.allclose(space.covariances.sum(axis=0), z.T @ z, atol=1e-3)
    again = resampled_networks(space, 6, n_repeats=3, random_state=5)
    assert np.array_equal(again.maps, resampled_networks(space, 6, n_repeats=3, random_state=5).maps)
    with pytest.raises(ParameterError, match="directions"):
        resampled_networks(space, 19)


def test_kept_gram_matrices_change_nothing(monkeypatch):
    from planted import planted_runs

    from llmbrain.networks.engines import reduction
    from llmbrain.networks.engines.sources import as_sources
    from llmbrain.networks.evidence.order import half_subspace, halves

    runs, _ = planted_runs(2000, 4, (150, 90, 120, 60))
    ramps = [np.linspace(-1, 1, len(run)) for run in runs]
    plain, keeping = as_sources(runs), as_sources(runs)
    for source in keeping:
        source.keep_gram()
    computed = []
    gram = reduction.token_gram
    monkeypatch.setattr(reduction, "token_gram", lambda data: computed.append(data.n_rows) or gram(data))

    def everything(sources):
        options = {"group": "runs", "confounds": ramps}
        spaces = [joint_subspace(sources, 12, **options), joint_subspace(sources, 12, group="runs")]
        sides, nuisance = halves(sources, ramps)
        return spaces + [half_subspace(s, 4, confounds=c, group="runs") for s, c in zip(sides, nuisance)]

    expected, n_plain = everything(plain), len(computed)
    found, n_kept = everything(keeping), len(computed) - n_plain
    assert n_plain - n_kept == 4  # those of the halves; without confounds they are others
    for a, b in zip(expected, found):
        np.testing.assert_allclose(np.abs(np.diag(a.rows @ b.rows.T)) / 2000, 1, atol=1e-3)
        scale = np.abs(a.covariances).max()
        np.testing.assert_allclose(np.abs(a.covariances), np.abs(b.covariances), atol=2e-3 * scale)


def test_blocks_are_contiguous_whole_runs_if_there_are_enough(planted):
    labels = cut_blocks([100, 300], 20)
    assert [len(np.unique(x)) for x in labels] == [5, 15] and not set(labels[0]) & set(labels[1])
    assert all((np.diff(x) >= 0).all() for x in labels)
    assert [np.unique(x).tolist() for x in cut_blocks([5] * 25)] == [[i] for i in range(25)]
    assert len(np.unique(cut_blocks([3])[0])) == 3
    space = joint_subspace(planted[0], 12, group="tokens")
    assert len(space.covariances) == 12
    with pytest.raises(ParameterError, match="blocks need one label"):
        joint_subspace(planted[0], 12, blocks=[np.zeros(3)])


def test_runs_enter_the_joint_covariance_as_in_canonical_ica(planted):
    # with runs as pieces the leading directions must be those of the group reduction: already the first rows
    runs, _ = planted
    space = joint_subspace(runs, 18, group="runs", blocks=[np.full(250, i) for i in range(3)])
    values, vectors = np.linalg.eigh(space.covariances.sum(axis=0))
    assert values.max() <= 3 + 1e-6  # no direction is explained by more than all three runs
    plain = group_ica(runs, 6, group="runs")
    result = resampled_networks(space, 6, n_repeats=3, resample=False)
    assert np.abs(matching.match_maps(plain.maps, result.maps).score).min() > 0.99


@pytest.mark.parametrize("rows_per_run", [1, 2, 5])
def test_repetitions_see_as_many_rows_of_each_run_as_the_fit(rows_per_run):
    from planted import planted_runs, recovery

    runs, _ = planted_runs(1500, 4, (90,) * 12, snr=0.8, seed=3)
    rng = np.random.default_rng(0)
    for run in runs:  # strong directions of single runs, which come first in each of them
        run += (1.5 * rng.standard_normal((90, 3)) @ rng.standard_normal((3, 1500))).astype(np.float32)
    options = {"group": "runs", "rows_per_run": rows_per_run}
    space = joint_subspace(runs, 12, **options)
    n = 4 * rows_per_run
    assert all(len(part) >= n for part in space.parts)
    counted = sum(part[:n].T @ part[:n] for part in space.parts)
    np.testing.assert_allclose(space.covariance(np.ones(12), 4), counted)
    again = resampled_networks(space, 4, n_repeats=3, resample=False)
    fit = group_ica(runs, 4, n_init=3, warn=False, **options)
    assert recovery(fit.maps, again.maps).mean() > 0.9


def test_after_a_fit_that_keeps_them_the_runs_are_not_read_again(monkeypatch):
    from planted import planted_runs

    from llmbrain.networks.engines.sources import ArraySource, as_sources, keep_grams

    runs, _ = planted_runs(2000, 4, (150, 90, 120, 60))
    plain, keeping = as_sources(runs), as_sources(runs)
    keep_grams(keeping)
    expected, found = (group_ica(sources, 4, group="runs") for sources in (plain, keeping))
    np.testing.assert_allclose(found.maps, expected.maps, atol=1e-4)
    whole = {"blocks": [np.full(len(run), i) for i, run in enumerate(runs)], "group": "runs"}
    expected = joint_subspace(plain, 12, **whole)
    monkeypatch.setattr(ArraySource, "read", lambda *args: pytest.fail("a run is read again"))
    found = joint_subspace(keeping, 12, **whole)
    np.testing.assert_allclose(np.abs(np.diag(found.rows @ expected.rows.T)) / 2000, 1, atol=1e-3)
