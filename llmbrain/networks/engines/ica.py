"""Many decompositions at once on a GPU: a layer each, or restarts of one.

Tokens and signals stay in bfloat16, whose rounding is far below the noise of any recording; sums are float32, all that
decides about orthogonality is float64. Nothing in the iterations waits for the host: what has converged is frozen on
the device, and only now and then are the finished problems taken out of the batch.
"""

from dataclasses import dataclass

import numpy as np
import torch

from ...exceptions import ParameterError
from ...stats.precision import full_precision
from .fixed_point import draw_rotations
from .polar import polar_factor

__all__ = ["BatchedICA", "batched_fastica", "layered_ica", "leading_signals", "standardize_"]

LOOK = 8  # steps between two looks at what has converged
STEP_VALUES = 1 << 29  # float32 values of the products of a step that are held at once (2 GiB)
TOGETHER = 16  # layers that are reduced together
ROWS = 1024  # tokens that are held in float32 at a time


@dataclass
class BatchedICA:
    """Result of :func:`layered_ica`, on the device.

    Attributes
    ----------
    maps : tensor of shape (n_layers, n_components, n_signals)
        White maps (unit variance over signals), by falling share of variance, peak positive.
    variance : tensor of shape (n_layers, n_components)
        Share of the variance of the layer.
    n_iter, converged : tensor of shape (n_layers, n_init)
        Steps, and whether the tolerance was met.
    change : tensor of shape (n_layers, n_init)
        Last value of the criterion.
    chosen : tensor of shape (n_layers,)
        The start that the maps come from.
    rotations : tensor of shape (n_layers, n_init, n_components, n_components), float64
        Of every start; rows of two starts correlate as ``rotations[i, a] @ rotations[i, b].T``.
    values : tensor of shape (n_layers, n_components)
        Leading eigenvalues of the layer's ``X^T X``.
    """

    maps: torch.Tensor
    variance: torch.Tensor
    n_iter: torch.Tensor
    converged: torch.Tensor
    change: torch.Tensor
    chosen: torch.Tensor
    rotations: torch.Tensor
    values: torch.Tensor


def standardize_(x):
    """Z-score every column of ``(n_tokens, n_signals)`` in place; constant or non-finite columns become 0."""
    n = len(x)
    mean = sum(part.float().sum(0) for part in x.split(ROWS)) / n
    var = sum((part.float() - mean).square_().sum(0) for part in x.split(ROWS)) / (n - 1)
    scale = var.rsqrt()
    scale = torch.where(torch.isfinite(scale) & (var > (4e-7 * mean).square()), scale, 0)
    mean = torch.where(scale > 0, mean, 0)
    for part in x.split(ROWS):
        part.copy_(torch.nan_to_num((part.float() - mean) * scale, 0, 0, 0))
    return x


def leading_signals(group, k, *, extra=32, n_iter=8, seed=0):
    """Leading right singular vectors of several matrices by subspace iteration.

    The large products run matrix by matrix, the small decompositions for all matrices at once.

    Parameters
    ----------
    group : list of tensor (n_tokens, n_signals)
        Cleaned data with the same number of signals, bfloat16 on a GPU.
    k : int
        Number of vectors.
    extra : int
        Vectors carried along beside them, for speed of convergence.
    n_iter : int
        Multiplications with ``X^T X`` after the first.
    seed : int
        Of the random start.

    Returns
    -------
    rows : tensor (n, k, n_signals), float32
        Orthonormal.
    values : tensor (n, k), float64
        Eigenvalues of ``X^T X``, descending.
    """
    p = min(k + extra, *(min(x.shape) for x in group))
    generator = torch.Generator().manual_seed(seed)
    starts = [torch.randn(len(x), p, generator=generator).to(x.device) for x in group]
    q = torch.stack([_multiply(x.mT, y) for x, y in zip(group, starts)])
    for _ in range(n_iter):
        q = _orthonormal(q)
        for i, x in enumerate(group):
            q[i] = _multiply(x.mT, _multiply(x, q[i]))
    q = _orthonormal(_orthonormal(q))
    values, rotation = torch.linalg.eigh(torch.stack([_gram64(_multiply(x, y)) for x, y in zip(group, q)]))
    return rotation.flip(-1)[..., :k].float().mT @ q.mT, values.flip(-1)[:, :k]


def _multiply(x, q):
    """``x @ q`` with the factors in the type of ``x`` and a float32 result."""
    if x.dtype == torch.float32:
        return x @ q
    if x.is_cuda:
        return torch.mm(x, q.to(x.dtype), out_dtype=torch.float32)
    return (x @ q.to(x.dtype)).float()


def _gram64(q):
    """``q.mT @ q`` in float64, from pieces, so that no copy of ``q`` in float64 is held."""
    return sum(part.double().mT @ part.double() for part in q.split(1 << 16, -2))


def _orthonormal(q):
    """Orthonormal columns of a batch by Cholesky QR in float64; the shift lets dependent columns pass."""
    q = q / torch.linalg.vector_norm(q, dim=-2, keepdim=True).clamp_min(1e-30)
    gram = torch.stack([_gram64(part) for part in q])
    eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    factor = torch.linalg.cholesky_ex(gram + 1e-12 * eye).L
    return q @ torch.linalg.solve_triangular(factor, eye.expand_as(gram), upper=False).mT.float()


@full_precision()
def batched_fastica(z, starts, *, max_iter=300, tol=1e-4, low=1e-7):
    """FastICA with the cube for many white data sets and several starts of each.

    Parameters
    ----------
    z : tensor of shape (n_problems, n_components, n_samples), float32
        White data.
    starts : tensor of shape (n_problems, n_init, n_components, n_components), float64
        Orthonormal starts.
    max_iter, tol : int, float
        As in :func:`~llmbrain.networks.engines.fixed_point.fastica`.
    low : float
        See :func:`~llmbrain.networks.engines.polar.polar_factor`.

    Returns
    -------
    w : tensor like ``starts``
    n_iter, converged, change : tensors (n_problems, n_init)
    """
    w = starts.clone()
    n_iter = torch.zeros(w.shape[:2], dtype=torch.int64, device=w.device)
    done = torch.zeros(w.shape[:2], dtype=torch.bool, device=w.device)
    change = torch.full(w.shape[:2], torch.inf, dtype=w.dtype, device=w.device)
    active, part = torch.arange(len(z), device=z.device), z
    w_part, n_part, d_part, c_part = w, n_iter, done, change
    for step in range(1, max_iter + 1):
        new = polar_factor(_cube_step(part, w_part), low)
        limit = (torch.einsum("...ij,...ij->...i", new, w_part).abs() - 1).abs().amax(-1)
        w_part = torch.where(d_part[..., None, None], w_part, new)
        n_part = n_part + ~d_part
        c_part = torch.where(d_part, c_part, limit)
        d_part = d_part | (limit < tol)
        if step % LOOK and step < max_iter:
            continue
        w[active], n_iter[active], done[active], change[active] = w_part, n_part, d_part, c_part
        left = ~d_part.all(-1)
        n_left = int(left.sum())  # the only time the host waits for the device
        if not n_left:
            break
        if n_left <= 0.8 * len(active):  # a smaller copy of the data is worth its price
            active, part = active[left], part[left]
            w_part, n_part, d_part, c_part = w_part[left], n_part[left], d_part[left], c_part[left]
    return w, n_iter, done, change


def _cube_step(z, w):
    """``E[y^3 z^T] - 3 E[y^2] W`` for every problem and start, float64 of float32 sums."""
    p, r, c, _ = w.shape
    v, rows = z.shape[-1], w.reshape(p, r * c, c).float()
    slope, outer = 0.0, 0.0
    for part in z.split(max(1, STEP_VALUES // (p * r * c)), -1):
        y = rows @ part
        q = y * y
        slope = slope + q.sum(-1).double()
        q *= y
        outer = outer + (q @ part.mT).double()
    return outer.reshape(p, r, c, c) / v - slope.reshape(p, r, c, 1) * (3 / v) * w


def _whiten(rows):
    """Centre rows ``(n_problems, n_components, n_signals)`` and make them white; also the matrix that does it."""
    v = rows.shape[-1]
    rows = rows - rows.mean(-1, keepdim=True)
    gram = torch.stack([_gram64(r.mT) for r in rows]) / v
    factor = torch.linalg.cholesky_ex(gram).L
    eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device).expand_as(gram)
    transform = torch.linalg.solve_triangular(factor, eye, upper=False)
    return transform.float() @ rows, transform


@full_precision()
def layered_ica(
    layers,
    n_components=128,
    *,
    n_init=1,
    standardize=True,
    extra=32,
    n_power=8,
    max_iter=300,
    tol=1e-4,
    random_state=0,
):
    """Decompose each layer by itself, all of them in one batch: subspace iteration, whitening, FastICA with the cube.

    Parameters
    ----------
    layers : iterable of tensor (n_tokens, n_signals)
        Sixteen of them are on the device at a time, if it is a generator. On a GPU they should be bfloat16. They are
        z-scored in place.
    n_components : int
        Maps of each layer.
    n_init : int
        Starts of each layer; the one whose largest l1 norm of a map is smallest is kept.
    standardize : bool
        Whether to z-score the layers.
    extra, n_power : int
        See :func:`leading_signals`.
    max_iter, tol : int, float
        End of FastICA.
    random_state : int, RandomState or None
        Seed.

    Returns
    -------
    BatchedICA

    Examples
    --------
    >>> generator = torch.Generator().manual_seed(0)
    >>> layers = [torch.randn(60, 200, generator=generator) for _ in range(3)]
    >>> layered_ica(layers, 2).maps.shape
    torch.Size([3, 2, 200])
    """
    state = random_state if isinstance(random_state, np.random.RandomState) else np.random.RandomState(random_state)
    drawn = random_state is None or random_state is state
    seed = int(state.randint(np.iinfo(np.int32).max) if drawn else random_state)
    rows, values, totals = [], [], []
    for group in _groups(layers, n_components):
        group = [standardize_(x) for x in group] if standardize else group
        row, value = leading_signals(group, n_components, extra=extra, n_iter=n_power, seed=seed)
        rows.append(row)
        values.append(value)
        totals += [(len(x) - 1) * x.shape[1] if standardize else float(x.float().square().sum()) for x in group]
    z, transform = _whiten(torch.cat(rows))
    values, totals = torch.cat(values), torch.tensor(totals, dtype=torch.float64, device=z.device)
    starts = draw_rotations(len(z) * n_init, n_components, state, z.device)
    rotations, n_iter, converged, change = batched_fastica(
        z, starts.reshape(len(z), n_init, n_components, n_components), max_iter=max_iter, tol=tol
    )
    chosen = _sparsest(rotations, z)
    w = rotations[torch.arange(len(z), device=z.device), chosen]
    maps = w.float() @ z
    # a map is a combination of singular vectors, whose eigenvalues say how much each of them explains
    mixing = w @ transform
    mixing = mixing / torch.linalg.vector_norm(mixing, dim=-1, keepdim=True)
    share = (mixing.square() @ values[..., None])[..., 0] / totals[:, None]
    variance, order = share.sort(-1, descending=True)
    maps = maps.gather(1, order[..., None].expand_as(maps))
    maps *= torch.where(maps.amax(-1) < -maps.amin(-1), -1.0, 1.0)[..., None]
    return BatchedICA(maps, variance, n_iter, converged, change, chosen, rotations, values)


def _groups(layers, n_components):
    """Lists of up to ``TOGETHER`` checked layers."""
    group = []
    for x in layers:
        _check_layer(x, n_components)
        group.append(x)
        if len(group) == TOGETHER:
            yield group
            group = []
    if group:
        yield group


def _check_layer(x, n_components):
    if x.ndim != 2 or n_components > min(x.shape[0] - 1, x.shape[1] - 1):
        raise ParameterError(
            f"n_components={n_components} needs more tokens and signals than that in every layer; got {tuple(x.shape)}."
        )


def _sparsest(w, z):
    """For each problem the start whose largest l1 norm of a map is smallest, (n_problems,)."""
    if w.shape[1] == 1:
        return torch.zeros(len(w), dtype=torch.int64, device=w.device)
    sizes = [(start.float() @ z).abs().sum(-1).amax(-1) for start in w.unbind(1)]
    return torch.stack(sizes, -1).argmin(-1)
