"""Runs that are read and cleaned in blocks of neurons, so that at most one block of a run is copied."""

from functools import partial
from threading import Lock

import numpy as np
import torch

from ...exceptions import ParameterError
from ...models.devices import as_device
from ...stats.moments import Moments
from .columns import Columns
from .parallel import temporary
from .sources import as_sources
from .staging import room, stage

BLOCK_VALUES = 1 << 21  # float32 values of a block on the CPU (8 MiB): long reads, fast products, little memory
BLOCK_VALUES_GPU = 1 << 26
BLOCKS_PER_RUN = 32  # smallest number of blocks of one run on the CPU,
BLOCK_NEURONS = 4096  # unless they would be smaller than this: every row of a block needs a read call
HOLD_BYTES = 1 << 26  # cleaned data up to this size are kept for the next pass; larger ones are read again
HOLD_BYTES_GPU = 1 << 30  # the same on a GPU, where one run of any size is kept
CONSTANT = 4e-7  # a standard deviation below this share of the mean is rounding of float32, not signal


class CleanedRuns:
    """Runs whose neurons are centred, cleaned of confounds and scaled to unit variance when they are read.

    The result is that of nilearn's ``signal.clean`` with ``standardize="zscore_sample"``: linear trend and confounds
    are removed first, then the neuron is divided by its standard deviation (over ``n_tokens - 1``). Neurons that are
    constant in a run, up to the rounding of float32, become zero in it. Neurons with non-finite values become zero.

    With ``shared``, each process of :mod:`llmbrain.parallel` reads its own neurons only; ``columns`` says which.
    """

    def __init__(
        self, runs, confounds=None, *, detrend=False, standardize=True, device="cpu", min_tokens=2, shared=False
    ):
        sources = as_sources(runs)
        self.columns = Columns(sources[0].n_neurons, shared)
        self.sources = [self.columns.of(source) for source in sources]
        self.n_tokens = [s.n_tokens for s in self.sources]
        self.n_neurons = self.sources[0].n_neurons
        self.n_rows = sum(self.n_tokens)
        self.device, self.standardize = as_device(device), standardize
        short = [t for t in self.n_tokens if t < min_tokens]
        if short:
            raise ParameterError(f"Each run needs at least {min_tokens} tokens; some have {short}.")
        confounds = [None] * len(self.sources) if confounds is None else list(confounds)
        if len(confounds) != len(self.sources):
            raise ParameterError(f"{len(self.sources)} runs need as many confounds; got {len(confounds)}.")
        nuisance = [_nuisance(c, t, detrend, i) for i, (c, t) in enumerate(zip(confounds, self.n_tokens))]
        self.nuisance = [None if basis is None else basis.to(self.device) for basis in nuisance]
        # These lie on the device, so that a pass need not wait for it; ``known`` says here which neurons were measured.
        self.mean = [torch.zeros(self.n_neurons, device=self.device) for _ in self.sources]
        # inverse standard deviations; 0 for neurons that are set to zero
        self.scale = [torch.full((self.n_neurons,), torch.nan, device=self.device) for _ in self.sources]
        self.fits = [None] * len(self.sources)  # of the confounds of long runs to every neuron
        self.bad = torch.zeros(self.n_neurons, dtype=torch.bool, device=self.device)
        self.known = [torch.zeros(self.n_neurons, dtype=torch.bool) for _ in self.sources]
        self.square = None  # products between neurons, as far as they are known
        self._lock = Lock()  # for ``bad``, which all runs write
        self.release()

    def use(self, mean, scale, bad):
        """Clean the only run with what another one has told; tensors ``(n_neurons,)``."""
        self.mean[0], self.scale[0], self.bad = mean, scale, bad
        self.known[0][:] = True

    def keeps(self, r):
        """Whether the source of run ``r`` keeps what is computed from it."""
        return self.sources[r].grams is not None and self.device.type == "cpu"

    def kept_gram(self, r, matrix=None):
        """Gram matrix ``(n_tokens, n_tokens)`` that the source of run ``r`` keeps, or None; ``matrix`` is stored."""
        if matrix is not None:
            self._keep(r, "gram", matrix.float)
            return matrix
        kept = self._keep(r, "gram")
        return None if kept is None else kept.double()

    def kept_rows(self, r, n_rows, rows=None):
        """The ``n_rows`` leading rows that the source of run ``r`` keeps, or None; ``rows`` are stored."""
        if rows is not None:
            self._keep(r, "rows", lambda: (n_rows, rows))
            return rows
        most, kept = self._keep(r, "rows") or (0, None)
        return kept[:n_rows] if n_rows <= most else None

    def _keep(self, r, what, make=None):
        kept, basis = self.sources[r].grams, self.nuisance[r]
        if not self.keeps(r):
            return None
        key = (what, self.standardize, None if basis is None else basis.numpy().tobytes())
        if make is not None:
            kept[key] = make()
        return kept.get(key)

    def hold(self):
        """Keep the cleaned data from the next pass on, if they are small enough."""
        self.release()
        limit = HOLD_BYTES
        if self.device.type != "cpu":
            limit = max(HOLD_BYTES_GPU, max(self.n_tokens) * self.n_neurons * 4, room(self.device) // 2)
        if self.n_rows * self.n_neurons * 4 > limit:
            return
        self._joint = torch.empty(self.n_rows, self.n_neurons, device=self.device)
        self._held = dict(enumerate(self._joint.split(self.n_tokens)))
        self._filled = {i: torch.zeros(self.n_neurons, dtype=torch.bool) for i in self._held}

    def release(self):
        """Delete the kept data."""
        self._held, self._filled, self._joint = {}, {}, None

    def blocks(self, rows=None):
        """Yield the bounds of blocks of neurons: a few megabytes for this number of rows, a small part of a run."""
        values = BLOCK_VALUES_GPU
        if self.device.type == "cpu":
            values = min(BLOCK_VALUES, max(BLOCK_VALUES // 8, max(self.n_tokens) * self.n_neurons // BLOCKS_PER_RUN))
        rows = max(rows or self.n_rows, 1)
        size = max(2048, min(BLOCK_NEURONS, BLOCK_VALUES // rows), values // rows)
        if self.device.type != "cpu":
            size -= size % 64  # products of rows that begin at odd places are slow
        for start in range(0, self.n_neurons, size):
            yield start, min(start + size, self.n_neurons)

    def block(self, r, start, stop, out=None):
        """Return the cleaned neurons ``start:stop`` of run ``r``, shape ``(n_tokens, stop - start)``, float32."""
        if r in self._held:
            out = self._held[r][:, start:stop]
            if not self._filled[r][start:stop].all():
                self._read(out, r, start, stop)
                self._filled[r][start:stop] = True
            return out
        if out is None:
            out = torch.empty(self.n_tokens[r], stop - start, device=self.device)
        return self._read(out, r, start, stop)

    def is_long(self, r):
        """Whether a run has more tokens than neurons and is too large to be held, so that it is read in chunks."""
        n = self.n_tokens[r]
        return n > self.n_neurons and n * self.n_neurons * 4 > HOLD_BYTES

    def pieces(self, runs=None):
        """Yield (run, first, last) of pieces of tokens that fit into memory with all neurons: runs, or their chunks."""
        for r in range(len(self.sources)) if runs is None else runs:
            n = self.n_tokens[r]
            step = max(1, BLOCK_VALUES // self.n_neurons) if self.is_long(r) else n
            for first in range(0, n, step):
                yield r, first, min(first + step, n)

    def piece(self, r, first, last):
        """Return the cleaned tokens ``first:last`` of run ``r`` with all neurons, float32."""
        if not self.is_long(r):
            return self.block(r, 0, self.n_neurons)[first:last]
        with self._lock:
            if not self.known[r].all() or (self.nuisance[r] is not None and self.fits[r] is None):
                self._measure(r)
        out = self._chunk(r, first, last)
        out -= self.mean[r]
        if self.fits[r] is not None:
            out -= self.nuisance[r][first:last] @ self.fits[r]
        out *= self.scale[r]
        out[:, self.scale[r] == 0] = 0  # also where neurons are not finite
        return out

    def _chunk(self, r, first, last):
        out = torch.empty(last - first, self.n_neurons)
        self.sources[r].read(0, self.n_neurons, out.numpy(), first)
        return out.to(self.device)

    def _measure(self, r):
        """Compute mean and scale, unless they are given, and the fit of the confounds of a long run, in one pass."""
        moments, fit = Moments(self.n_neurons, full=False, device=self.device), 0
        for _, first, last in self.pieces([r]):
            x = self._chunk(r, first, last)
            moments.add(x)
            if self.nuisance[r] is not None:  # centred, so the neurons need not be
                fit += self.nuisance[r][first:last].double().T @ x.double()
        mean, size = moments.mean, (moments.variance * (moments.n / (moments.n - 1))).sqrt()
        bad = ~(torch.isfinite(mean) & torch.isfinite(size))
        constant = bad | (size <= CONSTANT * mean.abs() + torch.finfo(torch.float32).tiny)
        if self.nuisance[r] is not None:
            left = (size.square() - fit.square().sum(0) / (moments.n - 1)).clamp_min(0).sqrt()
            constant |= left <= CONSTANT * size
            size = left
            self.fits[r] = torch.where(constant, 0, fit).float()
        if self.known[r].all():
            return
        scale = 1 / size if self.standardize else torch.ones_like(size)
        self.bad |= bad
        self.mean[r] = torch.where(constant, 0, mean).float()
        self.scale[r] = torch.where(constant, 0, scale).float()
        self.known[r][:] = True

    def each(self, start, stop):
        """Yield the number of each run and its cleaned neurons ``start:stop``; the next one overwrites them.

        Allocating new memory for every run would fragment it.
        """
        place = None if self._held else temporary(max(self.n_tokens), stop - start, device=self.device)
        for r, n in enumerate(self.n_tokens):
            yield r, self.block(r, start, stop, None if place is None else place[:n])

    def _read(self, out, r, start, stop):
        """Read and clean a block into ``out``, which lies on the device; nothing here waits for a GPU."""
        if out.device.type == "cpu":
            self.sources[r].read(start, stop, out.numpy())
        else:
            stage(out.device).fill(out, partial(self.sources[r].read, start, stop))
        if not self.known[r][start:stop].all():
            return self._clean_first(out, r, start, stop)
        out -= self.mean[r][start:stop]
        self._remove_nuisance(out, r)
        out *= self.scale[r][start:stop]
        return self._without(out, self.bad[start:stop])

    def _without(self, out, bad):
        """Set columns to zero; to ask a GPU whether there are any takes longer."""
        return out.masked_fill_(bad, 0) if self.device.type != "cpu" or bool(bad.any()) else out

    def stacked(self, start, stop):
        """Return the cleaned neurons ``start:stop`` of all runs on top of each other, ``(n_rows, stop - start)``."""
        if len(self.sources) == 1:
            return self.block(0, start, stop)
        out, calls = self.stacking(start, stop)
        for call in calls:
            call()
        return out

    def stacking(self, start, stop, out=None, runs=None):
        """Return an array for :meth:`stacked`, and the calls, one per run, that fill it.

        The array is new, or a part of ``out``, or the kept data; ``runs`` are all runs by default.
        """
        runs = range(len(self.sources)) if runs is None else runs
        held = self._held.get(runs[0]) if len(runs) == 1 else self._joint
        if held is not None:
            out = held[:, start:stop]
        elif out is None:
            out = torch.empty(sum(self.n_tokens[r] for r in runs), stop - start, device=self.device)
        else:
            out = out[:, : stop - start]

        def fill(r, rows):
            done = self.block(r, start, stop, rows)
            if done.data_ptr() != rows.data_ptr():
                rows.copy_(done)

        parts = out.split([self.n_tokens[r] for r in runs])
        return out, [partial(fill, r, rows) for r, rows in zip(runs, parts)]

    def _clean_first(self, out, r, start, stop):
        mean = out.mean(0)
        bad = ~torch.isfinite(mean)
        with self._lock:
            self.bad[start:stop] |= bad
        self._without(out, bad)
        out -= mean.masked_fill_(bad, 0)
        size = torch.linalg.vector_norm(out, dim=0) / (len(out) - 1) ** 0.5
        constant = size <= CONSTANT * mean.abs() + torch.finfo(torch.float32).tiny
        if self.nuisance[r] is not None:
            self._remove_nuisance(out, r)
            left = torch.linalg.vector_norm(out, dim=0) / (len(out) - 1) ** 0.5
            constant |= left <= CONSTANT * size  # the confounds explain all of it
            size = left
        scale = 1 / size if self.standardize else torch.ones_like(size)
        out *= scale.masked_fill_(constant, 0)
        self.mean[r][start:stop], self.scale[r][start:stop] = mean, scale
        self.known[r][start:stop] = True
        return out

    def _remove_nuisance(self, out, r):
        if self.nuisance[r] is not None:
            out -= self.nuisance[r] @ (self.nuisance[r].T @ out)

    def dead(self):
        """Neurons without signal in every run, a boolean tensor ``(n_neurons,)``; valid after one pass."""
        alive = torch.stack([scale > 0 for scale in self.scale]).any(0)
        return (~alive | self.bad).cpu()

    def sum_of_squares(self):
        """Sum of squares of the standardised data; valid after one pass."""
        used = torch.stack([((s > 0) & ~self.bad).sum() for s in self.scale])
        return float(sum((n - 1) * int(u) for n, u in zip(self.n_tokens, self.columns.total(used))))


def _nuisance(confounds, n_tokens, detrend, run):
    """Orthonormal basis of the centred ramp and confounds of a run, ``(n_tokens, rank)`` float32, or None."""
    columns = []
    if confounds is not None:
        confounds = np.asarray(confounds, np.float64)
        confounds = confounds[:, None] if confounds.ndim == 1 else confounds
        if len(confounds) != n_tokens or not np.all(np.isfinite(confounds)):
            raise ParameterError(
                f"The confounds of run {run} must be finite and have one row per token: expected {n_tokens} rows, "
                f"got the shape {confounds.shape}."
            )
        columns.append(confounds)
    if detrend:
        columns.append(np.arange(n_tokens, dtype=np.float64)[:, None])
    if not columns:
        return None
    basis = np.hstack(columns)
    basis = basis - basis.mean(0)
    norms = np.linalg.norm(basis, axis=0)
    basis = basis[:, norms > 1e-12] / norms[norms > 1e-12]
    u, s, _ = np.linalg.svd(basis, full_matrices=False)
    u = u[:, s > 1e-8]
    return torch.from_numpy(u.astype(np.float32)) if u.shape[1] else None
