"""Allocations: budgets, floors, steps and planted optima."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import llmbrain as lb
from llmbrain.exceptions import (
    ParameterError,
)
from llmbrain.pruning import Recipe
from llmbrain.pruning import allocation as alloc
from llmbrain.pruning.allocation import sensitivity_counts

quick = partial(lb.prune, recipe="fast", measure=False, progress=False)
SENTENCES = [f"the cat number {i} sat on the mat and then the rain in spain fell over hills {i * 7}" for i in range(16)]


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


@pytest.mark.parametrize("ratio", [0.01, 0.2, 0.5, 0.8, 0.9])
@pytest.mark.parametrize("spread", [0.1, 1.0, 3.0])
def test_layers_keep_their_order_where_shares_are_clipped(spread, ratio):
    """Of layers that cost more no fewer neurons stay, in all as many as wanted; within the limits in proportion."""
    s = np.exp(spread * np.random.default_rng(1).standard_normal(30))
    kept = sensitivity_counts(s, [1000] * 30, round(30_000 * (1 - ratio)), exponent=1.0)
    assert kept.sum() == round(30_000 * (1 - ratio))
    in_order = kept[np.argsort(s)]
    assert (np.diff(in_order) >= -1).all()  # rounding moves a neuron
    removed = 1 - kept / 1000
    inside = (removed > 0.021) & (removed < 0.849)
    if 0.02 <= ratio <= 0.85 and inside.sum() > 1:
        factor = removed[inside] * s[inside]
        assert np.ptp(factor / factor.mean()) < 0.15


def test_unclipped_shares_are_in_proportion():
    s = np.array([1.0, 2.0, 4.0])
    w = s.mean() / s
    wanted = 10_000 * (1 - 0.3 * w / w.mean())
    assert np.abs(sensitivity_counts(s, [10_000] * 3, 21_000, exponent=1.0) - wanted).max() <= 1


def test_power_allots_in_proportion_unless_told_otherwise(model, tokenizer):
    """The default exponent is 1 for power, 0.3 for the Schur residual; another is taken at its word."""

    def kept(allocation, **options):
        recipe = Recipe.named("fast").with_(allocation=allocation, compensation="none", context=48, **options)
        pruned = quick(model, tokenizer, SENTENCES, 0.4, recipe=recipe)
        return pruned.summary["n_kept"]

    assert kept("power") == kept("power", exponent=1.0) != kept("power", exponent=0.3)
    assert kept("schur") == kept("schur", exponent=0.3) != kept("schur", exponent=1.0)
    assert max(kept("power", exponent=0)) - min(kept("power", exponent=0)) <= 1
