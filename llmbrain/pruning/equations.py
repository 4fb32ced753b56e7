"""Normal equations of least squares on moments: in the inputs, or in the tokens where these are fewer.

Written as a correction of the kept weights, so that the penalty pulls the correction, not the weights, towards zero.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch

from ..exceptions import NumericalError
from ..stats.precision import full_precision

LEAST_RIDGE = 1e-4  # smallest penalty that is tried; with more tokens than inputs the products of tokens need one


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


def keeps_tokens(moments):
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
        return product(self.inputs, self.inputs.T).double()

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
        change = product(shares.T.float(), self.inputs).double()
        return change, float((wanted * (wanted - penalty * shares)).sum() + penalty * change.square().sum())

    def eigen(self):
        values, vectors = torch.linalg.eigh(self.inner)
        return values, self.wanted.double().T @ vectors, vectors

    def judge(self, weight, held, kept, basis, means):
        inputs, wanted = tokens_of(weight, held, kept)
        inputs = product(inputs, self.inputs.T).double() @ basis
        moved = self.inputs @ means.to(self.inputs)
        return wanted.double().T @ inputs, inputs.T @ inputs, basis.T @ moved.double()


def _penalty(ridge, scale):
    return 0.0 if math.isinf(ridge) else max(ridge, 1e-12) * scale


def product(left, right):
    """Matrix product of float32 in full precision."""
    with full_precision():
        return left @ right


def tokens_of(weight, rows, kept):
    """Kept inputs of tokens, and what is left to correct: what removed inputs would write, and the targets."""
    removed = removed_of(kept, weight.shape[1], weight.device)
    wanted = product(rows.centred[:, removed], weight[:, removed].float().T)
    return rows.centred[:, kept], wanted + rows.target_centred if rows.n_targets else wanted


def equations_of(weight, moments, kept, centred, ridge):
    """Equations of the correction, in the tokens if those are kept, or in the inputs."""
    mean, target_mean = moments.mean[kept], weight @ moments.mean
    if moments.n_targets:
        target_mean = target_mean + moments.target_mean
    offset = target_mean - weight[:, kept] @ mean
    # with more tokens than inputs the products of tokens are singular, which only a penalty mends
    if keeps_tokens(moments) and (moments.n <= len(kept) or ridge >= LEAST_RIDGE):
        inputs, wanted = tokens_of(weight, moments, kept)
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
