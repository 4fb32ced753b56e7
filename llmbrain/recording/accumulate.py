"""Straight from the model into statistics: no file, whatever the length of the texts.

An accumulator gets the activations of each layer batch by batch, where they are, on the device. What it keeps does not
grow with the texts.
"""

import numpy as np

from ..exceptions import ParameterError
from .capture import quiet_forward, run_batch
from .job import prepare

__all__ = ["Gram", "Moments", "Sketch", "accumulate"]


def accumulate(model, tokenizer, corpus, accumulators, *, progress=True, **options):
    """Feed the activations of a corpus to accumulators instead of files.

    Parameters
    ----------
    model, tokenizer, corpus
        As in :func:`llmbrain.record`.
    accumulators : accumulator or list of them
        :class:`Moments`, :class:`Gram`, :class:`Sketch`, or anything with ``begin(geometry, n_tokens)`` and
        ``update(layer, rows, first)``: ``rows`` a tensor ``(n, size)``, ``layer`` the position in the geometry,
        ``first`` the number of tokens that were seen before.
    progress : bool
        Show a progress bar.
    **options
        ``site`` (one), ``layers``, ``sites``, ``max_tokens``, ``every``, ``context``, ``warmup``, ``batch_size`` of
        :func:`llmbrain.record`.

    Returns
    -------
    What was given as ``accumulators``, filled.

    Raises
    ------
    RecordingError
        If an activation is infinite or not a number.

    Examples
    --------
    >>> moments = accumulate(model, tokenizer, "demo", Moments())  # doctest: +SKIP
    >>> moments.mean.shape  # doctest: +SKIP
    (46080,)
    """
    from tqdm.auto import tqdm

    from .recorder import _explain

    job = prepare(model, tokenizer, corpus, **options)
    if len(job.geometries) != 1:
        raise ParameterError(f"Accumulate one site at a time; got {', '.join(job.geometries)}.")
    ((name, geometry),) = job.geometries.items()
    several = accumulators if isinstance(accumulators, (list, tuple)) else [accumulators]
    for accumulator in several:
        accumulator.begin(geometry, job.plan.n_tokens)
    first = 0
    with quiet_forward(model), tqdm(total=job.plan.n_tokens, unit="token", disable=not progress) as bar:
        for run in job.plan.runs:
            for batch, places, _, pieces in job.batches(run):
                _feed(job, name, several, batch, places, pieces, first, _explain)
                n = sum(map(len, places))
                first += n
                bar.update(n)
    return accumulators


def _feed(job, name, several, batch, places, pieces, first, explain):
    import torch

    from .capture import NotFiniteError, raise_if_not_finite

    sites = job.sites[name]
    finite = []

    def update(i, rows):
        finite.append(rows.sum(dtype=torch.float32).isfinite())
        if rows.device.type == "cpu" and not finite[-1]:
            raise_if_not_finite(sites[i], rows)
        for accumulator in several:
            accumulator.update(i, rows, first)

    try:
        run_batch(job.model, sites, batch, places, update)
        if not all(bool(flag) for flag in finite):  # found out late on a GPU, where looking at once would stall it
            run_batch(job.model, sites, batch, places, lambda i, rows: raise_if_not_finite(sites[i], rows))
    except NotFiniteError as error:
        raise explain(error, job, pieces) from error


class Moments:
    """Mean, variance and largest absolute value of each neuron, in float64.

    Attributes
    ----------
    mean, variance, largest : ndarray of shape (n_neurons,)
    n_tokens : int
    """

    def begin(self, geometry, n_tokens):
        """Start empty."""
        self.geometry = geometry
        self.n_tokens = 0
        self.mean, self._square, self.largest = (np.zeros(geometry.n_neurons) for _ in range(3))
        self._seen = np.zeros(geometry.n_layers, int)

    def update(self, layer, rows, first):
        """Take tokens in (Chan, Golub and LeVeque 1983: merging the moments of two parts)."""
        at = self.geometry.layer_slice(layer)
        n, before = len(rows), int(self._seen[layer])
        rows = rows.float()
        center = rows.mean(0)
        square = ((rows - center) ** 2).sum(0).double().cpu().numpy()
        shift = center.double().cpu().numpy() - self.mean[at]
        self.mean[at] += shift * n / (before + n)
        self._square[at] += square + shift**2 * before * n / (before + n)
        self.largest[at] = np.maximum(self.largest[at], rows.abs().amax(0).double().cpu().numpy())
        self._seen[layer] += n
        self.n_tokens = int(self._seen.max())

    @property
    def variance(self):
        """Variance of each neuron, divided by the number of tokens."""
        return self._square / self.n_tokens


class Gram:
    """``X'X`` of each layer and the sums of ``X``: all that least squares needs.

    Parameters
    ----------
    centered : bool
        Whether :meth:`matrix` subtracts the means.

    Attributes
    ----------
    n_tokens : int
    """

    def __init__(self, centered=False):
        self.centered = centered

    def begin(self, geometry, n_tokens):
        """Start empty; the matrices are made on the device where the first rows are."""
        self.geometry = geometry
        self._squares = [None] * geometry.n_layers
        self._sums = [None] * geometry.n_layers
        self._seen = [0] * geometry.n_layers

    def update(self, layer, rows, first):
        """Take tokens in; products in float32, sums in float64 on the CPU and float32 on a GPU."""
        import torch

        rows = rows.float()
        if self._squares[layer] is None:
            wide = torch.float64 if rows.device.type == "cpu" else torch.float32
            size = rows.shape[1]
            self._squares[layer] = torch.zeros(size, size, dtype=wide, device=rows.device)
            self._sums[layer] = torch.zeros(size, dtype=torch.float64, device=rows.device)
        self._squares[layer] += rows.T @ rows
        self._sums[layer] += rows.double().sum(0)
        self._seen[layer] += len(rows)

    @property
    def n_tokens(self):
        """Tokens seen so far."""
        return max(self._seen)

    def matrix(self, layer):
        """``X'X`` (or the scatter around the means) of the layer at a position, ``(size, size)`` float64."""
        square = self._squares[layer].double()
        if self.centered:
            total = self._sums[layer]
            square = square - total[:, None] * total[None] / self._seen[layer]
        return square.cpu().numpy()

    def mean(self, layer):
        """Means of the layer at a position, ``(size,)``."""
        return (self._sums[layer] / self._seen[layer]).cpu().numpy()


class Sketch:
    """A random projection of the tokens: few rows whose covariance over neurons is that of all tokens.

    With ``S`` a matrix of independent random signs divided by ``sqrt(n_rows)``, one row a pseudo-token, the sketch is
    ``S (X - mean)``. Its Gram matrix over neurons has the expectation of the data's own, and its row space captures the
    leading spatial patterns when ``n_rows`` is a few times their number (Halko, Martinsson and Tropp 2011, algorithm
    4.1). Networks can be fitted to :meth:`to_array` as to a run; only time courses are lost.

    Parameters
    ----------
    n_rows : int
        Pseudo-tokens to keep.
    random_state : int
        Seed of the signs. They depend on the number of the token, not on the batches.

    Attributes
    ----------
    mean : ndarray of shape (n_neurons,)
    n_tokens : int
    """

    def __init__(self, n_rows=256, random_state=0):
        if isinstance(n_rows, bool) or not isinstance(n_rows, (int, np.integer)) or n_rows < 1:
            raise ParameterError(f"n_rows={n_rows!r}: it must be a whole number of at least 1.")
        self.n_rows = n_rows
        self.random_state = random_state

    def begin(self, geometry, n_tokens):
        """Start empty."""
        self.geometry = geometry
        self.n_tokens = 0
        self._rows = [None] * geometry.n_layers
        self._sums = [None] * geometry.n_layers
        self._signs = np.zeros(self.n_rows)
        self._cached = (None, None)

    def update(self, layer, rows, first):
        """Take tokens in."""
        import torch

        rows = rows.float()
        signs = self._signs_of(first, len(rows))
        if layer == 0:
            self._signs += signs.sum(1)
            self.n_tokens = first + len(rows)
        if self._rows[layer] is None:
            self._rows[layer] = torch.zeros(self.n_rows, rows.shape[1], device=rows.device)
            self._sums[layer] = torch.zeros(rows.shape[1], dtype=torch.float64, device=rows.device)
        self._rows[layer] += torch.from_numpy(signs.astype(np.float32)).to(rows.device) @ rows
        self._sums[layer] += rows.double().sum(0)

    def _signs_of(self, first, n):
        """Signs of the tokens ``first`` to ``first + n - 1``, ``(n_rows, n)``; each token has a stream of its own."""
        if self._cached[0] != (first, n):
            columns = [
                np.random.default_rng([self.random_state, token]).integers(0, 2, self.n_rows, dtype=np.int8)
                for token in range(first, first + n)
            ]
            self._cached = ((first, n), np.stack(columns, 1) * 2.0 - 1.0)
        return self._cached[1]

    @property
    def mean(self):
        """Mean of each neuron."""
        return np.concatenate([total.cpu().numpy() for total in self._sums]) / self.n_tokens

    def to_array(self):
        """The sketch, ``(n_rows, n_neurons)`` float32, centred."""
        rows = np.concatenate([part.double().cpu().numpy() for part in self._rows], axis=1)
        rows -= self._signs[:, None] * self.mean
        return (rows / np.sqrt(self.n_rows)).astype(np.float32)
