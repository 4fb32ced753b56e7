"""Leading directions from the products between tokens, between neurons, and from a Krylov space."""

import numpy as np
import pytest
import torch
from planted import planted_runs, recovery

from llmbrain.exceptions import ParameterError
from llmbrain.networks.engines import group_models, leading, reduction
from llmbrain.networks.engines import runs as blocks
from llmbrain.networks.engines.dictionary import group_dictionary
from llmbrain.networks.engines.group import group_ica

LENGTHS = [(700, 900, 650), (1500,), (150, 700, 120)]  # of 240 neurons: all runs tall, one run, wide and tall runs


def tall_runs(n_tokens, seed=0):
    return planted_runs(240, 4, n_tokens, snr=1.0, density=0.1, seed=seed)


@pytest.fixture
def token_side(monkeypatch):
    """Take the products between tokens, although there are fewer neurons."""
    for module in (leading, reduction, group_models):
        monkeypatch.setattr(module, "is_tall", lambda *_: False)


def cleaned(runs):
    return np.vstack([(x - x.mean(0)) / x.std(0, ddof=1) for x in (r.astype(np.float64) for r in runs)])


@pytest.mark.parametrize("n_tokens", LENGTHS)
def test_leading_pairs_are_the_singular_pairs(n_tokens):
    runs, _ = tall_runs(n_tokens)
    x = cleaned(runs)
    values, right = np.linalg.svd(x, full_matrices=False)[1:]
    found = leading.leading(blocks.CleanedRuns(runs), 6)
    assert found.left is None  # of fewer neurons than tokens
    np.testing.assert_allclose(found.values, values[:6] ** 2, rtol=1e-5)
    np.testing.assert_allclose(np.abs(found.right.numpy() @ right[:6].T), np.eye(6), atol=1e-3)


@pytest.mark.parametrize("n_tokens", LENGTHS)
@pytest.mark.parametrize("group", ["tokens", "runs", "auto"])
@pytest.mark.parametrize("options", [{}, {"rows_per_run": 1, "do_cca": False}])
def test_both_sides_give_the_same_networks(n_tokens, group, options, request):
    runs, truth = tall_runs(n_tokens)
    ours = group_ica(runs, 4, group=group, n_init=2, **options)
    request.getfixturevalue("token_side")
    other = group_ica(runs, 4, group=group, n_init=2, **options)
    assert ours.group == other.group and recovery(truth, ours.maps).min() > 0.9
    assert recovery(other.maps, ours.maps).min() > 0.9999
    np.testing.assert_allclose(ours.singular_values, other.singular_values, rtol=1e-4)
    np.testing.assert_allclose(ours.variance, other.variance, rtol=1e-3)
    for a, b in zip(ours.time_courses, other.time_courses):
        np.testing.assert_allclose(a, b, atol=1e-2 * np.abs(b).max())


def test_both_sides_give_the_same_dictionary(request):
    runs, _ = tall_runs(LENGTHS[0])
    ours = group_dictionary(runs, 4, group="runs")
    request.getfixturevalue("token_side")
    assert recovery(group_dictionary(runs, 4, group="runs").maps, ours.maps).min() > 0.999


@pytest.mark.parametrize("confounds", [False, True])
def test_long_runs_in_chunks_of_tokens_are_the_same_data(monkeypatch, confounds):
    runs, _ = tall_runs((700, 900))
    for run in runs:
        run += 50  # a mean that would consume the digits of the variance
        run[:, 3] = 7.0
    runs[1][100, 5] = np.nan
    ramps = [np.linspace(0, 9, len(r))[:, None] for r in runs] if confounds else None
    whole = blocks.CleanedRuns(runs, ramps)
    expected = [whole.block(r, 0, 240) for r in range(2)]
    maps = group_ica(runs, 4, confounds=ramps, n_init=2, warn=False)
    monkeypatch.setattr(blocks, "HOLD_BYTES", 1 << 16)
    monkeypatch.setattr(blocks, "BLOCK_VALUES", 1 << 14)
    data = blocks.CleanedRuns(runs, ramps)
    pieces = list(data.pieces())
    assert len(pieces) > 20 and all(data.is_long(r) for r in range(2))
    for r in range(2):
        found = torch.cat([data.piece(*piece) for piece in pieces if piece[0] == r])
        np.testing.assert_allclose(found, expected[r], atol=2e-4)
    assert torch.equal(data.dead() | data.bad, whole.dead() | whole.bad)
    again = group_ica(runs, 4, confounds=ramps, n_init=2, warn=False)
    assert recovery(maps.maps, again.maps).min() > 0.9999
    np.testing.assert_array_equal(maps.dead, again.dead)


def test_more_components_than_directions_of_tall_runs_are_refused():
    run = np.random.default_rng(0).standard_normal((400, 5)).astype(np.float32) @ np.ones((5, 60), np.float32)
    run += np.random.default_rng(1).standard_normal((400, 1)).astype(np.float32) * np.arange(60, dtype=np.float32)
    with pytest.raises(ParameterError, match="only 2 independent directions"):
        group_ica([run], 4, group="tokens")
