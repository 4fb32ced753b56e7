"""The orthogonal factor of many small matrices at once, by matrix products alone.

``(M M^T)^(-1/2) M`` is the symmetric decorrelation of FastICA. An eigendecomposition gives it, but on a GPU a batch of
them takes longer than all the rest of a step. Odd polynomials drive the singular values to 1 with products only; their
coefficients are the best ones for the interval that the singular values are in, so that a matrix of condition 1e7 takes
a dozen polynomials instead of some forty plain Newton-Schulz steps.
"""

from functools import lru_cache

import numpy as np
import torch

__all__ = ["polar_factor", "polar_schedule"]


def _best_quintic(low):
    """Odd polynomial of degree 5 that is closest to 1 on ``[low, 1]``, by Remez exchange: coefficients, error."""
    inner = [low + (1 - low) * 0.25, low + (1 - low) * 0.75]
    for _ in range(100):
        x = np.array([low, *inner, 1.0])
        table = np.column_stack([x, x**3, x**5, [1.0, -1.0, 1.0, -1.0]])
        *coefficients, error = np.linalg.solve(table, np.ones(4))
        a, b, c = coefficients
        root = np.sqrt(max(9 * b * b - 20 * a * c, 0))
        new = [np.sqrt((-3 * b - root) / (10 * c)), np.sqrt((-3 * b + root) / (10 * c))]
        new = sorted(new)
        if np.allclose(new, inner, rtol=1e-12, atol=0):
            break
        inner = new
    return np.array(coefficients), abs(error)


@lru_cache(maxsize=8)
def polar_schedule(low=1e-7, tol=1e-13):
    """Coefficients ``(a, b, c)`` of successive polynomials ``a x + b x^3 + c x^5`` that take ``[low, 1]`` to 1.

    Each is the best one for the interval that the ones before it leave; the last ones are Newton-Schulz steps, which
    triple the number of right digits.

    Parameters
    ----------
    low : float
        Smallest singular value to be brought to 1, with the largest at 1.
    tol : float
        Distance from 1 that is reached.

    Returns
    -------
    tuple of (float, float, float)

    References
    ----------
    Nakatsukasa & Freund (2016), SIAM Review 58, 461-493, for the composition of best approximations;
    Amsel et al. (2025), arXiv 2505.16932, for polynomials of degree 5.

    Examples
    --------
    >>> x = np.geomspace(1e-7, 1, 1000)
    >>> for a, b, c in polar_schedule():
    ...     x = a * x + b * x**3 + c * x**5
    >>> bool(np.abs(x - 1).max() < 1e-12)
    True
    """
    steps, error = [], 1.0
    while error > 0.1:
        coefficients, error = _best_quintic(low)
        scale = 1 / (1 + error)  # the interval becomes [1 - error, 1 + error]; scaled, it ends at 1 again
        steps.append(tuple(coefficients * scale))
        low = (1 - error) * scale
    a, b, c = steps[-1]
    middle = 2 / (1 + low)
    steps[-1] = (a * middle, b * middle, c * middle)  # the last interval lies around 1
    error = middle - 1
    while error > tol:
        steps.append((15 / 8, -10 / 8, 3 / 8))
        error = 2.5 * error**3
    return tuple(steps)


def polar_factor(m, low=1e-7):
    """``(M M^T)^(-1/2) M`` for a batch of square matrices.

    Parameters
    ----------
    m : tensor of shape (..., n, n)
        Should be float64 for orthonormality to 1e-12.
    low : float
        Smallest singular value, relative to the largest, that is brought to 1. Smaller ones are left short, so that
        their directions shrink; they never blow up.

    Returns
    -------
    tensor of the same shape

    Examples
    --------
    >>> m = torch.randn(3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    >>> w = polar_factor(m)
    >>> bool((w @ w.mT - torch.eye(8)).abs().max() < 1e-10)
    True
    """
    x = m / m.abs().amax((-1, -2), keepdim=True).clamp_min(torch.finfo(m.dtype).tiny)
    g = x @ x.mT
    square = g @ g
    # Two bounds of the largest eigenvalue of G: its 1-norm, and the fourth root of the Frobenius norm of G^4
    bound = torch.minimum(g.abs().sum(-1).amax(-1), torch.linalg.matrix_norm(square @ square).sqrt().sqrt())
    x = (x * bound.clamp_min(torch.finfo(m.dtype).tiny).rsqrt()[..., None, None]).reshape(-1, *m.shape[-2:])
    for a, b, c in polar_schedule(low):
        g = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(g, g, g, beta=b, alpha=c), x, beta=a)
    return x.reshape(m.shape)
