"""Pruning on arrays: closed forms against direct computation, scores against brute force, counts against budgets."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmbrain.exceptions import ParameterError
from llmbrain.pruning import allocation as alloc
from llmbrain.pruning import scores as sc
from llmbrain.pruning.compensation import RIDGE_GRID, choose_ridge, compensate, output_error, removed_of, schur_residual
from llmbrain.pruning.walk import held_out_share
from llmbrain.stats.moments import Moments


@pytest.fixture(scope="module")
def data():
    """Correlated, non-centred activations of very different scales, weights, a target, and kept columns."""
    g = torch.Generator().manual_seed(0)
    mixing = torch.randn(12, 30, generator=g)
    x = torch.randn(900, 12, generator=g) @ mixing + 0.3 * torch.randn(900, 30, generator=g)
    x = (x + 2 * torch.randn(30, generator=g)) * torch.logspace(-1, 1, 30)
    y = 0.2 * x[:, :5] @ torch.randn(5, 7, generator=g) + torch.randn(900, 7, generator=g) + 1.5
    kept = torch.arange(0, 30, 2)
    return {"x": x, "y": y, "w": torch.randn(7, 30, generator=g), "kept": kept, "removed": torch.arange(1, 30, 2)}


def moments_of(x, y=None, block=97, weights=None, **kwargs):
    moments = Moments(x.shape[1], 0 if y is None else y.shape[1], **kwargs)
    for i in range(0, len(x), block):
        part = slice(i, i + block)
        moments.add(x[part], None if y is None else y[part], None if weights is None else weights[part])
    return moments


def test_held_out_blocks_are_spread():
    assert sum(held_out_share(16, 0.25)) == 4
    assert sum(held_out_share(2, 0.01)) == 1
    assert held_out_share(1) == [False]


# -- compensation ---------------------------------------------------------------------------------------------------
def direct_error(d, refit, y=None):
    target = d["x"].double() @ d["w"].double().T + (0 if y is None else y.double())
    given = d["x"].double()[:, d["kept"]] @ refit.weight.T + (0 if refit.bias is None else refit.bias)
    return float((target - given).square().sum(1).mean())


@pytest.mark.parametrize("with_target", [False, True])
@pytest.mark.parametrize("method", ["none", "bias", "ridge", "affine"])
def test_error_from_moments_is_the_measured_error(data, method, with_target):
    y = data["y"] if with_target else None
    m = moments_of(data["x"], y)
    refit = compensate(data["w"], m, data["kept"], method, 1e-2)
    assert output_error(data["w"], m, data["kept"], refit) == pytest.approx(direct_error(data, refit, y), rel=1e-3)


def test_more_freedom_never_costs_calibration_error(data):
    m = moments_of(data["x"])
    error = {}
    for method in ("none", "bias", "ridge", "affine"):
        error[method] = output_error(data["w"], m, data["kept"], compensate(data["w"], m, data["kept"], method, 1e-9))
    assert error["affine"] <= error["bias"] * (1 + 1e-6) <= error["none"] * (1 + 1e-6)
    assert error["affine"] <= error["ridge"] * (1 + 1e-6) <= error["none"] * (1 + 1e-6)
    for ridge in RIDGE_GRID:  # a penalised correction is still no worse than none
        fit = compensate(data["w"], m, data["kept"], "affine", ridge)
        assert output_error(data["w"], m, data["kept"], fit) <= error["bias"] * (1 + 1e-6)


def test_affine_is_least_squares(data):
    m = moments_of(data["x"])
    refit = compensate(data["w"], m, data["kept"], "affine", 0)
    x = data["x"].double()
    design = torch.cat([x[:, data["kept"]], torch.ones(900, 1, dtype=torch.float64)], 1)
    solution = torch.linalg.lstsq(design, x @ data["w"].double().T).solution
    torch.testing.assert_close(refit.weight, solution[:-1].T, rtol=1e-3, atol=1e-3)


def test_affine_holds_bias_and_ridge_as_limits(data):
    m = moments_of(data["x"])
    stiff = compensate(data["w"], m, data["kept"], "affine", 1e9)
    bias = compensate(data["w"], m, data["kept"], "bias")
    torch.testing.assert_close(stiff.weight, bias.weight, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(stiff.bias, bias.bias, rtol=1e-4, atol=1e-4)
    centred = data["x"] - data["x"].mean(0)
    m = moments_of(centred)
    ridge = compensate(data["w"], m, data["kept"], "ridge", 0.05)
    affine = compensate(data["w"], m, data["kept"], "affine", 0.05)
    torch.testing.assert_close(ridge.weight, affine.weight, rtol=1e-4, atol=1e-4)


def test_schur_residual_is_the_measured_residual(data):
    m = moments_of(data["x"])
    refit = compensate(data["w"], m, data["kept"], "affine", 0)
    assert schur_residual(data["w"], m.covariance, data["kept"]) == pytest.approx(direct_error(data, refit), rel=1e-3)


def test_obs_form_equals_ridge(data):
    """Removing columns by the inverse of the damped Gram is the same as refitting the kept ones."""
    m = moments_of(data["x"])
    gram, w, removed = m.gram, data["w"].double(), data["removed"]
    penalty = 0.01 * float(gram[data["kept"]][:, data["kept"]].diagonal().mean())
    inverse = torch.linalg.inv(gram + penalty * torch.eye(30))
    step = -w[:, removed] @ torch.linalg.solve(inverse[removed][:, removed], inverse[removed])
    refit = compensate(w, m, data["kept"], "ridge", 0.01)
    torch.testing.assert_close((w + step)[:, data["kept"]], refit.weight, rtol=1e-4, atol=1e-4)


def test_dead_channels_do_no_harm(data):
    x = data["x"].clone()
    x[:, [4, 5]] = 0
    m = moments_of(x)
    refit = compensate(data["w"], m, data["kept"], "affine", 1e-3)
    assert bool(torch.isfinite(refit.weight).all())
    assert output_error(data["w"], m, data["kept"], refit) < output_error(
        data["w"], m, data["kept"], compensate(data["w"], m, data["kept"], "none")
    )


def test_ridge_follows_the_number_of_tokens():
    g = torch.Generator().manual_seed(3)
    mixing = torch.randn(40, 40, generator=g)
    x = torch.randn(20_060, 40, generator=g) @ mixing / 6 + torch.randn(20_060, 40, generator=g)
    w, kept = torch.randn(5, 40, generator=g), torch.arange(30)
    held = moments_of(x[20_000:], block=5000)
    chosen = [
        choose_ridge(w, moments_of(x[:n], block=5000), moments_of(x[60:20_000], block=5000), kept)[0]
        for n in (60, 20_000)
    ]
    assert chosen[0] > chosen[1]
    assert choose_ridge(w, held, held, kept, "bias") == (None, [])


def _direct_errors(weight, fit, held, kept, method, grid, residual):
    """The way it is defined: refit at every penalty, measure every refit."""
    return [
        output_error(weight, held, kept, compensate(weight, fit, kept, method, ridge, residual), residual)
        for ridge in grid
    ]


@pytest.mark.parametrize("with_target", [False, True])
@pytest.mark.parametrize("method", ["ridge", "affine"])
def test_the_whole_path_of_penalties_equals_one_refit_after_another(data, method, with_target):

    x, weight, kept, y = data["x"], data["w"], data["kept"], data["y"]
    x = x.clone()
    x[:, kept[0]] = 3.0  # a channel without variance
    half = len(x) // 2
    sides = [Moments(x.shape[1], y.shape[1] if with_target else 0) for _ in range(2)]
    for side, part in zip(sides, (slice(0, half), slice(half, None))):
        side.add(x[part], y[part] if with_target else None)
    ridge, errors = choose_ridge(weight, *sides, kept, method)
    wanted = _direct_errors(weight, *sides, kept, method, RIDGE_GRID, True)
    np.testing.assert_allclose(errors, wanted, rtol=1e-7)
    assert ridge == RIDGE_GRID[int(np.argmin(wanted))]


def test_the_walk_along_the_penalties_finds_the_same(data, monkeypatch):
    from llmbrain.pruning import compensation

    x, weight, kept = data["x"], data["w"], data["kept"]
    sides = [Moments(x.shape[1]), Moments(x.shape[1])]
    sides[0].add(x[: len(x) // 2])
    sides[1].add(x[len(x) // 2 :])
    ridge, errors = compensation.choose_ridge(weight, *sides, kept)
    monkeypatch.setattr(compensation, "_LARGE", 0)
    again, some = compensation.choose_ridge(weight, *sides, kept)
    measured = ~np.isnan(some)
    assert again == ridge and 2 < measured.sum() < len(some)
    np.testing.assert_allclose(np.array(some)[measured], np.array(errors)[measured], rtol=1e-7)


def test_an_endless_penalty_is_mean_bias(data):
    moments = Moments(data["x"].shape[1])
    moments.add(data["x"])
    limit = compensate(data["w"], moments, data["kept"], "affine", float("inf"))
    bias = compensate(data["w"], moments, data["kept"], "bias")
    assert torch.equal(limit.weight, bias.weight)
    torch.testing.assert_close(limit.bias, bias.bias)


def test_frozen_moments_are_the_same_moments(data):
    from llmbrain.pruning.compensation import frozen

    moments = Moments(data["x"].shape[1], data["y"].shape[1])
    moments.add(data["x"], data["y"])
    once = frozen(moments)
    for name in ("mean", "covariance", "target_mean", "cross_covariance", "target_variance", "variance", "n"):
        assert torch.equal(torch.as_tensor(getattr(once, name)), torch.as_tensor(getattr(moments, name)))
    assert once.covariance is once.covariance and frozen(once) is once


@pytest.mark.parametrize(("windows", "length"), [(1, 1024), (2, 1024), (8, 512), (64, 1024), (3, 40), (1, 5)])
def test_enough_tokens_are_held_out_at_every_size(windows, length):
    from llmbrain.pruning.walk import held_out_masks

    masks = [torch.ones(min(4, windows - i), length, dtype=torch.bool) for i in range(0, windows, 4)]
    masks[-1][-1, length - 2 :] = False  # padding
    held = held_out_masks(masks, 0.125)
    n = sum(int(m.sum()) for m in masks)
    n_held = sum(int(h.sum()) for h in held)
    assert 0 < n_held < 0.5 * n and not any(bool((h & ~m).any()) for h, m in zip(held, masks))
    if n > 4096:
        assert abs(n_held / n - 0.125) < 0.02
    elif n > 1000:
        assert 250 <= n_held <= 520
    assert not any(bool(h.any()) for h in held_out_masks(masks, 0.0))


def test_unknown_compensation_is_refused(data):
    with pytest.raises(ParameterError, match="affine"):
        compensate(data["w"], moments_of(data["x"]), data["kept"], "magic")


# -- scores ---------------------------------------------------------------------------------------------------------
def test_simple_scores_are_their_formulas(data):
    m, w = moments_of(data["x"]), data["w"].double()
    torch.testing.assert_close(sc.magnitude(w), w.norm(dim=0))
    rms = data["x"].double().square().mean(0).sqrt()
    wanda = torch.stack([(w[:, j].abs() * rms[j]).mean() for j in range(30)])
    torch.testing.assert_close(sc.wanda_sp(w, m.second_moment), wanda, rtol=1e-5, atol=1e-6)
    fluctuation = data["x"].double().var(0, correction=0) * w.norm(dim=0) ** 2
    torch.testing.assert_close(sc.flap(w, m.variance), fluctuation, rtol=1e-5, atol=1e-6)


def test_obs_column_is_the_error_of_removing_one_column(data):
    m = moments_of(data["x"])
    score = sc.obs_column(data["w"], m.gram, ridge=1e-9)
    for j in (0, 7, 29):
        kept = removed_of(torch.tensor([j]), 30)
        refit = compensate(data["w"], m, kept, "ridge", 1e-9)
        assert float(score[j]) * 2 == pytest.approx(output_error(data["w"], m, kept, refit), rel=0.02)


def test_greedy_elimination_equals_refitting_after_every_step(data):
    m = moments_of(data["x"])
    score = sc.greedy_obs(data["w"], m.covariance, ridge=1e-7)
    order = score.argsort()
    left = list(range(30))
    for step in range(12):  # brute force: try every column, refit all others
        errors = {j: schur_residual(data["w"], m.covariance, torch.tensor([i for i in left if i != j])) for j in left}
        best = min(errors, key=errors.get)
        assert int(order[step]) == best
        assert float(score[best]) == pytest.approx(errors[best], rel=0.02, abs=1e-4)
        left.remove(best)


def test_obs_blocks_are_the_error_of_removing_a_block(data):
    m = moments_of(data["x"])
    score = sc.obs_blocks(data["w"], m.gram, 5, ridge=1e-9)
    assert len(score) == 6
    kept = torch.arange(5, 30)
    refit = compensate(data["w"], m, kept, "ridge", 1e-9)
    assert 2 * float(score[0]) == pytest.approx(output_error(data["w"], m, kept, refit), rel=0.02)


def test_leverage_sums_to_the_effective_rank(data):
    m = moments_of(data["x"])
    leverage = sc.ridge_leverage(m.covariance, ridge=1e-2)
    c = m.covariance
    penalty = 1e-2 * float(c.diagonal().mean())
    values = torch.linalg.eigvalsh(c)
    assert float(leverage.sum()) == pytest.approx(float((values / (values + penalty)).sum()), rel=1e-3)


def test_dead_units_score_nothing(data):
    x = data["x"].clone()
    x[:, 3] = 0
    m = moments_of(x)
    for score in (sc.obs_column(data["w"], m.gram), sc.ridge_leverage(m.covariance), sc.flap(data["w"], m.variance)):
        assert float(score[3]) == 0


def test_block_sum_refuses_what_does_not_divide():
    with pytest.raises(ParameterError, match="heads of 3"):
        sc.block_sum(torch.ones(4), 3)


# -- allocation -----------------------------------------------------------------------------------------------------
@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(4, 60), min_size=1, max_size=8),
    ratio=st.floats(0.05, 0.9),
    seed=st.integers(0, 5),
)
def test_budgets_are_met_exactly(sizes, ratio, seed):
    rng = np.random.default_rng(seed)
    n_keep = max(round((1 - ratio) * sum(sizes)), len(sizes))
    scores = [rng.exponential(size=n) * rng.uniform(0.1, 10) for n in sizes]
    levels = np.array([0.2, 0.5, 0.8])
    curves = alloc.smooth_curves(rng.uniform(0.1, 3, size=(len(sizes), 1)) * levels**2 + 1e-3, levels)
    for counts in (
        alloc.global_standardised(scores, n_keep),
        alloc.global_threshold(scores, n_keep),
        alloc.sensitivity_counts(rng.uniform(0.1, 3, len(sizes)), sizes, n_keep),
        alloc.fill_by_curves(curves, [0, *levels], sizes, n_keep, extremes=0.5),
    ):
        assert counts.sum() == n_keep
        assert (counts >= 1).all()
        assert (counts <= sizes).all()
    assert abs(alloc.uniform(sizes, n_keep).sum() - n_keep) <= len(sizes)


def test_exempt_layers_and_floors_hold():
    scores = [np.zeros(10), np.ones(10), np.ones(10) * 2]
    counts = alloc.global_threshold(scores, 16, floors=[10, 2, 2])
    assert counts.tolist() == [10, 2, 4]
    with pytest.raises(ParameterError, match="floors"):
        alloc.uniform([10, 10], 5, floors=[10, 1])


def test_widths_are_rounded_after_the_allocation():
    sizes = [1536] * 6
    wanted = np.array([900, 1200, 1300, 1536, 700, 801.0])
    counts = alloc.round_counts(wanted, sizes, 6400, round_to=128)
    assert (counts % 128 == 0).all()
    assert abs(counts.sum() - 6400) <= 64
    assert np.abs(counts - wanted).max() <= 200


def test_uniform_widths_are_equal():
    assert len(set(alloc.uniform([48] * 4, 134).tolist())) == 1


def test_sensitive_layers_keep_more():
    counts = alloc.sensitivity_counts([4.0, 1.0, 1.0, 2.0], [100] * 4, 200, exponent=0.5)
    assert counts[0] > counts[3] > counts[1]
    assert abs(counts[1] - counts[2]) <= 1
    assert alloc.sensitivity_counts([4.0, 1.0], [100] * 2, 100, exponent=0).tolist() == [50, 50]


def test_curves_find_the_planted_optimum():
    """Loss a_i r^2 in layer i: the optimum has a_i r_i equal everywhere."""
    a = np.array([1.0, 2.0, 4.0])
    levels = np.linspace(0.05, 1, 20)
    curves = alloc.smooth_curves(a[:, None] * levels**2, levels, over_layers=0)
    counts = alloc.fill_by_curves(curves, [0, *levels], [1000] * 3, 2125)
    removed = 1 - counts / 1000
    np.testing.assert_allclose(removed, 0.5 / a, atol=0.03)


def test_noisy_curves_become_convex_and_rising():
    rng = np.random.default_rng(0)
    levels = np.array([0.15, 0.3, 0.5, 0.7, 0.85])
    noisy = 0.1 * levels**2 + 0.02 * rng.standard_normal((5, 5))
    curves = alloc.smooth_curves(noisy, levels)
    x = np.concatenate([[0], levels])
    slopes = np.diff(curves, axis=1) / np.diff(x)
    assert (slopes >= -1e-12).all()
    assert (np.diff(slopes, axis=1) >= -1e-9).all()


def test_penalty_keeps_layers_from_being_emptied():
    levels = np.array([0.25, 0.5, 0.75])
    curves = np.array([[0, 0.001, 0.002, 0.003], [0, 0.1, 0.3, 0.6], [0, 0.1, 0.3, 0.6]])
    greedy = alloc.fill_by_curves(curves, [0, *levels], [100] * 3, 200)
    calm = alloc.fill_by_curves(curves, [0, *levels], [100] * 3, 200, extremes=2.0)
    assert greedy[0] < calm[0]
