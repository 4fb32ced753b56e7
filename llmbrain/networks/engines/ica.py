"""FastICA from all starts at once: block by block of samples on the CPU, many data sets in one batch on a GPU."""

from dataclasses import dataclass

import numpy as np
import torch

from ...stats.precision import full_precision
from .columns import WHOLE
from .contrasts import CONTRASTS
from .linalg import decorrelate, gram, polar_factor, product
from .parallel import block_map, temporary
from .progress import progress_bar

CACHE_VALUES = 1 << 17  # float32 values in each buffer of a step (512 KiB); two of them fit into the second-level cache
CACHE_ROWS = 256  # maps in a buffer; with more, too few samples would fit for fast products
SAMPLES_GPU = 1 << 14  # samples per block on a GPU where only sums over them are needed
MOMENT_BYTES = 1 << 28  # largest matrix of fourth moments that is formed
LOOK = 8  # steps between two looks at which problems of a batch have converged
STEP_VALUES = 1 << 29  # float32 values of the products of a batched step that are held at once (2 GiB)


@dataclass
class Rotations:
    """Outcome of every start."""

    w: torch.Tensor  # (n_init, n_components, n_components) float64, orthonormal rows
    n_iter: np.ndarray  # (n_init,)
    converged: np.ndarray  # (n_init,) bool
    change: np.ndarray  # (n_init,) last value of the criterion


def draw_rotations(n_init, n_components, random_state, device="cpu"):
    """Random orthonormal starts, ``(n_init, n_components, n_components)`` float64, drawn as nilearn does."""
    state = random_state if isinstance(random_state, np.random.RandomState) else np.random.RandomState(random_state)
    seeds = state.randint(np.iinfo(np.int32).max, size=n_init)
    draws = [np.random.RandomState(s).normal(size=(n_components, n_components)) for s in seeds]
    return decorrelate(torch.from_numpy(np.stack(draws)).to(device))


def fastica(z, starts, *, contrast="cube", max_iter=200, tol=1e-4, begun=None, columns=WHOLE):
    """Rotate white data to independent rows with the parallel fixed-point iteration of FastICA, from every start.

    ``z`` is ``(n_components, n_samples)`` with ``z @ z.T / n_samples`` the identity. A start has converged when no row
    turns by more than ``tol``: ``max_c | |<w_new, w_old>| - 1 | < tol``. With ``begun``, the result of earlier steps
    from the first starts, the iteration continues from there. Hyvärinen (1999), IEEE Trans. Neural Networks 10(3),
    626-634, equations 20 and 45.
    """
    w = starts.to(z.device).clone()
    n_init = len(w)
    n_iter, converged = np.zeros(n_init, int), np.zeros(n_init, bool)
    change = np.full(n_init, np.inf)
    if begun is not None:
        first = slice(len(begun.w))
        w[first], n_iter[first], change[first] = begun.w, begun.n_iter, begun.change
        converged[first] = begun.change < tol
    step = _Step(z, contrast, columns)
    active = np.flatnonzero(~converged & (n_iter < max_iter))
    with progress_bar("FastICA, steps at most", max_iter) as bar:
        while len(active):
            old = w[active]
            new = columns.agreed(decorrelate(step(old)))
            limit = columns.agreed(_turned(new, old)).cpu().numpy()
            if not np.all(np.isfinite(limit)):
                raise FloatingPointError("FastICA produced NaN or infinite values; are the data white and finite?")
            w[active] = new
            n_iter[active] += 1
            change[active] = limit
            converged[active] = limit < tol
            active = active[(limit >= tol) & (n_iter[active] < max_iter)]
            bar.update()
    return Rotations(w, n_iter, converged, change)


def _turned(new, old):
    """Criterion of every start: how far the row that turned most is from where it was."""
    return (torch.einsum("...ij,...ij->...i", new, old).abs() - 1).abs().amax(-1)


def _sums(contrast, rows, z, y=None, buffer=None):
    """Sums over samples of ``g(y) z^T`` and of ``g'(y)``, where ``y = rows @ z``."""
    y = product(rows, z, out=y)
    g, slopes = contrast.derivatives(y, torch.empty_like(y) if buffer is None else buffer)
    return product(g, z.mT), slopes


class _Step:
    """``E[g(y) z^T] - E[g'(y)] W`` for ``y = W z``, from a pass over the data or from their fourth moments.

    While the iteration is short, passing over the data costs least. In a long one with a cubic ``g``, the matrix of all
    fourth moments is computed once and the data are not needed again. Both give the same step up to rounding.
    Processes that share the neurons exchange the sums of a step, ``(n_init, c, c + 1)``, or the fourth moments once.
    """

    def __init__(self, z, contrast, columns=WHOLE):
        self.z, self.contrast, self.columns = z, CONTRASTS[contrast](), columns
        self.c, self.v = len(z), columns.count(z)
        self.moments = None
        self.spent = 0.0
        pairs = self.c * (self.c + 1) // 2
        own = self.v / columns.n_owners
        self.direct_cost = own * (4.0 * self.c**2 + 60.0 * self.c)
        moment_cost = 2.0 * pairs**2 * self.c
        self.build_cost = own * (1.0 * pairs**2 + 20.0 * pairs)
        small = pairs**2 * 8 <= MOMENT_BYTES and moment_cost < self.direct_cost / 2
        self.can_build = small and CONTRASTS[contrast].fourth_moments

    def __call__(self, w):
        if self.moments is None and self.can_build and self.spent >= self.build_cost:
            self.moments = _fourth_moments(self.z, self.columns)
        if self.moments is not None:
            return self._from_moments(w)
        self.spent += len(w) * self.direct_cost
        return self._direct(w)

    def _direct(self, w):
        r, c = w.shape[:2]
        rows = w.reshape(r * c, c).float()
        sums = torch.zeros(r * c, c + 1, dtype=torch.float64, device=w.device)
        outer, slope, v = sums[:, :c], sums[:, c], self.z.shape[1]
        size = min(CACHE_VALUES // min(r * c, CACHE_ROWS), v) if w.device.type == "cpu" else v
        chunk = size * max(1, -(-v // (16 * size)))  # 16 tasks per step, whatever the number of workers
        tasks = [(i, min(i + chunk, v)) for i in range(0, v, chunk)]
        for part, slopes in block_map(lambda task: self._part(rows, *task, size), tasks):
            outer += part
            slope += slopes
        self.columns.total(sums)
        return outer.reshape(r, c, c) / self.v - (slope / self.v).reshape(r, c, 1) * w

    def _part(self, rows, first, last, size):
        """:func:`_sums` over the samples ``first:last``, in pieces of ``size``."""
        outer = temporary(*rows.shape, dtype=np.float64, device=rows.device)
        slope = torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
        height = CACHE_ROWS if rows.device.type == "cpu" else len(rows)
        groups = [x.split(height) for x in (rows, outer, slope)]
        buffers = temporary(2, min(height, len(rows)) * size, device=rows.device)
        for start in range(first, last, size):
            block = self.z[:, start : min(start + size, last)]
            for part, total, slopes in zip(*groups):
                y, buffer = (b[: len(part) * block.shape[1]].view(len(part), -1) for b in buffers)
                more, sums = _sums(self.contrast, part, block, y, buffer)
                total += more
                slopes += sums
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


def _fourth_moments(z, columns=WHOLE):
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
    return columns.total(total) / columns.count(z), first, second, weight


@full_precision()
def batched_fastica(z, starts, *, contrast="cube", max_iter=300, tol=1e-4, low=1e-7, columns=WHOLE):
    """Run FastICA on many white data sets, from several starts each, without waiting for the device at every step.

    ``z`` is ``(n_problems, n_components, n_samples)`` float32 and ``starts``
    ``(n_problems, n_init, n_components, n_components)`` float64. Returns the rotations, and ``n_iter``, ``converged``
    and ``change``, each ``(n_problems, n_init)``.
    """
    contrast, w = CONTRASTS[contrast](), starts.clone()
    n_iter = torch.zeros(w.shape[:2], dtype=torch.int64, device=w.device)
    done = torch.zeros(w.shape[:2], dtype=torch.bool, device=w.device)
    change = torch.full(w.shape[:2], torch.inf, dtype=w.dtype, device=w.device)
    active, part = torch.arange(len(z), device=z.device), z
    w_part, n_part, d_part, c_part = w, n_iter, done, change
    for step in range(1, max_iter + 1):
        new = polar_factor(_batched_step(contrast, part, w_part, columns), low)
        limit = _turned(new, w_part)
        # what has converged is frozen on the device
        w_part = torch.where(d_part[..., None, None], w_part, new)
        n_part = n_part + ~d_part
        c_part = torch.where(d_part, c_part, limit)
        d_part = d_part | (limit < tol)
        if step % LOOK and step < max_iter:
            continue
        w_part, n_part, c_part = map(columns.agreed, (w_part, n_part, c_part))
        d_part = c_part < tol
        w[active], n_iter[active], done[active], change[active] = w_part, n_part, d_part, c_part
        left = ~d_part.all(-1)
        n_left = int(left.sum())  # the only time the host waits for the device
        if not n_left:
            break
        if n_left <= 0.8 * len(active):  # a smaller copy of the data pays off
            active, part = active[left], part[left]
            w_part, n_part, d_part, c_part = w_part[left], n_part[left], d_part[left], c_part[left]
    return w, n_iter, done, change


def _batched_step(contrast, z, w, columns=WHOLE):
    """The step of :class:`_Step` for every problem and start; float32 sums are added in float64."""
    p, r, c, _ = w.shape
    v, rows = columns.count(z), w.reshape(p, r * c, c).float()
    slope, outer = 0.0, 0.0
    for part in z.split(max(1, STEP_VALUES // (p * r * c)), -1):
        more, sums = _sums(contrast, rows, part)
        slope, outer = slope + sums.double(), outer + more.double()
    slope, outer = columns.total(slope), columns.total(outer)
    return outer.reshape(p, r, c, c) / v - slope.reshape(p, r, c, 1) / v * w


def sparsest_start(w, z, columns=WHOLE):
    """Number of the start whose largest l1 norm of a map is smallest (nilearn's rule)."""
    if len(w) == 1:
        return 0
    return int(columns.agreed(columns.total(_sums_of(w, z, torch.abs)).amax(1).argmin()))


def extreme_start(w, z, contrast):
    """Number of the start whose mean contrast is farthest from that of Gaussian rows."""
    if len(w) == 1:
        return 0
    contrast = CONTRASTS[contrast]()
    sums = _sums_of(w, z, lambda y: contrast.value(y) - contrast.gaussian)
    return int((sums / z.shape[1]).square().sum(1).argmax())


def _sums_of(w, z, function):
    """Sums over samples of ``function(W z)`` for every start and row, float64."""
    r, c = w.shape[:2]
    rows = w.reshape(r * c, c).float()
    total = torch.zeros(r * c, dtype=torch.float64, device=z.device)
    on_cpu = z.device.type == "cpu"
    size = CACHE_VALUES // min(r * c, CACHE_ROWS) if on_cpu else SAMPLES_GPU
    height = CACHE_ROWS if on_cpu else len(rows)
    step = -(-z.shape[1] // (32 * size)) * size

    def part(first):
        sums = torch.zeros(r * c, dtype=torch.float64, device=z.device)
        for i in range(first, min(first + step, z.shape[1]), size):
            block = z[:, i : min(i + size, first + step)]
            for some, its_sums in zip(rows.split(height), sums.split(height)):
                its_sums += function(product(some, block)).sum(1)
        return sums

    for sums in block_map(part, range(0, z.shape[1], step)):
        total += sums
    return total.reshape(r, c)
