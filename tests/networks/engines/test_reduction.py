"""Gram matrices and group subspaces."""

import numpy as np
import pytest
import torch
from planted import planted_runs, recovery

from llmbrain.exceptions import NumericalWarning, ParameterError
from llmbrain.networks.engines import leading, reduction
from llmbrain.networks.engines import runs as blocks
from llmbrain.networks.engines.group import group_ica
from llmbrain.networks.engines.parallel import workers


@pytest.mark.parametrize("n_tokens", [(300,), (150, 90, 60)])
@pytest.mark.parametrize("held", [True, False])
def test_gram_matrix_of_all_tokens(n_tokens, held):
    runs, _ = planted_runs(9000, 5, n_tokens)
    data = blocks.CleanedRuns(runs)
    if held:
        data.hold()
    x = np.concatenate([(r - r.mean(0)) / r.std(0, ddof=1) for r in runs]).astype(np.float64)
    found = [leading.token_gram(data)]
    with workers(n=3):
        found.append(leading.token_gram(data))
    np.testing.assert_allclose(found[0], x @ x.T, atol=1e-2)
    np.testing.assert_array_equal(*found)
    np.testing.assert_array_equal(found[0], found[0].T)


def test_krylov_on_data_equals_the_gram_matrix(monkeypatch):
    runs, _ = planted_runs(3000, 5, (150, 120))
    data = blocks.CleanedRuns(runs)
    exact = leading.leading(data, 5)
    monkeypatch.setattr(leading, "GRAM_ROWS", 10)
    monkeypatch.setattr(leading, "GRAM_ROWS_PER_VECTOR", 0)
    found = leading.leading(data, 5)
    np.testing.assert_allclose(found.values, exact.values, rtol=1e-4)
    assert np.linalg.svd((found.left.T @ exact.left).numpy(), compute_uv=False).min() > 0.9999


def test_gram_matrix_of_many_tokens_is_one_sum_for_all_workers():
    runs, _ = planted_runs(5000, 4, (300, 200, 140))
    expected = np.vstack([(x - x.mean(0)) / x.std(0, ddof=1) for x in (r.astype(np.float64) for r in runs)])
    found = []
    for n in (1, 2, 3):
        with workers(n=n):
            found.append(leading.token_gram(blocks.CleanedRuns(runs)))
    np.testing.assert_allclose(found[0], expected @ expected.T, atol=0.02)
    assert torch.equal(found[0], found[0].T) and all(torch.equal(found[0], f) for f in found[1:])


@pytest.mark.parametrize("group", reduction.GROUP_MODELS)
@pytest.mark.parametrize("options", [{}, {"do_cca": False, "rows_per_run": 1}])
def test_subspace_is_orthonormal_in_every_group_model(group, options):
    runs, _ = planted_runs(2000, 4, (100, 80, 60))
    data = blocks.CleanedRuns(runs)
    subspace = reduction.group_subspace(data, 4, group=group, **options)
    rows = reduction.project(data, subspace).double()
    np.testing.assert_allclose(rows @ rows.T, np.eye(4), atol=1e-5)
    assert subspace.group in reduction.GROUP_MODELS and not subspace.flat


def test_unknown_group_model_lists_the_choices():
    with pytest.raises(ParameterError, match="'auto', 'tokens', 'runs'. Did you mean 'tokens'"):
        reduction.group_subspace(blocks.CleanedRuns(planted_runs(300, 2, (60, 60))[0]), 2, group="token")


# -- runs that are copies of one ------------------------------------------------------------------------------------
def copies(noise=0.0, reverse=False, n=3):
    (run,), truth = planted_runs(3000, 5, (800,), snr=1.5, density=0.02)
    rng = np.random.default_rng(1)
    runs = [run] + [run + (noise * rng.standard_normal(run.shape)).astype(np.float32) for _ in range(n - 1)]
    return [np.ascontiguousarray(r[::-1]) if reverse and i else r for i, r in enumerate(runs)], truth


@pytest.mark.parametrize("case", [{}, {"noise": 1e-4}, {"noise": 1e-3}, {"reverse": True}, {"n": 2}])
@pytest.mark.parametrize("group", ["runs", "auto"])
@pytest.mark.parametrize("n_components", [4, 5, 7])
def test_copies_of_a_run_are_noticed_and_their_networks_found(case, group, n_components):
    runs, truth = copies(**case)
    with pytest.warns(NumericalWarning, match="share more directions equally well") as caught:
        found = group_ica(runs, n_components, group=group, n_init=3)
    assert found.flat and found.group == ("runs" if group == "runs" else "tokens")
    assert f"group='{found.group}'" in str(caught[0].message) or n_components == 7  # where starts fail to converge too
    if n_components >= 5:
        assert recovery(truth, found.maps).min() > 0.9
        alone = group_ica(runs[:1], n_components, n_init=3, warn=False)
        assert recovery(truth, found.maps).mean() > recovery(truth, alone.maps).mean() - 0.01


def test_long_copies_of_a_run_are_noticed(monkeypatch):
    monkeypatch.setattr("llmbrain.networks.engines.leading.TALL", 100)
    (run,), _ = planted_runs(500, 3, (150,), snr=1.5)
    assert group_ica([run, run], 3, n_init=1, warn=False).flat


@pytest.mark.filterwarnings("error:The runs share more")
@pytest.mark.filterwarnings("ignore:.*did not converge")
@pytest.mark.parametrize("snr", [0.3, 1.2, 30.0])
@pytest.mark.parametrize("n_components", [1, 3, 5, 9])
def test_independent_runs_are_not_taken_for_copies(snr, n_components):
    runs, _ = planted_runs(2000, 5, (200, 150, 180), snr=snr)
    for options in ({"group": "runs"}, {"group": "runs", "rows_per_run": 1}, {}, {"group": "runs", "do_cca": False}):
        assert not group_ica(runs, n_components, n_init=1, **options).flat


def test_rows_that_span_all_neurons_are_noticed():
    runs, _ = planted_runs(60, 4, (300, 280), snr=2.0, density=0.2)
    with pytest.warns(NumericalWarning, match="too few neurons for so many rows"):
        assert group_ica(runs, 12, group="runs").flat
    assert not group_ica(runs, 12, group="runs", rows_per_run=1, warn=False).flat
