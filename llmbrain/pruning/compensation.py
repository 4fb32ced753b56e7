"""Compensations: closed forms on moments, by which the kept inputs of a linear make up for the removed ones.

A linear writes ``y = W x + b``. ``S`` are the kept columns, ``P`` the removed ones. A compensation returns the new
columns of ``S`` and the new bias. Least squares is written as a correction of ``W_S``, so that the penalty pulls the
correction, not the weights, towards zero.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch

from ..exceptions import NumericalError
from ..registry import Registry
from ..stats.precision import full_precision

# needs: moments that are gathered; with none of them nothing is refitted. bias: whether a bias results.
# ridge: whether it is least squares, whose penalty is chosen on held-out tokens.
COMPENSATIONS = Registry("compensation", needs=(), bias=False, ridge=False)
# The last one is the limit in which only the bias is refitted.
RIDGE_GRID = (1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0, 10.0, 100.0, math.inf)
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


class _Frozen:
    """Moments that no longer change: each matrix is computed once, when it is first needed."""

    def __init__(self, moments):
        self._moments = moments

    def __getattr__(self, name):
        return getattr(self._moments, name)

    @cached_property
    def mean(self):
        return self._moments.mean

    @cached_property
    def covariance(self):
        return self._moments.covariance

    @cached_property
    def target_mean(self):
        return self._moments.target_mean

    @cached_property
    def cross_covariance(self):
        return self._moments.cross_covariance


def frozen(moments):
    """Wrap moments so that computed matrices are kept; drop the wrapper to free their memory."""
    return moments if isinstance(moments, _Frozen) else _Frozen(moments)


def _keeps_tokens(moments):
    """Whether these are :class:`~llmbrain.stats.rows.Rows`, with which least squares are solved in the tokens."""
    return hasattr(moments, "centred")


def removed_of(kept, size, device=None):
    """Indices that are not kept, in order."""
    left = torch.ones(size, dtype=torch.bool, device=device)
    left[kept] = False
    return left.nonzero()[:, 0]


def solve_damped(matrix, right, ridge):
    """``right @ inv(matrix + ridge * mean(diag) * I)`` for a symmetric matrix; channels without variance get 0."""
    diagonal = matrix.diagonal()
    scale = float(diagonal.mean())
    if scale <= 0 or math.isinf(ridge):
        return torch.zeros_like(right)
    damped = matrix.clone()
    damped.diagonal().add_(max(ridge, 1e-12) * scale)
    dead = diagonal <= 1e-14 * scale
    if bool(dead.any()):
        damped[dead, :] = 0
        damped[:, dead] = 0
        damped.diagonal()[dead] = scale
        right = right.masked_fill(dead[None, :], 0)
    return torch.cholesky_solve(right.T, _factor(damped, scale)).T


def _factor(damped, scale):
    """Cholesky factor of a matrix, to whose diagonal more is added if need be."""
    factor, info = torch.linalg.cholesky_ex(damped)
    while int(info):  # float32 sums can leave a matrix a little short of positive definite
        if not bool(torch.isfinite(damped).all()):
            raise NumericalError("A covariance holds NaN or infinite values, so nothing can be fitted to it.")
        damped.diagonal().add_(1e-6 * scale)
        factor, info = torch.linalg.cholesky_ex(damped)
    return factor


@dataclass(frozen=True)
class _Equations:
    """Normal equations of the correction ``B``: ``B block = right``, and the means of inputs and wanted output."""

    block: torch.Tensor
    right: torch.Tensor
    mean: torch.Tensor
    target_mean: torch.Tensor

    @property
    def scale(self):
        return float(self.block.diagonal().mean())

    def solve(self, ridge):
        """The correction, and what it explains of the variance of the wanted output."""
        change = solve_damped(self.block, self.right, ridge)
        # 2 change.right - change block change^T, where change block = right - penalty change
        explained = (change * self.right).sum() + _penalty(ridge, self.scale) * change.square().sum()
        return change, float(explained)

    def eigen(self):
        """Eigenvalues, the right side in a basis of eigenvectors, and that basis: ``B = right diag(1 / e) basis^T``."""
        block, right, diagonal = self.block, self.right, self.block.diagonal()
        dead = diagonal <= 1e-14 * self.scale
        if bool(dead.any()):
            block = block.masked_fill(dead[None, :] | dead[:, None], 0)
            right = right.masked_fill(dead[None, :], 0)
        values, vectors = torch.linalg.eigh(block)
        return values, right @ vectors, vectors

    def judge(self, weight, held, kept, basis, means):
        """Of held-out tokens, in the basis: covariance with what is left to correct, covariance, and ``means``."""
        cross, inner = weight @ held.covariance[:, kept], held.covariance[kept][:, kept]
        if held.n_targets:
            cross = cross + held.cross_covariance[:, kept]
        return (cross - weight[:, kept] @ inner) @ basis, basis.T @ inner @ basis, basis.T @ means


@dataclass(frozen=True)
class _DualEquations:
    """The same for few tokens ``A`` that are kept: ``B = C^T (A A^T + l I)^-1 A``, ``C`` what is left to correct."""

    inputs: torch.Tensor
    wanted: torch.Tensor
    mean: torch.Tensor
    target_mean: torch.Tensor

    @cached_property
    def inner(self):
        """Products of the tokens, shape (n_tokens, n_tokens), float64."""
        return _product(self.inputs, self.inputs.T).double()

    @property
    def scale(self):
        return float(self.inner.diagonal().sum()) / self.inputs.shape[1]

    def solve(self, ridge):
        scale, wanted = self.scale, self.wanted.double()
        if scale <= 0 or math.isinf(ridge):
            return wanted.new_zeros(wanted.shape[1], self.inputs.shape[1]), 0.0
        penalty = _penalty(ridge, scale)
        damped = self.inner.clone()
        damped.diagonal().add_(penalty)
        shares = torch.cholesky_solve(wanted, _factor(damped, scale))
        change = _product(shares.T.float(), self.inputs).double()
        return change, float((wanted * (wanted - penalty * shares)).sum() + penalty * change.square().sum())

    def eigen(self):
        values, vectors = torch.linalg.eigh(self.inner)
        return values, self.wanted.double().T @ vectors, vectors

    def judge(self, weight, held, kept, basis, means):
        inputs, wanted = _tokens(weight, held, kept)
        inputs = _product(inputs, self.inputs.T).double() @ basis
        moved = self.inputs @ means.to(self.inputs)
        return wanted.double().T @ inputs, inputs.T @ inputs, basis.T @ moved.double()


def _penalty(ridge, scale):
    return 0.0 if math.isinf(ridge) else max(ridge, 1e-12) * scale


def _product(left, right):
    with full_precision():
        return left @ right


def _tokens(weight, rows, kept):
    """Kept inputs of tokens, and what is left to correct: what removed inputs would write, and the targets."""
    removed = removed_of(kept, weight.shape[1], weight.device)
    wanted = _product(rows.centred[:, removed], weight[:, removed].float().T)
    return rows.centred[:, kept], wanted + rows.target_centred if rows.n_targets else wanted


def _equations(weight, moments, kept, centred, ridge):
    """Equations of the correction, in the tokens if those are kept, or in the inputs."""
    mean, target_mean = moments.mean[kept], weight @ moments.mean
    if moments.n_targets:
        target_mean = target_mean + moments.target_mean
    offset = target_mean - weight[:, kept] @ mean
    # with more tokens than inputs the products of tokens are singular, which only a penalty mends
    if _keeps_tokens(moments) and (moments.n <= len(kept) or ridge >= RIDGE_GRID[0]):
        inputs, wanted = _tokens(weight, moments, kept)
        if not centred:
            inputs = torch.cat([inputs, mean[None].to(inputs)])
            wanted = torch.cat([wanted, offset[None].to(wanted)])
        return _DualEquations(inputs, wanted, mean, target_mean)
    # what the kept inputs give already cancels: only the removed ones and the targets are left to correct
    removed = removed_of(kept, weight.shape[1], weight.device)
    rows, lost = moments.covariance[:, kept], weight[:, removed]
    block, right = rows[kept], lost @ rows[removed]
    if moments.n_targets:
        right = right + moments.cross_covariance[:, kept]
    if not centred:
        block = block + torch.outer(mean, mean)
        right = right + torch.outer(offset, mean)
    return _Equations(block, right, mean, target_mean)


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
    change, _ = _equations(weight, moments, kept, False, ridge).solve(ridge)
    return Refit(weight[:, kept] + change, None, ridge)


@COMPENSATIONS.register("affine", needs=("covariance",), bias=True, ridge=True)
def affine_least_squares(weight, moments, kept, ridge):
    """Least squares with a bias, on the covariance ``C``: ``b = W_P (mu_P - B mu_S)``.

    Bias and ridge are its limits.
    """
    equations = _equations(weight, moments, kept, True, ridge)
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
    if _keeps_tokens(moments):
        missed = _product(moments.centred[:, changed], part.float().T)
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
    if _keeps_tokens(moments):
        wanted = _product(moments.centred, weight.T)
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
    if (min(len(kept), fit.n) if _keeps_tokens(fit) else len(kept)) > _LARGE:
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
    equations = _equations(weight, fit, kept, centred, grid[0])
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
    equations = _equations(weight, fit, kept, centred, grid[0])
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
