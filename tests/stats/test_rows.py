"""Rows against the moments of the same vectors."""

import pytest
import torch

from llmbrain.exceptions import ParameterError
from llmbrain.stats.moments import Moments
from llmbrain.stats.rows import Rows

NAMES = ("n", "weight", "mean", "target_mean", "covariance", "cross_covariance", "variance", "target_variance")


@pytest.mark.parametrize("weighted", [False, True])
def test_rows_have_the_moments_of_their_vectors(weighted):
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(40, 9, generator=g) + 30, torch.randn(40, 3, generator=g) - 5
    weights = torch.rand(40, generator=g).mul(3).masked_fill(torch.arange(40) % 4 == 0, 0) if weighted else None
    parts, wanted = [Rows(9, 3), Rows(9, 3)], Moments(9, 3)
    for start in range(0, 40, 10):
        block = (x[start : start + 10], y[start : start + 10], None if weights is None else weights[start : start + 10])
        parts[start // 20].add(*block)
        wanted.add(*block)
    _ = parts[0].centred  # what is added later counts too
    given = parts[0].merge(parts[1])
    parts[0].add(x[20:], y[20:], None if weights is None else weights[20:])
    for name in NAMES:
        for rows in (given, parts[0]):
            torch.testing.assert_close(
                torch.as_tensor(getattr(rows, name)), torch.as_tensor(getattr(wanted, name)), rtol=1e-4, atol=1e-4
            )
    torch.testing.assert_close(given.centred.T @ given.centred, wanted.covariance.float(), rtol=1e-4, atol=1e-4)


def test_rows_without_vectors_or_with_half_of_a_pair_are_refused():
    with pytest.raises(ParameterError, match="No token"):
        _ = Rows(3).mean
    with pytest.raises(ParameterError, match="y is missing"):
        Rows(3, 2).add(torch.zeros(1, 3))
