"""Small linear algebra: Gram matrices, leading eigenvectors, symmetric decorrelation. Small matrices are float64."""

import numpy as np
import torch
from scipy.linalg import eigh
from scipy.linalg.blas import ssyrk

from .parallel import hand_back

__all__ = ["gram", "krylov_eigenpairs", "leading_eigenpairs", "lower_gram", "product", "symmetric_decorrelation"]

SMALL = 1024  # up to this order a direct eigendecomposition costs less than any iteration,
DENSE = 2048  # and up to this one less than many blocks of it
LOOK = 3  # blocks between two looks at what has converged


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


def leading_eigenpairs(matrix, k, seed=0, overwrite=False):
    """Largest ``k`` eigenvalues (descending) and eigenvectors ``(n, k)`` of a symmetric float64 matrix.

    With ``overwrite`` the matrix may be destroyed, which saves a copy.
    """
    n = len(matrix)
    if n <= SMALL or k > n // 8:
        return _largest(matrix, k, overwrite)
    # a few blocks settle what stands out of noise; inside the bulk of it a direct decomposition soon costs less
    few = n <= DENSE
    hand_back()
    options = {"device": matrix.device, "seed": seed, "tol": 1e-5 if few else 1e-4, "max_blocks": 6 if few else 40}
    values, vectors, residual = krylov_eigenpairs(lambda q: product(matrix, q), n, k, **options)
    hand_back()
    return _largest(matrix, k, overwrite) if few and residual > options["tol"] else (values, vectors)


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
    # rows of which the first ones are in use; memory is taken only as they are written
    space = torch.empty(min(p * max_blocks, n), n, dtype=torch.float64, device=device)
    space[:p] = torch.linalg.qr(torch.from_numpy(start).to(device)).Q.T
    basis = space[:p].T
    image = apply(basis)
    small = product(basis.T, image)
    for block in range(1, max_blocks + 1):
        m = basis.shape[1]
        last = block == max_blocks or m + p > n
        rest = image - product(basis, product(basis.T, image))  # what the space does not hold of its own image
        if last or block < 6 or not block % LOOK:
            values, y = _largest((small + small.T).div_(2), k, overwrite=True)
            error = torch.linalg.vector_norm(product(rest, y[-p:]), dim=0)
            residual = float(error.max() / values[-1].abs())
            if last or residual < tol:
                break
        q = torch.linalg.qr(rest).Q
        q = torch.linalg.qr(q - product(basis, product(basis.T, q))).Q  # twice keeps the orthogonality of float64
        image = apply(q)
        border = product(basis.T, image)
        small = torch.cat([torch.cat([small, border], 1), torch.cat([border.T, product(q.T, image)], 1)])
        space[m : m + p] = q.T
        basis = space[: m + p].T
    return values, product(basis, y), residual


def _largest(matrix, k, overwrite=False):
    """Largest ``k`` eigenvalues, descending, and their eigenvectors, of a symmetric matrix, all at once."""
    n = len(matrix)
    if matrix.device.type == "cpu":  # transposed, as the library wants it, to spare a copy
        found = eigh(matrix.numpy().T, subset_by_index=(n - k, n - 1), overwrite_a=overwrite)
        values, vectors = map(torch.from_numpy, found)
    else:
        values, vectors = torch.linalg.eigh(matrix)
    return values.flip(0)[:k], vectors.flip(1)[:, :k]
