"""Straight from the model into statistics: no file, whatever the length of the texts.

An accumulator gets the activations of each layer batch by batch, where they are, on the device. What it keeps does not
grow with the texts.
"""

import contextlib

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
        ``site`` (one), ``layers``, ``sites``, ``max_tokens``, ``every``, ``context``, ``warmup``, ``batch_size``,
        ``special_tokens`` of
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
        if isinstance(accumulator, type) or not hasattr(accumulator, "update"):
            raise ParameterError(f"{accumulator!r} is no accumulator; give one, e.g. Moments().")
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
    """Mean, variance and largest absolute value of each neuron, in float64 where the neurons are.

    Attributes
    ----------
    mean, variance, largest : ndarray of shape (n_neurons,)
        The variance is divided by the number of tokens.
    n_tokens : int
    """

    def begin(self, geometry, n_tokens):
        """Start empty."""
        self.geometry = geometry
        self._layers = [None] * geometry.n_layers  # number, mean, sum of squares around it, largest

    def update(self, layer, rows, first):
        """Take tokens in (Chan, Golub and LeVeque 1983: merging the moments of two parts)."""
        import torch

        rows = rows.double()
        new = len(rows), rows.mean(0), rows.var(0, correction=0) * len(rows), rows.abs().amax(0)
        if self._layers[layer] is not None:
            n, mean, square, largest = self._layers[layer]
            total, shift = n + new[0], new[1] - mean
            new = (
                total,
                mean + shift * (new[0] / total),
                square + new[2] + shift**2 * (n * new[0] / total),
                torch.maximum(largest, new[3]),
            )
        self._layers[layer] = new

    @property
    def n_tokens(self):
        """Tokens seen so far."""
        return self._layers[0][0]

    @property
    def mean(self):
        """Mean of each neuron."""
        return self._join(1)

    @property
    def variance(self):
        """Variance of each neuron, divided by the number of tokens."""
        return self._join(2) / self.n_tokens

    @property
    def largest(self):
        """Largest absolute activation of each neuron."""
        return self._join(3)

    def _join(self, i):
        return np.concatenate([layer[i].cpu().numpy() for layer in self._layers])


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

        if self._squares[layer] is None:
            wide = torch.float64 if rows.device.type == "cpu" else torch.float32
            size = rows.shape[1]
            self._squares[layer] = torch.zeros(size, size, dtype=wide, device=rows.device)
            self._sums[layer] = torch.zeros(size, dtype=torch.float64, device=rows.device)
        self._squares[layer] += _square(rows)
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


def _square(rows):
    """``X'X`` in float32. Products of half precision numbers are exact in it, and tensor cores add them up in it."""
    import torch

    if rows.device.type == "cuda" and rows.dtype in (torch.bfloat16, torch.float16):
        with contextlib.suppress(TypeError, RuntimeError):  # an older torch, or a device without it
            return torch.mm(rows.T, rows, out_dtype=torch.float32)
    rows = rows.float()
    return rows.T @ rows


class Sketch:
    """The leading spatial patterns of all tokens, as a few pseudo-tokens that stand for a whole run.

    Rows are merged with what is kept by a singular value decomposition that is cut to ``n_rows`` (Levy and Lindenbaum
    2000; Ross et al. 2008, algorithm 1 without its mean). Unlike every n-th token, or a random projection, it averages
    the noise of all tokens. Networks are fitted to :meth:`to_array` as to a run, with ``standardize=False`` because the
    neurons are standardised already; only time courses are lost.

    Parameters
    ----------
    n_rows : int
        Patterns to keep; a few times the number of networks.
    moments : Moments, optional
        Of the same texts, or a part of them: each neuron is centred and divided by its standard deviation. Without
        them loud neurons count for more.

    Attributes
    ----------
    n_tokens : int
    share : float
        Share of the variance (sum of squares) of all tokens that the patterns hold.

    Examples
    --------
    >>> moments = accumulate(model, tokenizer, texts, Moments())  # doctest: +SKIP
    >>> sketch = accumulate(model, tokenizer, texts, Sketch(128, moments))  # doctest: +SKIP
    >>> CanICA(20, geometry=sketch.geometry, standardize=False).fit([sketch.to_array()])  # doctest: +SKIP
    """

    def __init__(self, n_rows=128, moments=None):
        if isinstance(n_rows, bool) or not isinstance(n_rows, (int, np.integer)) or n_rows < 1:
            raise ParameterError(f"n_rows={n_rows!r}: it must be a whole number of at least 1.")
        self.n_rows = n_rows
        self.moments = moments

    def begin(self, geometry, n_tokens):
        """Start empty."""
        if self.moments is not None:
            geometry.check_same(self.moments.geometry, "moments")
        self.geometry = geometry
        self.n_tokens = 0
        self._kept = [None] * geometry.n_layers
        self._pending = {}
        self._scaling = {}
        self._total = 0.0

    def update(self, layer, rows, first):
        """Take tokens in; they are merged when every layer's are there."""
        self._pending[layer] = self._standardised(layer, rows.float())
        if len(self._pending) < self.geometry.n_layers:
            return
        n = len(rows)
        for a in range(0, n, 2 * self.n_rows):
            self._merge([self._pending[i][a : a + 2 * self.n_rows] for i in range(self.geometry.n_layers)])
        self.n_tokens += n
        self._pending = {}

    def _standardised(self, layer, rows):
        import torch

        if self.moments is None:
            return rows
        if layer not in self._scaling:
            at = self.geometry.layer_slice(layer)
            sd = np.sqrt(self.moments.variance[at])
            gain = np.divide(1, sd, out=np.zeros_like(sd), where=sd > 0)  # silent neurons stay silent
            self._scaling[layer] = [
                torch.from_numpy(v.astype(np.float32)).to(rows.device) for v in (self.moments.mean[at], gain)
            ]
        mean, gain = self._scaling[layer]
        return (rows - mean) * gain

    def _merge(self, parts):
        import torch

        joined = [part if kept is None else torch.cat([kept, part]) for kept, part in zip(self._kept, parts)]
        gram = sum((rows @ rows.T).to(joined[0].device).double() for rows in joined).cpu()
        n_kept = 0 if self._kept[0] is None else len(self._kept[0])
        self._total += float(gram.diagonal()[n_kept:].sum())
        vectors = torch.linalg.eigh(gram).eigenvectors[:, -self.n_rows :].flip(1).T.contiguous()
        self._kept = [vectors.to(rows.device, rows.dtype) @ rows for rows in joined]

    @property
    def share(self):
        """Share of the sum of squares of all tokens that the patterns hold."""
        return sum(float(rows.double().square().sum()) for rows in self._kept) / self._total

    def to_array(self):
        """The patterns and their negatives, ``(2 * n_rows, n_neurons)`` float32.

        The negatives make every mean exactly zero, so that centring, which any estimator does, loses nothing. Over
        the rows each neuron has the variance that the patterns explain of it.
        """
        rows = np.concatenate([part.cpu().numpy() for part in self._kept], axis=1)
        rows *= np.float32(np.sqrt(len(rows) / self.n_tokens))
        return np.concatenate([rows, -rows])
