"""FastICA: every shortcut against its definition and scikit-learn."""

import numpy as np
import pytest
import torch
from planted import planted_runs

from llmbrain.networks.engines import ica, reduction
from llmbrain.networks.engines import runs as blocks
from llmbrain.networks.engines.contrasts import CONTRASTS


def white(c=6, v=4000, seed=0):
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((c, c)) @ rng.laplace(size=(c, v)) ** 3
    z -= z.mean(1, keepdims=True)
    values, vectors = np.linalg.eigh(z @ z.T / v)
    return torch.from_numpy(((vectors / np.sqrt(values)).T @ z).astype(np.float32))


def test_step_from_moments_is_the_step_over_the_data():
    z = white()
    w = ica.draw_rotations(3, 6, 0)
    step = ica._Step(z, "cube")
    direct = step._direct(w)
    step.moments = ica._fourth_moments(z)
    np.testing.assert_allclose(step._from_moments(w), direct, rtol=1e-3, atol=1e-4)


def test_fastica_is_scikit_learns_step_by_step():
    from sklearn.decomposition import fastica as stock

    z = white(4)
    start = ica.draw_rotations(1, 4, 0)
    ours = ica.fastica(z, start)
    _, rotation, _, n_iter = stock(
        z.T.double().numpy(), 4, whiten=False, fun="cube", w_init=start[0].numpy(), return_n_iter=True
    )
    assert ours.n_iter[0] == n_iter
    np.testing.assert_allclose(ours.w[0], rotation, atol=1e-4)


def test_restarts_are_those_run_alone():
    z = white()
    starts = ica.draw_rotations(4, 6, 0)
    together = ica.fastica(z, starts)
    for i in range(4):
        alone = ica.fastica(z, starts[i : i + 1])
        assert alone.n_iter[0] == together.n_iter[i]
        np.testing.assert_allclose(alone.w[0], together.w[i], atol=1e-4)


@pytest.mark.parametrize("contrast", CONTRASTS)
def test_batched_is_one_by_one(contrast):
    z = torch.stack([white(seed=s) for s in range(3)])
    starts = ica.draw_rotations(6, 6, 0).reshape(3, 2, 6, 6)
    w, n_iter, converged, _ = ica.batched_fastica(z, starts, contrast=contrast, max_iter=100)
    for i in range(3):
        alone = ica.fastica(z[i], starts[i], contrast=contrast, max_iter=100)
        np.testing.assert_array_equal(n_iter[i], alone.n_iter)
        np.testing.assert_array_equal(converged[i], alone.converged)
        np.testing.assert_allclose(w[i], alone.w, atol=1e-3)


def test_a_start_goes_on_where_it_was_left():
    runs, _ = planted_runs(2000, 4, (100,))
    data = blocks.CleanedRuns(runs)
    z = reduction.whiten(data, reduction.group_subspace(data, 4))
    starts = ica.draw_rotations(3, 4, 0)
    whole = ica.fastica(z, starts)
    begun = ica.fastica(z, starts[:1], max_iter=3)
    later = ica.fastica(z, starts, begun=begun)
    assert begun.n_iter[0] == 3 and later.n_iter.tolist() == whole.n_iter.tolist()
    np.testing.assert_allclose(later.w, whole.w, atol=1e-6)


def test_the_chosen_start_is_the_sparsest_or_the_most_extreme():
    z, starts = white(5, 3000), ica.draw_rotations(6, 5, 1)
    maps = starts.numpy() @ z.double().numpy()
    assert ica.sparsest_start(starts, z) == np.abs(maps).sum(-1).max(-1).argmin()
    assert ica.extreme_start(starts, z, "cube") == (((maps**4).mean(-1) - 3) ** 2).sum(-1).argmax()
    logcosh = np.log(np.cosh(maps)).mean(-1) - 0.3745672
    assert ica.extreme_start(starts, z, "logcosh") == (logcosh**2).sum(-1).argmax()
    assert ica.sparsest_start(starts[:1], z) == ica.extreme_start(starts[:1], z, "cube") == 0
