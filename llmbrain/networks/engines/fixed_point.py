"""The fixed point of FastICA, for all restarts at once.

The cube contrast needs the data only through their fourth moments. While the iteration is short it is cheapest to
pass over the data, in blocks that stay in the cache; when it gets long, the matrix of all fourth moments is computed
once and the iteration goes on without looking at the data again. Both give the same steps up to rounding.
"""

from dataclasses import dataclass

import numpy as np
import torch

from .linalg import gram, product, symmetric_decorrelation
from .parallel import block_map, temporary
from .polar import polar_factor

__all__ = ["CONTRASTS", "Rotations", "draw_rotations", "fastica"]

CONTRASTS = ("cube", "logcosh")
CACHE_VALUES = 1 << 17  # float32 values of each buffer of a step (512 KiB): two of them stay in the second-level cache
CACHE_ROWS = 256  # maps of a buffer; of more of them too few samples would fit for fast products
MOMENT_BYTES = 1 << 28  # largest matrix of fourth moments that is formed


@dataclass
class Rotations:
    """Outcome of every restart."""

    w: torch.Tensor  # (n_init, n_components, n_components) float64, orthonormal rows
    n_iter: np.ndarray  # (n_init,)
    converged: np.ndarray  # (n_init,) bool
    change: np.ndarray  # (n_init,) last value of the criterion


def draw_rotations(n_init, n_components, random_state, device="cpu"):
    """Random orthonormal starts, ``(n_init, n_components, n_components)`` float64, drawn as nilearn does."""
    state = random_state if isinstance(random_state, np.random.RandomState) else np.random.RandomState(random_state)
    seeds = state.randint(np.iinfo(np.int32).max, size=n_init)
    draws = [np.random.RandomState(s).normal(size=(n_components, n_components)) for s in seeds]
    draws = torch.from_numpy(np.stack(draws)).to(device)
    return symmetric_decorrelation(draws) if draws.device.type == "cpu" else polar_factor(draws)


def fastica(z, starts, *, contrast="cube", max_iter=200, tol=1e-4, begun=None):
    """Rotate white data to independent rows with the parallel fixed-point iteration of FastICA.

    Parameters
    ----------
    z : tensor of shape (n_components, n_samples)
        White data, ``z @ z.T / n_samples`` the identity.
    starts : tensor of shape (n_init, n_components, n_components)
        Orthonormal starting rotations; see :func:`draw_rotations`.
    contrast : {"cube", "logcosh"}
        Derivative of the contrast: the cube, or the hyperbolic tangent.
    max_iter : int
        Largest number of steps of a restart.
    tol : float
        A restart has converged when no row has turned by more than this, ``max_c | |<w_new, w_old>| - 1 | < tol``.
    begun : Rotations, optional
        Where the first starts have got to by steps that were made before; they go on from there.

    Returns
    -------
    Rotations

    References
    ----------
    Hyvärinen (1999), IEEE Trans. Neural Networks 10(3), 626-634, equations 20 and 45.
    """
    w = starts.to(z.device).clone()
    n_init = len(w)
    n_iter, converged = np.zeros(n_init, int), np.zeros(n_init, bool)
    change = np.full(n_init, np.inf)
    if begun is not None:
        first = slice(len(begun.w))
        w[first], n_iter[first], change[first] = begun.w, begun.n_iter, begun.change
        converged[first] = begun.change < tol
    step = _Step(z, contrast)
    active = np.flatnonzero(~converged & (n_iter < max_iter))
    while len(active):
        old = w[active]
        new = step(old)
        new = symmetric_decorrelation(new) if new.device.type == "cpu" else polar_factor(new)
        limit = (torch.einsum("rij,rij->ri", new, old).abs() - 1).abs().amax(1).cpu().numpy()
        if not np.all(np.isfinite(limit)):
            raise FloatingPointError("FastICA left the finite numbers; are the data white and finite?")
        w[active] = new
        n_iter[active] += 1
        change[active] = limit
        converged[active] = limit < tol
        active = active[(limit >= tol) & (n_iter[active] < max_iter)]
    return Rotations(w, n_iter, converged, change)


class _Step:
    """``E[g(y) z^T] - E[g'(y)] W`` for ``y = W z``, by passing over the data or from their fourth moments."""

    def __init__(self, z, contrast):
        self.z, self.contrast = z, contrast
        self.c, self.v = z.shape
        self.moments = None
        self.spent = 0.0
        pairs = self.c * (self.c + 1) // 2
        self.direct_cost = self.v * (4.0 * self.c**2 + 60.0 * self.c)
        self.moment_cost = 2.0 * pairs**2 * self.c
        self.build_cost = self.v * (1.0 * pairs**2 + 20.0 * pairs)
        self.can_build = contrast == "cube" and pairs**2 * 8 <= MOMENT_BYTES and self.moment_cost < self.direct_cost / 2

    def __call__(self, w):
        if self.moments is None and self.can_build and self.spent >= self.build_cost:
            self.moments = _fourth_moments(self.z)
        if self.moments is not None:
            return self._from_moments(w)
        self.spent += len(w) * self.direct_cost
        return self._direct(w)

    def _direct(self, w):
        r, c = w.shape[:2]
        rows = w.reshape(r * c, c).float()
        outer = torch.zeros(r * c, c, dtype=torch.float64, device=w.device)
        slope = torch.zeros(r * c, dtype=torch.float64, device=w.device)
        size = min(CACHE_VALUES // min(r * c, CACHE_ROWS), self.v) if w.device.type == "cpu" else self.v
        chunk = size * max(1, -(-self.v // (16 * size)))  # 16 tasks a step, whatever the number of workers
        tasks = [(i, min(i + chunk, self.v)) for i in range(0, self.v, chunk)]
        for part, sums in block_map(lambda task: self._sums(rows, *task, size), tasks):
            outer += part
            slope += sums
        return outer.reshape(r, c, c) / self.v - (slope / self.v).reshape(r, c, 1) * w

    def _sums(self, rows, first, last, size):
        """Sums of ``g(y) z^T`` and ``g'(y)`` over the samples ``first:last``, in pieces of ``size``."""
        outer = temporary(*rows.shape, dtype=np.float64, device=rows.device)
        slope = torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
        height = CACHE_ROWS if rows.device.type == "cpu" else len(rows)
        groups = [x.split(height) for x in (rows, outer, slope)]
        buffers = temporary(2, min(height, len(rows)) * size, device=rows.device)
        for start in range(first, last, size):
            block = self.z[:, start : min(start + size, last)]
            for part, total, slopes in zip(*groups):
                y, g = (b[: len(part) * block.shape[1]].view(len(part), -1) for b in buffers)
                product(part, block, out=y)
                if self.contrast == "cube":
                    torch.mul(y, y, out=g)
                    slopes += 3 * g.sum(1)
                    g *= y
                else:
                    torch.tanh(y, out=y)
                    torch.mul(y, y, out=g)
                    slopes += g.shape[1] - g.sum(1)
                    g = y
                total += product(g, block.T)
        return outer, slope

    def _from_moments(self, w):
        moments, first, second, weight = self.moments
        r, c = w.shape[:2]
        rows = w.reshape(r * c, c)
        u = (rows[:, first] * rows[:, second] * weight).T.contiguous()
        s = product(moments, u).T  # E[y^2 z_k z_l] for k <= l
        full = torch.empty(r * c, c, c, dtype=w.dtype, device=w.device)
        full[:, first, second] = s
        full[:, second, first] = s
        outer = torch.einsum("nkl,nl->nk", full, rows)
        slope = 3 * (rows * rows).sum(1)  # E[y^2] is 1 for white data
        return outer.reshape(r, c, c) - slope.reshape(r, c, 1) * w


def _fourth_moments(z):
    """Moments ``E[z_i z_j z_k z_l]`` as a matrix over pairs, with the pairs and their multiplicity."""
    c, v = z.shape
    first, second = torch.triu_indices(c, c, device=z.device)
    weight = torch.where(first == second, 1.0, 2.0).double()
    total = torch.zeros(len(first), len(first), dtype=torch.float64, device=z.device)
    size = max(512, (1 << 19) // len(first))

    def part(start):
        block, n = z[:, start : start + size], 0
        pairs = torch.empty(len(first), block.shape[1], device=z.device)
        for i in range(c):
            torch.mul(block[i], block[i:], out=pairs[n : n + c - i])
            n += c - i
        return gram(pairs)

    for square in block_map(part, range(0, v, size)):
        total += square
    return total / v, first, second, weight
