"""Small linear algebra: Gram matrices, leading eigenvectors, orthogonal factors. Small matrices are float64."""

import math
from functools import lru_cache

import numpy as np
import torch
from scipy.linalg import eigh
from scipy.linalg.blas import ssyrk

from .parallel import hand_back

SMALL = 1024  # up to this order a direct eigendecomposition costs less than any iteration,
DENSE = 2048  # and up to this one less than an iteration of many blocks
FEW = 32  # with more vectors than this part of the order, a few blocks cost as much and do not converge
SINGLE = 1e-3  # smallest eigenvalue, relative to the largest, whose vector single precision gives well enough
LOOK = 3  # blocks between two tests of convergence
GUARD = 32  # smallest number of vectors beside the wanted ones in an iteration with polynomials,
MOST_ROUNDS, MOST_DEGREE = 100, 30  # its limits,
GROWTH = 1e6  # and how much larger the strongest direction may get than others until they are made orthogonal


def product(a, b, out=None):
    """Matrix product; on the CPU with numpy's BLAS, which is faster for flat matrices."""
    if a.device.type == "cpu":
        return torch.from_numpy(np.matmul(a.numpy(), b.numpy(), out=None if out is None else out.numpy()))
    return torch.matmul(a, b, out=out)


def gram(x):
    """``x @ x.T``, of which numpy computes only one triangle."""
    return product(x, x.T)


def lower_gram(parts, n):
    """Lower triangle of the sum of ``x @ x.T`` over parts ``(n, n_columns)`` on the CPU, zeros above it, float32.

    BLAS adds to one triangle; numpy would mirror it for every part, which costs as much as the product of a narrow
    part.
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


def decorrelate(w):
    """``(W W^T)^(-1/2) W`` for a batch of square float64 matrices, by the method that is faster on the device."""
    return symmetric_decorrelation(w) if w.device.type == "cpu" else polar_factor(w)


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
def polar_schedule(low=1e-7):
    """Coefficients ``(a, b, c)`` of successive polynomials ``a x + b x^3 + c x^5`` that take ``[low, 1]`` to 1.

    Each is the best one for the interval left by those before it (Nakatsukasa & Freund 2016, SIAM Review 58, 461-493;
    Amsel et al. 2025, arXiv 2505.16932, for degree 5). The last ones are Newton-Schulz steps, which triple the number
    of correct digits, until all values are closer to 1 than 1e-13.
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
    while error > 1e-13:
        steps.append((15 / 8, -10 / 8, 3 / 8))
        error = 2.5 * error**3
    return tuple(steps)


def polar_factor(m, low=1e-7):
    """``(M M^T)^(-1/2) M`` for a batch of square float64 matrices, by matrix products alone.

    On a GPU a batch of eigendecompositions takes longer than all the rest of a step of FastICA. Odd polynomials drive
    the singular values to 1 with products only. Their coefficients are the best ones for the interval that holds the
    singular values, so a matrix of condition 1e7 takes a dozen polynomials instead of some forty Newton-Schulz steps.
    Directions with singular values below ``low``, relative to the largest, shrink; they never blow up.
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


def leading_eigenpairs(matrix, k, seed=0, overwrite=False, single=False):
    """Largest ``k`` eigenvalues (descending) and eigenvectors ``(n, k)`` of a symmetric float64 matrix.

    With ``overwrite`` the matrix is overwritten, which saves a copy. With ``single``, a direct decomposition on the CPU
    is made in single precision, in half the time, if the eigenvalues are of similar size.
    """
    n = len(matrix)
    # a few blocks suffice for pairs above the noise; inside its bulk a direct decomposition soon costs less
    few = n <= DENSE
    if n <= SMALL or k > n // (FEW if few else 8):
        if single and matrix.device.type == "cpu":
            values, vectors = (part.double() for part in _largest(matrix.float(), k, overwrite=True))
            if values[-1] > SINGLE * values[0]:
                return values, vectors
        return _largest(matrix, k, overwrite)
    if matrix.device.type != "cpu":
        return filtered_eigenpairs(matrix if overwrite else matrix.clone(), k, seed)
    hand_back()
    options = {"seed": seed, "tol": 1e-5 if few else 1e-4, "max_blocks": 6 if few else 40}
    values, vectors, residual = krylov_eigenpairs(lambda q: product(matrix, q), n, k, **options)
    hand_back()
    return _largest(matrix, k, overwrite) if few and residual > options["tol"] else (values, vectors)


def krylov_eigenpairs(apply, n, k, *, device="cpu", seed=0, tol=1e-5, max_blocks=40):
    """Leading eigenpairs of a positive semi-definite operator by a block Krylov space with Rayleigh-Ritz.

    ``apply`` multiplies the operator, of order ``n``, with ``(n, p)`` float64, at most ``max_blocks`` times. The
    iteration ends when the residual of each pair, relative to the ``k``-th eigenvalue, is below ``tol``. Returns values
    ``(k,)``, descending, orthonormal vectors ``(n, k)``, and the largest relative residual.
    """
    p = min(k + 8, n)
    start = np.random.RandomState(seed).standard_normal((n, p))
    # the first rows are in use; memory is allocated only when they are written
    space = torch.empty(min(p * max_blocks, n), n, dtype=torch.float64, device=device)
    space[:p] = torch.linalg.qr(torch.from_numpy(start).to(device)).Q.T
    basis = space[:p].T
    image = apply(basis)
    small = product(basis.T, image)
    for block in range(1, max_blocks + 1):
        m = basis.shape[1]
        last = block == max_blocks or m + p > n
        rest = image - product(basis, product(basis.T, image))  # part of the image outside the space
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


def filtered_eigenpairs(matrix, k, seed=0, tol=1e-4):
    """Leading eigenpairs of a positive semi-definite float64 matrix, which is overwritten, by products alone.

    Polynomials of the matrix, small between 0 and the eigenvalues that are not wanted, are applied to ``k`` vectors and
    some more (Zhou et al. 2006, J. Comput. Phys. 219, 172-184). Pairs that are found leave the matrix. A GPU makes a
    hundred such products in the time of one eigendecomposition of a Krylov space. ``tol`` is that of
    :func:`krylov_eigenpairs`; returns values and vectors.
    """
    n = len(matrix)
    start = np.random.RandomState(seed).standard_normal((n, min(n, k + max(k // 2, GUARD))))
    q = orthonormal(torch.from_numpy(start).to(matrix.device))
    values, vectors = q.new_empty(0), q[:, :0]
    for _ in range(MOST_ROUNDS):
        image = product(matrix, q)
        theta, y = torch.linalg.eigh(product(q.T, image))
        theta, y, left = theta.flip(0), y.flip(1), k - len(values)
        q, image = product(q, y), product(image, y)
        found = torch.cat([values, theta])
        size = torch.maximum(found[k - 1], 1e-8 * found[0]).clamp_min(1e-300)
        error = (torch.linalg.vector_norm(image - q * theta, dim=0) / size)[:left].tolist()
        if max(error) < tol:
            break
        n_new = next(i for i, e in enumerate(error) if not e < tol / 10)
        values, vectors = torch.cat([values, theta[:n_new]]), torch.cat([vectors, q[:, :n_new]], 1)
        matrix.addmm_(q[:, :n_new] * theta[:n_new], q[:, :n_new].T, alpha=-1)
        top, low = float(theta[n_new]), float(theta[-1])
        q = orthonormal(_filter(matrix, q[:, n_new:], max(low, 1e-10 * top), top), vectors)
    values, order = torch.cat([values, theta[:left]]).sort(descending=True)
    return values, torch.cat([vectors, q[:, :left]], 1)[:, order]


def _filter(matrix, q, low, top):
    """Apply the Chebyshev polynomial that is largest beyond ``[0, low]``; ``top`` must not drown the rest."""
    at_top = max(2 * top / low - 1, 1)
    degree = int(min(MOST_DEGREE, max(1, math.log(GROWTH) / max(math.acosh(at_top), 1e-3))))
    scale = 1 / at_top  # divides by the value at ``top``, so that nothing overflows
    before, q = q, (product(matrix, q) * (2 / low) - q) * scale
    last = scale
    for _ in range(1, degree):
        new = 1 / (2 / scale - last)
        before, q, last = q, (product(matrix, q) * (2 / low) - q) * (2 * new) - before * (last * new), new
    return q


def orthonormal(q, others=None):
    """Orthonormal float64 columns by Cholesky factors, which are products alone, orthogonal to those of ``others``."""
    q = q / torch.linalg.vector_norm(q, dim=0).clamp_min(1e-300)
    for shift in (1e-13, 1e-16, 0):  # the first factor need only be good enough for the next
        if others is not None:
            q = q - product(others, product(others.T, q))
        square = product(q.T, q)
        square.diagonal().add_(shift * len(square))
        factor = torch.linalg.cholesky_ex(square).L
        q = torch.linalg.solve_triangular(factor, q.T, upper=False).T.contiguous()
    return q


def _largest(matrix, k, overwrite=False):
    """Largest ``k`` eigenvalues, descending, and their eigenvectors, of a symmetric matrix, all at once."""
    n = len(matrix)
    if matrix.device.type == "cpu":  # transposed to the order of LAPACK, which saves a copy
        found = eigh(matrix.numpy().T, subset_by_index=(n - k, n - 1), overwrite_a=overwrite)
        values, vectors = map(torch.from_numpy, found)
    else:
        values, vectors = torch.linalg.eigh(matrix)
    return values.flip(0)[:k], vectors.flip(1)[:, :k]
