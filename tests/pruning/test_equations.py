"""Normal equations: in the inputs and in the tokens, and with channels that never vary."""

import math

import pytest
import torch

from llmbrain.pruning.equations import equations_of, frozen, removed_of, solve_damped
from llmbrain.stats.moments import Moments
from llmbrain.stats.rows import Rows


@pytest.fixture
def tokens():
    g = torch.Generator().manual_seed(2)
    return torch.randn(30, 50, generator=g) + 2, torch.randn(30, 4, generator=g), torch.randn(4, 50, generator=g)


def both(tokens):
    x, y, _ = tokens
    sides = Rows(50, 4), Moments(50, 4, dtype=torch.float64)
    for side in sides:
        side.add(x, y)
    return sides


def test_frozen_moments_are_the_same_moments(tokens):
    _, moments = both(tokens)
    once = frozen(moments)
    for name in ("mean", "covariance", "target_mean", "cross_covariance", "target_variance", "variance", "n"):
        assert torch.equal(torch.as_tensor(getattr(once, name)), torch.as_tensor(getattr(moments, name)))
    assert once.covariance is once.covariance and frozen(once) is once


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("ridge", [1e-3, 0.3, math.inf])
def test_equations_in_the_tokens_have_the_solution_of_those_in_the_inputs(tokens, centred, ridge):
    weight, kept = tokens[2].double(), torch.arange(40)
    dual, primal = (equations_of(weight, side, kept, centred, ridge) for side in both(tokens))
    assert type(dual) is not type(primal) and dual.scale == pytest.approx(primal.scale, rel=1e-5)
    (change, explained), (wanted, of_it) = dual.solve(ridge), primal.solve(ridge)
    torch.testing.assert_close(change, wanted, rtol=0, atol=1e-4)
    assert explained == pytest.approx(of_it, rel=1e-4, abs=1e-9)


def test_what_a_penalty_leaves_is_the_inverse_and_channels_without_variance_get_nothing():
    matrix = torch.diag(torch.tensor([4.0, 2.0, 0.0], dtype=torch.float64))
    solved = solve_damped(matrix, torch.ones(1, 3, dtype=torch.float64), 0.5)  # the mean of the diagonal is 2
    torch.testing.assert_close(solved, torch.tensor([[1 / 5, 1 / 3, 0.0]], dtype=torch.float64))
    assert removed_of(torch.tensor([2, 0]), 4).tolist() == [1, 3]
