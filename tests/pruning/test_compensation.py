"""Compensations: closed forms against direct computation."""

import math

import numpy as np
import pytest
import torch
from blockwise import moments_of

from llmbrain.exceptions import (
    ParameterError,
)
from llmbrain.pruning.compensation import (
    RIDGE_GRID,
    Refit,
    choose_ridge,
    compensate,
    fitted_error,
    output_error,
    schur_residual,
    wanted_power,
)
from llmbrain.stats.moments import Moments
from llmbrain.stats.rows import Rows


def direct_error(d, refit, y=None):
    target = d["x"].double() @ d["w"].double().T + (0 if y is None else y.double())
    given = d["x"].double()[:, d["kept"]] @ refit.weight.T + (0 if refit.bias is None else refit.bias)
    return float((target - given).square().sum(1).mean())


def _direct_errors(weight, fit, held, kept, method):
    """The way it is defined: refit at every penalty, measure every refit."""
    return [output_error(weight, held, kept, compensate(weight, fit, kept, method, ridge)) for ridge in RIDGE_GRID]


@pytest.mark.parametrize("with_target", [False, True])
@pytest.mark.parametrize("method", ["none", "bias", "ridge", "affine"])
def test_error_from_moments_is_the_measured_error(data, method, with_target):
    y = data["y"] if with_target else None
    m = moments_of(data["x"], y)
    refit = compensate(data["w"], m, data["kept"], method, 1e-2)
    assert output_error(data["w"], m, data["kept"], refit) == pytest.approx(direct_error(data, refit, y), rel=1e-3)


@pytest.mark.parametrize("ridge", [0, 1e-2, 3.0, math.inf])
@pytest.mark.parametrize("method", ["none", "bias", "ridge", "affine"])
def test_the_error_of_a_fit_needs_no_second_product(data, method, ridge):
    x = data["x"].clone()
    x[:, 4] = 0  # a dead channel
    m, w, kept = moments_of(x, data["y"]), data["w"], data["kept"]
    refit = compensate(w, m, kept, method, ridge)
    assert fitted_error(w, m, kept, refit) == pytest.approx(output_error(w, m, kept, refit), rel=1e-6)
    assert (refit.explained is None) == (method != "affine")


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
    wanted = _direct_errors(weight, *sides, kept, method)
    np.testing.assert_allclose(errors, wanted, rtol=1e-7)
    assert ridge == RIDGE_GRID[int(np.argmin(wanted))]


@pytest.mark.parametrize("with_target", [False, True])
@pytest.mark.parametrize("method", ["ridge", "affine"])
def test_few_tokens_give_the_same_refits_as_their_moments(method, with_target):
    g = torch.Generator().manual_seed(1)
    x, weight, y = torch.randn(60, 90, generator=g), torch.randn(7, 90, generator=g), torch.randn(60, 7, generator=g)
    x = x @ torch.randn(90, 90, generator=g) + 4
    x[:, 3] = 0  # a dead channel
    weights = torch.rand(60, generator=g)
    sides = {}
    for kind, precision in ((Moments, {"dtype": torch.float64}), (Rows, {})):
        sides[kind] = [kind(90, 7 if with_target else 0, **precision) for _ in range(2)]
        for side, part in zip(sides[kind], (slice(0, 40), slice(40, None))):
            side.add(x[part], y[part] if with_target else None, weights[part])
    for kept in (torch.arange(70), torch.arange(25)):  # more and fewer than there are tokens to fit on
        ridge, errors = choose_ridge(weight, *sides[Rows], kept, method)
        again, wanted = choose_ridge(weight, *sides[Moments], kept, method)
        assert ridge == again
        np.testing.assert_allclose(errors, wanted, rtol=1e-3)
        for penalty in (1e-6, 1e-3, ridge, math.inf):
            given, other = (compensate(weight, sides[kind][0], kept, method, penalty) for kind in (Rows, Moments))
            scale = float(other.weight.abs().max())
            torch.testing.assert_close(given.weight, other.weight, rtol=0, atol=2e-3 * scale)
            for measure in (output_error, fitted_error):
                found = [measure(weight, sides[kind][0], kept, given) for kind in (Rows, Moments)]
                assert found[0] == pytest.approx(found[1], rel=2e-3, abs=1e-3 * wanted_power(weight, sides[Rows][0]))
    powers = [wanted_power(weight, sides[kind][0]) for kind in (Rows, Moments)]
    assert powers[0] == pytest.approx(powers[1], rel=1e-4)


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


def test_unknown_compensation_is_refused(data):
    with pytest.raises(ParameterError, match="affine"):
        compensate(data["w"], moments_of(data["x"]), data["kept"], "magic")


def test_channels_that_know_nothing_of_each_other_get_a_bias_alone():
    g = torch.Generator().manual_seed(0)
    x, weight, kept = torch.randn(160, 80, generator=g) + 1, torch.randn(5, 80, generator=g), torch.arange(40)
    fit, held = Moments(80), Moments(80)
    fit.add(x[:60])
    held.add(x[60:])
    ridge, errors = choose_ridge(weight, fit, held, kept)
    bias = output_error(weight, held, kept, compensate(weight, fit, kept, "bias"))
    assert ridge >= 10 and min(errors) <= bias
    assert output_error(weight, held, kept, compensate(weight, fit, kept, "affine", 1.0)) > 1.05 * bias


def test_refit_of_nothing_is_a_plain_slice():
    moments = Moments(4)
    moments.add(torch.randn(30, 4, generator=torch.Generator().manual_seed(0)))
    weight = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    whole = Refit(weight.double(), None)
    assert output_error(weight, moments, torch.arange(4), whole) == pytest.approx(0, abs=1e-12)
