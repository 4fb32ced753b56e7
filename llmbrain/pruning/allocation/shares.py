"""Allocations in closed form: how many units each layer keeps, from scores and statistics."""

import numpy as np

from ...arguments import checked, finite, whole
from ...exceptions import ParameterError, check_count
from ...registry import Registry

CLIP = 0.02, 0.85  # smallest and largest share removed from a layer, unless the ratio itself lies outside

# score: the score that it reads instead of the recipe's. random: whether the counts depend on the seed.
# reads: tokens that pass through the model to measure it, of options, number of layers, and calibration tokens.
# n_refits: refits that it makes, in equivalents of one of every layer.
# heads: how a budget of parameters is split between heads and neurons, a name of heads.HEAD_BUDGETS.
ALLOCATIONS = Registry(
    "allocation", needs=(), score=None, random=False, reads=lambda *_: 0, n_refits=0.0, heads="threshold"
)


def check_counts(counts, sizes):
    """Return given counts as an array, after checking that each is a whole number from 1 to the size of its layer."""
    counts = whole("counts", counts).astype(np.int64)
    if counts.shape != (len(sizes),) or (counts < 1).any() or (counts > np.asarray(sizes)).any():
        raise ParameterError(f"Counts must be {len(sizes)} whole numbers from 1 to the width of each layer.")
    return counts


def check_floors(sizes, n_keep, floors):
    """Return sizes, total and floors as whole numbers, after checking that the total lies between floors and sizes."""
    check_count("n_keep", n_keep, 0)
    sizes, floors = (whole(*given).astype(np.int64) for given in (("sizes", sizes), ("floors", floors)))
    if sizes.ndim != 1 or (sizes < 1).any() or (floors < 0).any() or floors.shape not in ((), sizes.shape):
        raise ParameterError("sizes must be one positive number for each layer, and floors one, or one for each.")
    floors = np.broadcast_to(floors, sizes.shape).copy()
    floors = np.minimum(floors, sizes)
    if not floors.sum() <= n_keep <= sizes.sum():
        raise ParameterError(
            f"{n_keep} of {sizes.sum()} units are to be kept, but the floors and exempt layers hold {floors.sum()}. "
            "Lower the ratio, the floor, or the number of exempt layers."
        )
    return sizes, int(n_keep), floors


@checked()
def round_counts(wanted, sizes, n_keep, *, floors=1, round_to=1):
    """Round to the nearest whole numbers that sum to ``n_keep``, within floors and sizes.

    Parameters
    ----------
    wanted : array-like, shape (n_layers,)
        Numbers to keep, not yet rounded.
    sizes : array-like of int, shape (n_layers,)
    n_keep : int
        Units to keep in total.
    floors : int or array-like of int
        Fewest units of a layer (a layer at its size is exempt).
    round_to : int
        Widths become multiples of this, except where a layer keeps everything. The total then misses ``n_keep``
        by at most about half a step.

    Returns
    -------
    numpy.ndarray of int, shape (n_layers,)

    Examples
    --------
    >>> round_counts([2.6, 2.6, 4.8], [4, 4, 6], 10).tolist()
    [3, 2, 5]
    >>> round_counts([100, 300, 200], [256, 384, 256], 600, round_to=64).tolist()
    [64, 320, 192]
    """
    sizes, n_keep, floors = check_floors(sizes, n_keep, floors)
    step = int(round_to)
    wanted = _project(np.asarray(finite("wanted", wanted), dtype=float), sizes, n_keep, floors)
    low = np.minimum(np.ceil(floors / step) * step, sizes).astype(np.int64)
    counts = np.maximum(np.floor(wanted / step + 1e-9).astype(np.int64) * step, low)
    counts = np.where(wanted >= sizes - 1e-9, sizes, counts)
    while True:  # at most one step per layer in each direction
        missing = n_keep - counts.sum()
        up = np.minimum(counts + step, sizes)
        down = np.where(counts == sizes, (sizes - 1) // step * step, counts - step)
        gain, loss = up - counts, counts - down
        if missing > 0 and ((gain > 0) & (gain <= missing + step // 2)).any():
            order = np.where((gain > 0) & (gain <= missing + step // 2), wanted - counts, -np.inf)
            layer = int(order.argmax())
            counts[layer] = up[layer]
        elif missing < 0 and ((down >= low) & (loss <= -missing + step // 2 - (step > 1))).any():
            fits = (down >= low) & (loss <= -missing + step // 2 - (step > 1))
            layer = int(np.where(fits, counts - wanted, -np.inf).argmax())
            counts[layer] = down[layer]
        else:
            return counts


def _project(wanted, sizes, n_keep, floors):
    """Shift the wanted numbers until they fit between floors and sizes and sum to ``n_keep``."""
    low, high = (floors - wanted).min() - 1, (sizes - wanted).max() + 1
    for _ in range(100):
        middle = (low + high) / 2
        if np.clip(wanted + middle, floors, sizes).sum() < n_keep:
            low = middle
        else:
            high = middle
    return np.clip(wanted + high, floors, sizes)


@ALLOCATIONS.register("uniform", needs=("sizes",), heads="share")
@checked()
def uniform(sizes, n_keep, *, floors=1, round_to=1):
    """Keep the same share of every layer that may be pruned; layers of equal size get equal widths.

    The total misses ``n_keep`` by less than half a unit (or step) per layer.

    Examples
    --------
    >>> uniform([8, 8, 8], 12).tolist()
    [4, 4, 4]
    >>> uniform([8, 8, 8], 16, floors=[8, 1, 1]).tolist()
    [8, 4, 4]
    """
    sizes, n_keep, floors = check_floors(sizes, n_keep, floors)
    free = floors < sizes
    share = (n_keep - sizes[~free].sum()) / max(sizes[free].sum(), 1)
    step = int(round_to)
    counts = np.clip(np.rint(sizes * share / step).astype(np.int64) * step, np.maximum(floors, 1), sizes)
    return np.where(free, counts, sizes)


def _pool(scores, sizes, n_keep, floors):
    """Count in each layer the best units of all layers together, within the floors."""
    layer = np.repeat(np.arange(len(sizes)), sizes)
    pooled = np.concatenate([np.asarray(s, dtype=float) for s in scores])
    rank = np.concatenate([np.argsort(np.argsort(-np.asarray(s, dtype=float), kind="stable")) for s in scores])
    pooled = np.where(rank < floors[layer], np.inf, pooled)
    best = np.argsort(-pooled, kind="stable")[:n_keep]
    return np.bincount(layer[best], minlength=len(sizes))


@ALLOCATIONS.register("global", needs=("scores",), heads="joint")
def global_standardised(scores, n_keep, *, floors=1, round_to=1):
    """Standardise scores within each layer, then apply one threshold to all (FLAP's AL-AM).

    Parameters
    ----------
    scores : list of array-like
        One array per layer.
    n_keep : int
    floors, round_to
        See :func:`round_counts`.

    Returns
    -------
    numpy.ndarray of int, shape (n_layers,)
    """
    sizes, n_keep, floors = check_floors([len(s) for s in scores], n_keep, floors)
    scores = [np.asarray(s, dtype=float) for s in scores]
    scores = [(s - s.mean()) / (s.std() or 1.0) for s in scores]
    return round_counts(_pool(scores, sizes, n_keep, floors), sizes, n_keep, floors=floors, round_to=round_to)


@ALLOCATIONS.register("threshold", needs=("scores",))
def global_threshold(scores, n_keep, *, floors=1, round_to=1):
    """Apply one threshold to the raw scores of all layers (the rule of the network union)."""
    sizes, n_keep, floors = check_floors([len(s) for s in scores], n_keep, floors)
    return round_counts(_pool(scores, sizes, n_keep, floors), sizes, n_keep, floors=floors, round_to=round_to)


@ALLOCATIONS.register("networks", needs=("scores",), score="network", random=True)
def by_networks(scores, n_keep, *, floors=1, round_to=1):
    """Apply one threshold to the maps of networks; the recipe's score chooses the neurons within each layer."""
    return global_threshold(scores, n_keep, floors=floors, round_to=round_to)


@ALLOCATIONS.register("power", needs=("scores", "stream_powers", "exponent"), score="flap")
def by_power(scores, stream_powers, exponent, n_keep, *, floors=1, round_to=1):
    """Remove less where the neurons of a layer write more, relative to the power of the residual stream there."""
    written = [float(np.sum(s)) / power for s, power in zip(scores, stream_powers)]
    exponent = 1.0 if exponent is None else exponent
    sizes = [len(s) for s in scores]
    return sensitivity_counts(written, sizes, n_keep, exponent=exponent, floors=floors, round_to=round_to)


@ALLOCATIONS.register("schur", needs=("schur_residuals", "sizes", "exponent"), n_refits=1.0)
def by_schur(schur_residuals, sizes, exponent, n_keep, *, floors=1, round_to=1):
    """Remove less where least squares repairs less: the Schur residual at half removal."""
    exponent = 0.3 if exponent is None else exponent
    return sensitivity_counts(schur_residuals, sizes, n_keep, exponent=exponent, floors=floors, round_to=round_to)


def sensitivity_counts(sensitivity, sizes, n_keep, *, exponent=0.3, floors=1, round_to=1):
    """Remove more where removal costs less: ``r_i = clip(c w_i)``, ``w_i = (mean(s) / s_i) ** exponent``.

    The factor ``c`` makes the shares add up to the wanted total, so that layers keep their order where some are
    clipped; without clipping ``r_i = r w_i / mean(w)``.

    Parameters
    ----------
    sensitivity : array-like, shape (n_layers,)
        What removal costs in each layer, such as the Schur residual at half removal over the power of the residual
        stream.
    sizes : array-like of int, shape (n_layers,)
    n_keep : int
    exponent : float
        0 is uniform.
    floors, round_to
        See :func:`round_counts`.

    Examples
    --------
    >>> sensitivity_counts([1.0, 4.0], [100, 100], 100, exponent=0.5).tolist()
    [33, 67]
    """
    sizes, n_keep, floors = check_floors(sizes, n_keep, floors)
    s = np.asarray(sensitivity, dtype=float)
    if not np.all(np.isfinite(s)) or (s < 0).any():
        raise ParameterError("Sensitivities must be finite and not negative.")
    s = np.maximum(s, 1e-12 * max(s.max(), 1e-300))
    weights = (s.mean() / s) ** exponent
    removed = _clipped_shares(weights / np.average(weights, weights=sizes), sizes, 1 - n_keep / sizes.sum())
    return round_counts(sizes * (1 - removed), sizes, n_keep, floors=floors, round_to=round_to)


def _clipped_shares(weights, sizes, ratio):
    """``clip(c * weights)`` with the ``c`` for which its mean over units is ``ratio``; weights of mean 1."""
    lowest, highest = min(CLIP[0], ratio), max(CLIP[1], ratio)
    shares = ratio * weights
    if lowest <= shares.min() and shares.max() <= highest:
        return shares
    low, high = 0.0, highest / weights.min()
    for _ in range(200):  # the mean rises with the factor, from the lowest to the highest share
        factor = (low + high) / 2
        if np.average(np.clip(factor * weights, lowest, highest), weights=sizes) < ratio:
            low = factor
        else:
            high = factor
    return np.clip(high * weights, lowest, highest)
