"""Moments of a stream against one pass over all of it in float64."""

import itertools

import numpy as np
import pytest
import torch
from blockwise import moments_of
from scipy import stats as sps

from llmbrain.exceptions import ParameterError
from llmbrain.stats import Moments

ALL = ("mean", "covariance", "gram", "cross_covariance", "target_mean", "target_variance")


@pytest.fixture(scope="module")
def data():
    """Correlated, non-centred tokens of very different scales, and a second signal that depends on them."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(900, 12, generator=g) @ torch.randn(12, 30, generator=g) + 0.3 * torch.randn(900, 30, generator=g)
    x = (x + 2 * torch.randn(30, generator=g)) * torch.logspace(-1, 1, 30)
    return x, 0.2 * x[:, :5] @ torch.randn(5, 7, generator=g) + torch.randn(900, 7, generator=g) + 1.5


@pytest.mark.parametrize("block", [1, 97, 900])
def test_streamed_moments_equal_one_pass(data, block):
    x, y = (v.double() for v in data)
    m = moments_of(*data, block)
    assert m.n == m.weight == 900
    torch.testing.assert_close(m.mean, x.mean(0), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(m.variance, x.var(0, correction=0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(m.second_moment, (x**2).mean(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(m.covariance, torch.cov(x.T, correction=0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(m.gram, x.T @ x / 900, rtol=1e-4, atol=1e-4)
    cross = (y - y.mean(0)).T @ (x - x.mean(0)) / 900
    torch.testing.assert_close(m.cross_covariance, cross, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(m.target_variance, y.var(0, correction=0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("block", [1, 97, 900])
def test_powers_give_the_kurtosis_of_wide_blocks(block):
    x = np.random.default_rng(0).gamma(2.0, size=(900, 1500)).astype(np.float32)  # more than one piece of columns
    x[:, 7] = 3.0
    m = moments_of(torch.from_numpy(x), full=False, order=4, block=block)
    np.testing.assert_allclose(m.variance, x.var(0, dtype=np.float64), rtol=1e-5, atol=1e-12)
    expected = sps.kurtosis(np.delete(x, 7, 1).astype(np.float64))
    np.testing.assert_allclose(np.delete(m.kurtosis.numpy(), 7), expected, rtol=1e-3, atol=1e-4)
    assert m.kurtosis[7] == 0 and m.variance[7] == 0


@pytest.mark.parametrize("full", [True, False])
def test_a_large_mean_leaves_a_small_variance_its_digits(full):
    g = torch.Generator().manual_seed(1)
    x = (1000 + 0.01 * torch.randn(4000, 3, generator=g, dtype=torch.float64)).float()  # as exact as float32 holds it
    exact = x.double().var(0, correction=0)
    naive = (x**2).mean(0) - x.mean(0) ** 2
    assert ((naive - exact).abs() > exact).any()  # without a shift nothing is left
    m = moments_of(x, full=full)
    torch.testing.assert_close(m.variance, exact, rtol=1e-4, atol=0)
    halves = moments_of(x[:1000], full=full).merge(moments_of(x[1000:], full=full))
    torch.testing.assert_close(halves.variance, exact, rtol=1e-3, atol=0)
    far = moments_of(x.double(), full=full, dtype=torch.float64)
    torch.testing.assert_close(far.about(torch.zeros(3)).variance, exact, rtol=1e-4, atol=0)


@pytest.mark.parametrize("kwargs", [{}, {"full": False, "order": 4}])
def test_merging_in_any_order_equals_one_pass(data, kwargs):
    x, y = data[0], None if kwargs else data[1]
    names = ("mean", "variance", "kurtosis") if kwargs else ALL
    whole = moments_of(x, y, **kwargs)
    parts = [moments_of(x[a:b], None if y is None else y[a:b], **kwargs) for a, b in ((0, 10), (10, 300), (300, 900))]
    for a, b, c in itertools.permutations(parts):
        merged = a.merge(b).merge(c)
        assert merged.n == 900 and merged.weight == 900
        for name in names:
            torch.testing.assert_close(getattr(merged, name), getattr(whole, name), rtol=1e-4, atol=1e-4)
    assert parts[0].n == 10  # the parts are not changed
    torch.testing.assert_close(parts[0].mean, x[:10].double().mean(0), rtol=1e-6, atol=1e-6)


def test_merging_with_nothing_changes_nothing(data):
    x, empty = data[0], Moments(30)
    for merged in (moments_of(x).merge(empty), empty.merge(moments_of(x))):
        torch.testing.assert_close(merged.covariance, moments_of(x).covariance)
    assert empty.n == 0 and empty.merge(empty).n == 0


@pytest.mark.parametrize("kwargs", [{}, {"full": False, "order": 4}])
def test_sums_about_one_shift_add_up(data, kwargs):
    """What several processes do: one shift, then the sum of every tensor."""
    x, y = data[0], None if kwargs else data[1]
    whole = moments_of(x, y, **kwargs)
    parts = [moments_of(x[a::3], None if y is None else y[a::3], **kwargs) for a in range(3)]
    parts = [
        part.about(parts[0].shift, parts[0].target_shift)
        for part in [*parts, Moments(30, 0 if y is None else 7, **kwargs)]
    ]
    total = parts[0]
    for other in parts[1:]:
        total.n, total.weight = total.n + other.n, total.weight + other.weight
        for name, value in other.sums.items():
            total.sums[name] += value
    for name in ("n", "variance", "kurtosis") if kwargs else ("n", *ALL):
        value, expected = (torch.as_tensor(getattr(m, name)) for m in (total, whole))
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-4)


def test_weights_exclude_and_repeat_tokens(data):
    x, y = data
    keep = torch.arange(900) % 3 != 0
    masked, direct = moments_of(x, y, weights=keep), moments_of(x[keep], y[keep])
    for name in ALL:
        torch.testing.assert_close(getattr(masked, name), getattr(direct, name), rtol=1e-4, atol=1e-4)
    assert masked.n == int(keep.sum())
    twice = moments_of(x, weights=torch.full((900,), 2.0), full=False, order=4)
    once = moments_of(x, full=False, order=4)
    assert twice.n == once.n and twice.weight == 2 * once.weight
    for name in ("mean", "variance", "kurtosis"):
        torch.testing.assert_close(getattr(twice, name), getattr(once, name), rtol=1e-6, atol=1e-6)
    weights = torch.rand(900, generator=torch.Generator().manual_seed(2))
    mean = (weights[:, None] * x).sum(0) / weights.sum()
    torch.testing.assert_close(moments_of(x, weights=weights).mean, mean.double(), rtol=1e-5, atol=1e-5)


def test_variances_alone_are_those_of_the_covariance(data):
    thin = moments_of(data[0], full=False)
    torch.testing.assert_close(thin.variance, moments_of(data[0]).variance, rtol=1e-5, atol=1e-6)
    assert sum(value.numel() for value in thin.sums.values()) == 60
    with pytest.raises(ParameterError, match="full=True"):
        _ = thin.covariance
    with pytest.raises(ParameterError, match="order=4"):
        _ = thin.kurtosis


def test_to_changes_the_type_of_the_matrices_and_copies(data):
    m = moments_of(*data)
    wide = m.to(dtype=torch.float64)
    assert {v.dtype for v in wide.sums.values()} == {torch.float64} and m.sums["second"].dtype == torch.float32
    wide.add(*data)
    assert (m.n, wide.n) == (900, 1800)
    torch.testing.assert_close(wide.covariance, m.covariance, rtol=1e-6, atol=1e-6)


def test_what_is_not_possible_is_refused():
    with pytest.raises(ParameterError, match="No token"):
        _ = Moments(3).mean
    with pytest.raises(ParameterError, match="order=3"):
        Moments(3, order=3)
    with pytest.raises(ParameterError, match="full=False"):
        Moments(3, order=4)
    with pytest.raises(ParameterError, match="different kinds"):
        Moments(3).merge(Moments(4))
    with pytest.raises(ParameterError, match="y is missing"):
        Moments(3, 2).add(torch.zeros(1, 3))
    with pytest.raises(ParameterError, match="y is given"):
        Moments(3).add(torch.zeros(1, 3), torch.zeros(1, 2))
