"""Small linear algebra: Gram matrices, leading eigenvectors, symmetric decorrelation. Small matrices are float64."""

import numpy as np
import torch
from scipy.linalg import eigh
from scipy.linalg.blas import ssyrk

__all__ = ["gram", "krylov_eigenpairs", "leading_eigenpairs", "lower_gram", "product", "symmetric_decorrelation"]

DENSE = 2048  # up to this order a direct eigendecomposition costs less than an iteration


def product(a, b, out=None):
    """Matrix product; on the CPU through numpy's BLAS, which is faster for the flat shapes met here."""
    if a.device.type == "cpu":
        return torch.from_numpy(np.matmul(a.numpy(), b.numpy(), out=None if out is None else out.numpy()))
    return torch.matmul(a, b, out=out)


def gram(x):
    """``x @ x.T``. On the CPU numpy computes one triangle only, half of the work."""
    return product(x, x.T)


def lower_gram(parts, n):
    """Lower triangle of the sum of ``x @ x.T`` over parts ``(n, n_columns)`` on the CPU, zeros above it, float32.

    The library adds to one triangle as it goes; numpy would mirror the triangle for every part, which costs as much
    as the product itself where the parts are narrow.
    """
    total = np.zeros((n, n), np.float32, order="F")
    for x in parts:
        total = ssyrk(1.0, x.numpy().T, beta=1.0, c=total, trans=1, lower=0, overwrite_c=1)
    return torch.from_numpy(total.T)  # in the order of C


def symmetric_decorrelation(w):
    """``(W W^T)^(-1/2) W`` for a batch of square matrices, float64 (scikit-learn's ``_sym_decorrelation``)."""
    values, vectors = torch.linalg.eigh(w @ w.mT)
    values = values.clamp_min(torch.finfo(w.dtype).tiny)
    return vectors @ ((vectors.mT @ w) * values.rsqrt()[..., None])


def leading_eigenpairs(matrix, k, seed=0):
    """Largest ``k`` eigenvalues (descending) and eigenvectors ``(n, k)`` of a symmetric float64 matrix."""
    n = len(matrix)
    if n <= DENSE or k > n // 8:
        if matrix.device.type == "cpu":
            values, vectors = map(torch.from_numpy, eigh(matrix.numpy(), subset_by_index=(n - k, n - 1)))
        else:
            values, vectors = torch.linalg.eigh(matrix)
        return values.flip(0)[:k], vectors.flip(1)[:, :k]
    values, vectors, _ = krylov_eigenpairs(lambda q: product(matrix, q), n, k, device=matrix.device, seed=seed)
    return values, vectors


def krylov_eigenpairs(apply, n, k, *, device="cpu", seed=0, tol=1e-5, max_blocks=40):
    """Leading eigenpairs of a positive semi-definite operator by a block Krylov space with Rayleigh-Ritz.

    Parameters
    ----------
    apply : callable
        Multiplies the operator with ``(n, p)`` float64.
    n, k : int
        Order of the operator, number of pairs.
    tol : float
        The residual of each pair, relative to the ``k``-th eigenvalue, at which the iteration ends.
    max_blocks : int
        Largest number of applications.

    Returns
    -------
    values : tensor (k,)
        Descending.
    vectors : tensor (n, k)
        Orthonormal.
    residual : float
        Largest relative residual reached.
    """
    p = min(k + 8, n)
    start = np.random.RandomState(seed).standard_normal((n, p))
    q = torch.linalg.qr(torch.from_numpy(start).to(device)).Q
    basis, images = q, apply(q)
    for _ in range(max_blocks):
        small = basis.T @ images
        values, y = torch.linalg.eigh((small + small.T) / 2)
        values, y = values.flip(0)[:k], y.flip(1)[:, :k]
        vectors = basis @ y
        residual = float(torch.linalg.vector_norm(images @ y - vectors * values, dim=0).max() / values[-1].abs())
        if residual < tol or basis.shape[1] + p > n:
            break
        q = images[:, -p:]
        for _ in range(2):  # twice is enough to keep float64 orthogonality
            q = torch.linalg.qr(q - basis @ (basis.T @ q)).Q
        basis, images = torch.cat([basis, q], 1), torch.cat([images, apply(q)], 1)
    return values, vectors, residual
