"""Allocation by measured curves: how far the whole model diverges when only one layer is cut."""

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from ...models.anatomy import anatomy_of
from ...models.hooks import restoring
from ...models.inputs import input_device
from ..compensation import default_ridge
from ..survey import gather
from ..walk import Walk
from .probe import Probe, probing
from .shares import ALLOCATIONS, check_floors, round_counts
from .supernet import Supernet, run_rest

LEVELS = (0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95)
N_REFITS = 6.0  # of a whole layer, of which fits at twenty widths are the work
PROBED = 16_384  # most tokens on which divergences are measured


@dataclass
class Curves:
    """Divergence when only one layer is cut, with what is needed to measure allocations of all layers.

    ``losses`` has shape (n_layers, n_levels), nats per token, for the shares of each layer in ``levels``.
    """

    losses: np.ndarray
    levels: tuple
    supernet: Supernet
    probe: Probe

    @property
    def sizes(self):
        """Neurons of each layer."""
        return [part.size for part in self.supernet.parts]


@torch.no_grad()
def measure_curves(
    model, parts, orders, fit_blocks, probe_blocks, *, levels=LEVELS, n_steps=None, weighting=None, progress=None
):
    """Measure the divergence when only one layer is cut and refitted, for every share in ``levels``.

    Refits read ``fit_blocks``, divergences ``probe_blocks``. Layers are fitted at the widths of the levels, or at all
    multiples of ``1 / n_steps``. The model is dense before and after.
    """
    device = input_device(model)
    with probing(device):
        probe, probe_walk = Probe(model, probe_blocks), Walk(model, probe_blocks)
    supernet = Supernet(model, parts, orders, widths=_widths(parts, levels, n_steps), n_steps=n_steps or 20)
    fit_walk = Walk(model, fit_blocks)
    losses = np.zeros((len(parts), len(levels)))
    norm = anatomy_of(model).norm
    for i, part in enumerate(parts):
        outputs = []
        moments = gather(fit_walk, part.layer, part.writer, weighting=weighting, outputs=outputs)[0]
        supernet.fit(i, moments, default_ridge(moments.n, part.size))
        with probing(device):
            for j, level in enumerate(levels):
                with restoring(partial(supernet.take, i)):
                    supernet.put(i, round(part.size * (1 - level)))
                    losses[i, j] = probe.divergence(run_rest(probe_walk, part.layer, norm))
            probe_walk.advance(part.layer)
        fit_walk.restart(outputs)
        if progress:
            progress()
    return Curves(losses, tuple(levels), supernet, probe)


def _widths(parts, levels, n_steps):
    if n_steps is None:
        return [sorted({max(1, round(part.size * (1 - level))) for level in levels}) for part in parts]
    return [sorted({max(1, round(part.size * k / n_steps)) for k in range(1, n_steps)}) for part in parts]


def tokens_of_curves(options, n_layers, n_tokens, levels=LEVELS, most=PROBED):
    """Tokens that pass through the model: for one cut layer, those after it run again, on average half of them."""
    return tokens_probed(options, n_tokens, most) * len(levels) * n_layers / 2


def tokens_probed(options, n_tokens, most=PROBED):
    """Tokens on which divergences are measured; :func:`~llmbrain.pruning.calibration.split_windows` chooses them."""
    n_windows = n_tokens / options.context
    if n_windows >= 8 * options.batch_size:
        held = options.held_out * n_tokens
    else:
        held = n_tokens / 4 if n_windows >= 8 else min(options.context, n_tokens / 2)
    return min(held, most)


@ALLOCATIONS.register("curves", needs=("curves", "extremes"), reads=tokens_of_curves, n_refits=N_REFITS, heads="losses")
def by_curves(curves, extremes, n_keep, *, floors=1, round_to=1):
    """Remove neurons at equal marginal loss along the measured curves of every layer."""
    smooth, levels = smooth_curves(curves.losses, curves.levels), [0, *curves.levels]
    return fill_by_curves(smooth, levels, curves.sizes, n_keep, extremes=extremes, floors=floors, round_to=round_to)


def smooth_curves(losses, levels, *, over_layers=0.25):
    """Smooth loss curves: rising, convex, and close to those of neighbouring layers.

    Parameters
    ----------
    losses : array-like, shape (n_layers, n_levels)
        Added loss when only one layer is pruned, at each level.
    levels : array-like, shape (n_levels,)
        Shares removed, rising, without 0.
    over_layers : float
        Weight of each neighbouring layer in the logarithm of the curve (0 does not smooth). The first and last layer
        are not smoothed: they differ from their neighbours.

    Returns
    -------
    numpy.ndarray, shape (n_layers, n_levels + 1)
        Convex curves at ``[0, *levels]``.
    """
    losses = np.asarray(losses, dtype=float)
    levels = np.asarray(levels, dtype=float)
    floor = 0.02 * np.median(losses, axis=0).max()  # noise of the measurement, before the logarithm
    logs = np.log(np.maximum(losses, max(floor, 1e-12) * levels / levels[-1]))
    smoothed = logs.copy()
    for i in range(1, len(logs) - 1):
        neighbours = [j for j in (i - 1, i + 1) if 0 < j < len(logs) - 1]
        weights = np.array([1.0] + [over_layers] * len(neighbours))
        smoothed[i] = np.average(logs[[i, *neighbours]], axis=0, weights=weights)
    curves = np.concatenate([np.zeros((len(losses), 1)), np.exp(smoothed)], axis=1)
    x = np.concatenate([[0.0], levels])
    return np.stack([_convex(x, c) for c in curves])


def _convex(x, y):
    """Nearest convex, non-decreasing curve through 0: isotonic regression of the slopes, weighted by the steps."""
    from scipy.optimize import isotonic_regression

    steps = np.diff(x)
    slopes = isotonic_regression(np.maximum(np.diff(y) / steps, 0), weights=steps).x
    return np.concatenate([[0.0], np.cumsum(slopes * steps)])


def fill_by_curves(curves, levels, sizes, n_keep, *, extremes=0.0, floors=1, round_to=1):
    """Remove units where the measured curves rise least, so that the marginal loss per unit is equal everywhere.

    Parameters
    ----------
    curves : array-like, shape (n_layers, n_levels)
        Convex added loss at ``levels`` (the first is 0), from :func:`smooth_curves`.
    levels : array-like, shape (n_levels,)
        Shares removed, from 0.
    sizes : array-like of int, shape (n_layers,)
    n_keep : int
    extremes : float
        Strength of a quadratic penalty ``extremes * mean slope * removed ** 2``, which keeps layers from being emptied:
        curves of single layers underestimate the loss of many emptied layers together.
    floors, round_to
        See :func:`round_counts`.

    Returns
    -------
    numpy.ndarray of int, shape (n_layers,)
    """
    from scipy.interpolate import PchipInterpolator

    curves, levels = np.asarray(curves, dtype=float), np.asarray(levels, dtype=float)
    sizes, n_keep, floors = check_floors(sizes, n_keep, floors)
    grid = np.linspace(0, 1, 513)
    if levels[-1] < 1:  # beyond the last level the curve continues with twice its last slope
        last = np.diff(curves[:, -2:], axis=1) / (levels[-1] - levels[-2])
        curves = np.concatenate([curves, curves[:, -1:] + 2 * last * (1 - levels[-1])], axis=1)
        levels = np.append(levels, 1.0)
    # Straight lines between few levels would take all layers to the same corners.
    full = PchipInterpolator(levels, curves, axis=1)(grid)
    penalty = extremes * np.median(full[:, grid.searchsorted(0.5)]) * grid**2
    slopes = np.diff(full + penalty, axis=1) / sizes[:, None]
    middles = (grid[1:] + grid[:-1]) / 2
    allowed = middles[None, :] <= 1 - (floors / sizes)[:, None]
    price = np.where(allowed, np.maximum.accumulate(slopes, axis=1), np.inf)
    order = np.argsort(price, axis=None, kind="stable")
    step = np.repeat(sizes / len(middles), len(middles))[order]
    used = np.zeros(price.size, dtype=bool)
    used[order[np.cumsum(step) <= sizes.sum() - n_keep + 1e-9]] = True
    removed = used.reshape(price.shape).sum(1) * sizes / len(middles)
    return round_counts(sizes - removed, sizes, n_keep, floors=floors, round_to=round_to)
