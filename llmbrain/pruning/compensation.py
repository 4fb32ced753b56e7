"""What the kept inputs of a linear layer can do for the removed ones: closed forms on streamed moments.

A linear writes ``y = W x + b``. ``S`` are the kept columns, ``P`` the removed ones. Every function returns the new
columns of ``S`` and the new bias. Least squares is written as a correction of ``W_S``, so that the penalty pulls the
correction, not the weights, towards zero.
"""

from dataclasses import dataclass

import torch

from ..exceptions import ParameterError

__all__ = [
    "COMPENSATIONS",
    "RIDGE_GRID",
    "Refit",
    "choose_ridge",
    "compensate",
    "default_ridge",
    "output_error",
    "schur_residual",
]

COMPENSATIONS = ("none", "bias", "ridge", "affine")
RIDGE_GRID = (1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)


@dataclass(frozen=True)
class Refit:
    """New weights of a shortened linear.

    Attributes
    ----------
    weight : torch.Tensor, shape (n_outputs, n_kept), float64
    bias : torch.Tensor, shape (n_outputs,), or None
        To be added to what bias the linear has. None where the method makes none.
    ridge : float or None
        Strength of the penalty, as a share of the mean variance of the kept channels.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None
    ridge: float | None = None


def removed_of(kept, size, device=None):
    """Indices that are not kept, in order."""
    left = torch.ones(size, dtype=torch.bool, device=device)
    left[kept] = False
    return left.nonzero()[:, 0]


def _solve(matrix, right, ridge):
    """``right @ inv(matrix + ridge * mean(diag) * I)`` for a symmetric matrix, channels without variance set aside."""
    diagonal = matrix.diagonal()
    scale = float(diagonal.mean())
    if scale <= 0:
        return torch.zeros_like(right)
    damped = matrix.clone()
    damped.diagonal().add_(max(ridge, 1e-12) * scale)
    dead = diagonal <= 1e-14 * scale
    if bool(dead.any()):
        damped[dead, :] = 0
        damped[:, dead] = 0
        damped.diagonal()[dead] = scale
        right = right.masked_fill(dead[None, :], 0)
    factor, info = torch.linalg.cholesky_ex(damped)
    while int(info):  # float32 sums can leave a matrix a little short of positive definite
        damped.diagonal().add_(1e-6 * scale)
        factor, info = torch.linalg.cholesky_ex(damped)
    return torch.cholesky_solve(right.T, factor).T


def _target(weight, moments, residual):
    """Covariance of the wanted output with x, and its mean: the layer's own output, plus a correction if given."""
    cross = weight @ moments.covariance
    mean = weight @ moments.mean
    if residual and moments.n_targets:
        cross = cross + moments.cross_covariance
        mean = mean + moments.target_mean
    return cross, mean


def compensate(weight, moments, kept, method="affine", ridge=1e-2, residual=True):
    """Refit a linear to the inputs that are left.

    Parameters
    ----------
    weight : torch.Tensor, shape (n_outputs, n_inputs)
        Dense weights ``W``.
    moments : Moments
        Of the inputs ``x``. If it has targets ``y``, the wanted output is ``W x + y``: ``y`` is what the output should
        gain to make good for errors made earlier (residual-stream target).
    kept : torch.Tensor of int, shape (n_kept,)
    method : {"none", "bias", "ridge", "affine"}
        ``none``: ``W_S``. ``bias``: ``W_S`` and ``b = W_P mu_P`` (FLAP). ``ridge``: ``W_S + W_P H_PS (H_SS + l I)^-1``
        on the uncentred ``H`` (OSSCAR, Týr, FASP, GRAIL). ``affine``: the same on the covariance ``C``, and
        ``b = W_P (mu_P - B mu_S)``; bias and ridge are its limits.
    ridge : float
        ``l`` as a share of the mean diagonal of the kept block.
    residual : bool
        Whether targets of ``moments`` are used.

    Returns
    -------
    Refit

    Examples
    --------
    The second input is twice the first plus one; without it the output is still exact.

    >>> from llmbrain.pruning.statistics import Moments
    >>> x = torch.tensor([[0.0, 1.0], [1.0, 3.0], [2.0, 5.0]])
    >>> moments = Moments(2); moments.update(x)
    >>> fit = compensate(torch.tensor([[1.0, 1.0]]), moments, torch.tensor([0]), "affine", ridge=0)
    >>> [round(v, 6) for v in (fit.weight.item(), fit.bias.item())]
    [3.0, 1.0]
    """
    if method not in COMPENSATIONS:
        raise ParameterError(f"Unknown compensation {method!r}; choose from {', '.join(COMPENSATIONS)}.")
    weight = weight.to(moments.device, torch.float64)
    kept = torch.as_tensor(kept, dtype=torch.long, device=moments.device)
    old = weight[:, kept]
    if method == "none":
        return Refit(old, None)
    if method == "bias":
        removed = removed_of(kept, moments.size, moments.device)
        return Refit(old, weight[:, removed] @ moments.mean[removed])
    cross, target_mean = _target(weight, moments, residual)
    mean = moments.mean[kept]
    block = moments.covariance[kept][:, kept]
    wanted = cross[:, kept]
    if method == "ridge":
        block = block + torch.outer(mean, mean)
        wanted = wanted + torch.outer(target_mean, mean)
    new = old + _solve(block, wanted - old @ block, ridge)
    bias = target_mean - new @ mean if method == "affine" else None
    return Refit(new, bias, ridge)


def output_error(weight, moments, kept, refit, residual=True):
    """Mean squared error of a refitted linear, from moments alone.

    Parameters
    ----------
    weight, moments, kept, residual
        As for :func:`compensate`; ``moments`` may come from other tokens than those of the fit.
    refit : Refit

    Returns
    -------
    float
        ``E |W x + y - (W'_S x_S + b)|^2``, summed over outputs, per token.
    """
    weight = weight.to(moments.device, torch.float64)
    kept = torch.as_tensor(kept, dtype=torch.long, device=moments.device)
    gap = weight.clone()
    gap[:, kept] -= refit.weight
    offset = gap @ moments.mean
    if refit.bias is not None:
        offset = offset - refit.bias
    error = ((gap @ moments.covariance) * gap).sum()
    if residual and moments.n_targets:
        offset = offset + moments.target_mean
        error = error + 2 * (gap * moments.cross_covariance).sum() + moments.target_variance.sum()
    return float(error + (offset**2).sum())


def choose_ridge(weight, fit, held, kept, method="affine", grid=RIDGE_GRID, residual=True):
    """Choose the penalty by the error on held-out tokens.

    The best penalty falls as tokens are added, so it cannot be a constant.

    Parameters
    ----------
    weight, kept, method, residual
        As for :func:`compensate`.
    fit, held : Moments
        Of the tokens that are fitted, and of others.
    grid : sequence of float

    Returns
    -------
    ridge : float
    errors : list of float
        Held-out error at every value of the grid.
    """
    if method not in ("ridge", "affine"):
        return None, []
    errors = [
        output_error(weight, held, kept, compensate(weight, fit, kept, method, ridge, residual), residual)
        for ridge in grid
    ]
    return grid[min(range(len(grid)), key=errors.__getitem__)], errors


def default_ridge(n_tokens, n_inputs):
    """Penalty when nothing is held out: 1e-2, more below 40 tokens an input.

    A rule of thumb fitted to two calibration sizes; :func:`choose_ridge` is better wherever tokens can be spared.
    """
    return 1e-2 * max(1.0, 40.0 * n_inputs / max(n_tokens, 1))


def schur_residual(weight, covariance, kept, ridge=0.0):
    """Error that is left after the best affine compensation, without a forward pass.

    Parameters
    ----------
    weight : torch.Tensor, shape (n_outputs, n_inputs)
    covariance : torch.Tensor, shape (n_inputs, n_inputs)
        Centred, of the inputs; the uncentred Gram gives the residual of a refit without bias.
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
    beta = _solve(covariance[kept][:, kept], cross, ridge)
    inner = covariance[removed][:, removed] - beta @ cross.T
    return float(((lost @ inner) * lost).sum().clamp_min(0).detach())
