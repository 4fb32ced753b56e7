"""Compensations: closed forms on moments, by which the kept inputs of a linear make up for the removed ones.

A linear writes ``y = W x + b``. ``S`` are the kept columns, ``P`` the removed ones. A compensation returns the new
columns of ``S`` and the new bias. Least squares is written as a correction of ``W_S``, so that the penalty pulls the
correction, not the weights, towards zero.
"""

import math
from dataclasses import dataclass

import torch

from ..registry import Registry
from .equations import LEAST_RIDGE, equations_of, frozen, keeps_tokens, product, removed_of, solve_damped

# needs: moments that are gathered; with none of them nothing is refitted. bias: whether a bias results.
# ridge: whether it is least squares, whose penalty is chosen on held-out tokens.
COMPENSATIONS = Registry("compensation", needs=(), bias=False, ridge=False)
# The last one is the limit in which only the bias is refitted.
RIDGE_GRID = (LEAST_RIDGE, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0, 10.0, 100.0, math.inf)
_LARGE = 4096  # unknowns from which factoring for a few penalties is cheaper than an eigendecomposition for all


@dataclass(frozen=True)
class Refit:
    """New weights of a shortened linear, shape (n_outputs, n_kept), float64.

    ``bias`` is added to the bias that the linear has; None if the compensation makes none. ``ridge`` is the penalty as
    a share of the mean variance of the kept channels. ``explained`` is the variance of the wanted output that the
    correction of the kept weights explains on the fitted tokens, if it is known.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None
    ridge: float | None = None
    explained: float | None = None


def compensate(weight, moments, kept, method="affine", ridge=1e-2):
    """Refit a linear to the inputs that are left.

    Parameters
    ----------
    weight : torch.Tensor, shape (n_outputs, n_inputs)
        Dense weights ``W``.
    moments : Moments
        Of the inputs ``x``. If it has targets ``y``, the wanted output is ``W x + y``: ``y`` is what the output should
        gain to correct errors made in earlier layers (residual-stream target).
    kept : torch.Tensor of int, shape (n_kept,)
    method : str
        A name of :data:`COMPENSATIONS`.
    ridge : float
        ``l`` as a share of the mean diagonal of the kept block; with ``math.inf`` only the bias is refitted.

    Returns
    -------
    Refit

    Examples
    --------
    The second input is twice the first plus one; without it the output is still exact.

    >>> from llmbrain.stats.moments import Moments
    >>> x = torch.tensor([[0.0, 1.0], [1.0, 3.0], [2.0, 5.0]])
    >>> moments = Moments(2); moments.add(x)
    >>> fit = compensate(torch.tensor([[1.0, 1.0]]), moments, torch.tensor([0]), "affine", ridge=0)
    >>> [round(v, 6) for v in (fit.weight.item(), fit.bias.item())]
    [3.0, 1.0]
    """
    weight = weight.to(moments.device, torch.float64)
    kept = torch.as_tensor(kept, dtype=torch.long, device=moments.device)
    return COMPENSATIONS[method](weight, moments, kept, ridge)


@COMPENSATIONS.register("none")
def unchanged(weight, moments, kept, ridge):
    """Keep the weights as they are: ``W_S``."""
    return Refit(weight[:, kept], None)


@COMPENSATIONS.register("bias", needs=("mean",), bias=True)
def mean_bias(weight, moments, kept, ridge):
    """Add the mean of what was removed to the bias: ``W_S`` and ``b = W_P mu_P`` (FLAP)."""
    removed = removed_of(kept, moments.size, moments.device)
    return Refit(weight[:, kept], weight[:, removed] @ moments.mean[removed])


@COMPENSATIONS.register("ridge", needs=("covariance",), ridge=True)
def least_squares(weight, moments, kept, ridge):
    """Least squares without a bias: ``W_S + W_P H_PS (H_SS + l I)^-1`` on the uncentred ``H``.

    As in OSSCAR, Týr, FASP and GRAIL.
    """
    change, _ = equations_of(weight, moments, kept, False, ridge).solve(ridge)
    return Refit(weight[:, kept] + change, None, ridge)


@COMPENSATIONS.register("affine", needs=("covariance",), bias=True, ridge=True)
def affine_least_squares(weight, moments, kept, ridge):
    """Least squares with a bias, on the covariance ``C``: ``b = W_P (mu_P - B mu_S)``.

    Bias and ridge are its limits.
    """
    equations = equations_of(weight, moments, kept, True, ridge)
    change, explained = equations.solve(ridge)
    new = weight[:, kept] + change
    return Refit(new, equations.target_mean - new @ equations.mean, ridge, explained)


def output_error(weight, moments, kept, refit):
    """Mean squared error of a refitted linear, computed from moments (of the fitted tokens or of others).

    ``E |W x + y - (W'_S x_S + b)|^2`` per token, summed over outputs.
    """
    weight = weight.to(moments.device, torch.float64)
    kept = torch.as_tensor(kept, dtype=torch.long, device=moments.device)
    spread, offset = _error(weight, moments, kept, refit)
    return float(spread + (offset**2).sum())


def fitted_error(weight, moments, kept, refit):
    """Return the :func:`output_error` on the moments that a refit was made on, without its products if they are known.

    With a bias from least squares, the means have no gap, so the error is that of the kept weights as they were, less
    what their correction explains.
    """
    if refit.explained is None:
        return output_error(weight, moments, kept, refit)
    weight = weight.to(moments.device, torch.float64)
    kept = torch.as_tensor(kept, dtype=torch.long, device=moments.device)
    spread, _ = _error(weight, moments, kept, Refit(weight[:, kept], None))
    return max(float(spread) - refit.explained, 0.0)  # rounding of a perfect fit


def _error(weight, moments, kept, refit):
    """The two parts of the error: the variance over tokens (summed over outputs), and the gap of the means."""
    gap = weight.clone()
    gap[:, kept] -= refit.weight
    offset = gap @ moments.mean
    if refit.bias is not None:
        offset = offset - refit.bias
    changed = (gap != 0).any(0).nonzero()[:, 0]  # the removed inputs alone, if the others were not refitted
    part = gap[:, changed]
    if moments.n_targets:
        offset = offset + moments.target_mean
    if keeps_tokens(moments):
        missed = product(moments.centred[:, changed], part.float().T)
        if moments.n_targets:
            missed += moments.target_centred
        return missed.square().sum(dtype=torch.float64), offset
    spread = ((part @ moments.covariance[changed][:, changed]) * part).sum()
    if moments.n_targets:
        spread = spread + 2 * (gap * moments.cross_covariance).sum() + moments.target_variance.sum()
    return spread, offset


def wanted_power(weight, moments):
    """Return the variance of the wanted output, summed over outputs, in which errors are expressed."""
    weight = weight.to(moments.device, torch.float32)  # a sum of squares, from which nothing is subtracted
    if keeps_tokens(moments):
        wanted = product(moments.centred, weight.T)
        power = (wanted + moments.target_centred if moments.n_targets else wanted).square().sum(dtype=torch.float64)
    else:
        power = ((weight @ moments.covariance.to(weight)) * weight).sum(dtype=torch.float64)
        if moments.n_targets:
            power = power + 2 * (weight * moments.cross_covariance).sum() + moments.target_variance.sum()
    return max(float(power), 1e-300)


def choose_ridge(weight, fit, held, kept, method="affine", grid=RIDGE_GRID):
    """Choose the penalty with the lowest error on held-out tokens.

    Returns the penalty (None if the compensation has none), and the held-out error at each value of the rising ``grid``
    (NaN where it was not measured).
    """
    member = COMPENSATIONS[method]
    if not member.ridge:
        return None, []
    fit, held = frozen(fit), frozen(held)
    weight = weight.to(fit.device, torch.float64)
    kept = torch.as_tensor(kept, dtype=torch.long, device=fit.device)
    # The best penalty falls as tokens are added, so it cannot be a constant. One eigendecomposition gives the error at
    # every value of the grid. For many unknowns it would cost more than it saves: there the search starts at the usual
    # value and moves in both directions while the error falls, one factorisation per step.
    if (min(len(kept), fit.n) if keeps_tokens(fit) else len(kept)) > _LARGE:
        errors = _walk(weight, fit, held, kept, member.bias, grid)
    else:
        errors = _path(weight, fit, held, kept, member.bias, grid)
    known = [i for i, error in enumerate(errors) if not math.isnan(error)]
    return grid[min(known, key=errors.__getitem__)], errors


def _path(weight, fit, held, kept, centred, grid):
    """Held-out errors along the whole grid, from the eigenvectors of the matrix of the normal equations.

    With ``C_SS = V e V^T`` the correction is ``Y diag(1 / (e + l)) V^T``, ``Y`` the rotated right side; the error is
    then a quadratic form in the vector ``1 / (e + l)``. So it is with the eigenvectors ``U`` of products of tokens,
    where ``V`` is ``A^T U``.
    """
    equations = equations_of(weight, fit, kept, centred, grid[0])
    values, rotated, basis = equations.eigen()
    scale, mean, old = equations.scale, equations.mean, weight[:, kept]
    start = Refit(old, equations.target_mean - old @ mean if centred else None)
    error, offset = _error(weight, held, kept, start)
    means = held.mean[kept] - mean if centred else held.mean[kept]
    cross, inner, moved = equations.judge(weight, held, kept, basis, means)
    linear, square = (cross * rotated).sum(0), (rotated.T @ rotated) * inner
    penalties = torch.tensor([max(r, 1e-12) * scale for r in grid], dtype=torch.float64, device=weight.device)
    shrunk = 1 / (values.clamp_min(0)[:, None] + penalties) if scale > 0 else values.new_zeros(len(values), len(grid))
    spread = error - 2 * linear @ shrunk + ((square @ shrunk) * shrunk).sum(0)
    offsets = offset[:, None] - rotated @ (shrunk * moved[:, None])
    return (spread + offsets.square().sum(0)).tolist()


def _walk(weight, fit, held, kept, centred, grid):
    """Held-out errors around the best value of the grid, one factorisation per value."""
    equations = equations_of(weight, fit, kept, centred, grid[0])
    old, errors = weight[:, kept], [math.nan] * len(grid)

    def measure(i):
        new = old + equations.solve(grid[i])[0]
        refit = Refit(new, equations.target_mean - new @ equations.mean if centred else None)
        errors[i] = output_error(weight, held, kept, refit)
        return errors[i]

    usual = default_ridge(fit.n, len(kept))
    first = min(range(len(grid)), key=lambda i: abs(math.log(max(min(grid[i], 1e6), 1e-12) / usual)))
    best = measure(first)
    for step in (1, -1):
        i = first + step
        while 0 <= i < len(grid) and measure(i) < best:
            best, i = errors[i], i + step
    return errors


def default_ridge(n_tokens, n_inputs):
    """Penalty when nothing is held out: 1e-2, more if there are fewer than 40 tokens per input."""
    # A rule of thumb fitted to two calibration sizes; choose_ridge is better wherever tokens can be spared.
    return 1e-2 * max(1.0, 40.0 * n_inputs / max(n_tokens, 1))


def schur_residual(weight, covariance, kept, ridge=0.0):
    """Error that is left after the best affine compensation, without a forward pass.

    Parameters
    ----------
    weight : torch.Tensor, shape (n_outputs, n_inputs)
    covariance : torch.Tensor, shape (n_inputs, n_inputs)
        Centred, of the inputs; the uncentred Gram matrix gives the residual of a refit without bias.
    kept : torch.Tensor of int
    ridge : float
        Share of the mean diagonal that is added to the kept block.

    Returns
    -------
    float
        ``tr(W_P (C_PP - C_PS C_SS^-1 C_SP) W_P^T)``.
    """
    weight = weight.to(covariance)
    kept = torch.as_tensor(kept, dtype=torch.long, device=covariance.device)
    removed = removed_of(kept, len(covariance), covariance.device)
    lost = weight[:, removed]
    cross = covariance[removed][:, kept]
    beta = solve_damped(covariance[kept][:, kept], cross, ridge)
    inner = covariance[removed][:, removed] - beta @ cross.T
    return float(((lost @ inner) * lost).sum().clamp_min(0).detach())
