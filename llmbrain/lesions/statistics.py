"""Statistics of neurons on a reference text: means and samples for lesions, importances for controls."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..arguments import checked, count, optional, text
from ..dataset.staleness import noted_runs
from ..exceptions import RecordingError
from ..geometry import NeuronGeometry
from ..models.hooks import evaluating
from ..models.inputs import check_readable, context_limit
from ..models.linears import weight_of
from ..models.sites import find_sites
from ..recording.capture import run_batch
from ..registry import Registry
from ..stats import Moments
from ..text import as_corpus, batches, describe_bos, text_windows

_CONTEXT = 512  # tokens of a window, if the model reads as many

# tokens whose values are kept, by what a lesion kind needs of the reference
N_SAMPLES = {None: 0, "mean": 0, "samples": 1000}

IMPORTANCES = Registry("importance")


@dataclass(frozen=True, eq=False, repr=False)
class NeuronStatistics:
    """Moments of every neuron over the tokens of a reference text.

    Parameters
    ----------
    geometry : NeuronGeometry
    n_tokens : int
    mean, variance, kurtosis : float array of shape (n_neurons,)
        Variance with divisor ``n_tokens``; excess kurtosis (0 for a Gaussian, and for a constant neuron).
    output_norm : float array of shape (n_neurons,)
        Euclidean norm of the weights by which the neuron writes to the residual stream; 1 for sites without them.
    samples : float32 array of shape (n_samples, n_neurons) or None
        The neurons at some of the tokens.
    info : dict
        ``corpus_hash``, ``corpus``, ``document_hashes``, if known.
    """

    geometry: NeuronGeometry
    n_tokens: int
    mean: np.ndarray
    variance: np.ndarray
    kurtosis: np.ndarray
    output_norm: np.ndarray
    samples: np.ndarray = None
    info: dict = field(default_factory=dict)

    def __repr__(self):
        samples = "" if self.samples is None else f", {len(self.samples)} samples"
        return f"NeuronStatistics({self.geometry.n_neurons:,} neurons over {self.n_tokens:,} tokens{samples})"

    def importance(self, kind="fluctuation"):
        """Compute an importance of each neuron that needs no lesion; ``kind`` is a name in :data:`IMPORTANCES`."""
        return IMPORTANCES[kind](self)


@IMPORTANCES.register("fluctuation")
def fluctuation(statistics):
    """Variance times squared output norm (FLAP; An et al. 2024)."""
    return statistics.variance * statistics.output_norm**2


@IMPORTANCES.register("power")
def power(statistics):
    """Mean square times squared output norm (Wanda per channel)."""
    return (statistics.variance + statistics.mean**2) * statistics.output_norm**2


@IMPORTANCES.register("variance")
def variance(statistics):
    """Variance."""
    return statistics.variance.copy()


@IMPORTANCES.register("mean")
def mean(statistics):
    """Absolute mean."""
    return np.abs(statistics.mean)


@IMPORTANCES.register("kurtosis")
def kurtosis(statistics):
    """Excess kurtosis."""
    return statistics.kurtosis.copy()


@IMPORTANCES.register("norm")
def norm(statistics):
    """Norm of the output weights."""
    return statistics.output_norm.copy()


class _Samples:
    """A random sample of the tokens of a stream, filled by reservoir sampling (Vitter's algorithm R)."""

    def __init__(self, n_samples, n_neurons, random_state=0):
        self.rng = np.random.default_rng(random_state)
        self.values = np.zeros((n_samples, n_neurons), np.float32)
        self.n = 0

    def draw(self, n_tokens):
        """Choose tokens of the next block: their rows in the block, and their places in the sample."""
        size = len(self.values)
        if not size:
            return np.zeros((2, 0), int)
        seen = self.n + np.arange(n_tokens)
        place = np.where(seen < size, seen, self.rng.integers(0, seen + 1))
        self.n += n_tokens
        last = {int(place[row]): row for row in np.flatnonzero(place < size)}  # a later token replaces an earlier one
        return np.array([list(last.values()), list(last)], int)

    def result(self):
        """Return the sample, or None if it has size 0."""
        return self.values[: self.n] if len(self.values) else None


def _statistics(geometry, moments, samples, norms, info):
    """Join the moments of consecutive groups of neurons."""
    mean, variance, kurtosis = (
        np.concatenate([getattr(m, name).cpu().numpy() for m in moments]) for name in ("mean", "variance", "kurtosis")
    )
    broken = geometry.layer_of[~np.isfinite(variance)]
    if broken.size:
        raise RecordingError(
            f"Layer {geometry.layers[broken[0]]} has activations that are infinite or not a number, so it has no "
            "statistics. Load the model with dtype='bfloat16' or 'float32', whose range is larger than that of float16."
        )
    return NeuronStatistics(geometry, moments[0].n, mean, variance, kurtosis, norms, samples.result(), info)


@checked(site=text, max_tokens=optional(count), n_samples=lambda name, value: count(name, value, 0))
def neuron_statistics(
    model,
    tokenizer=None,
    text="demo",
    *,
    site="mlp",
    max_tokens=8192,
    n_samples=0,
    context=None,
    random_state=0,
    bos="auto",
):
    """Compute statistics of all neurons of a site over a reference text.

    Parameters
    ----------
    model : transformers causal language model
    tokenizer : transformers tokenizer, optional
        Not needed with a recording.
    text : Corpus, list of str, source, or Recording
        With a recording, its files are read and the model is not run; with a dict of recordings those of several sites.
    site : str
        Names joined by ``+`` for several sites; see :meth:`llmbrain.NeuronGeometry.from_model`.
    max_tokens : int or None
        Number of tokens to read, spread over the documents; None reads all.
    n_samples : int
        Number of tokens whose values are stored, for resampling lesions.
    context : int, optional
        Tokens of a window, leading special tokens included; by default 512, or as many as the model reads.
    random_state : int
        Decides which tokens are stored.
    bos : {"auto", True, False}
        Special tokens at the head of every window, see :func:`llmbrain.text.leading_tokens`. Not used with a recording.

    Returns
    -------
    NeuronStatistics
        Over all tokens except special ones.
    """
    if isinstance(text, dict):
        return _of_recordings(model, text, max_tokens, n_samples, random_state)
    if hasattr(text, "geometry"):
        return _of_recording(model, text, max_tokens, n_samples, random_state)
    geometry = NeuronGeometry.from_model(model, site)
    sites = [place for name in geometry.site_names for place in find_sites(model, name)]
    context = min(_CONTEXT, context_limit(model) or _CONTEXT) if context is None else context
    context_limit(model, context)
    samples = _Samples(n_samples, geometry.n_neurons, random_state)
    corpus = as_corpus(text)
    per_document = None if max_tokens is None else max(4, -(-max_tokens // len(corpus)) + 1)
    windows, _ = text_windows(corpus, tokenizer, context, bos=bos, per_document=per_document)
    check_readable(model, (window.ids for window in windows))
    moments = _moments_of_layers(model, sites, windows, geometry, samples)
    info = {"corpus": corpus.name, "corpus_hash": corpus.hash, "document_hashes": [d.hash for d in corpus]}
    return _statistics(geometry, moments, samples, output_norms(sites), info | {"bos": describe_bos(tokenizer, bos)})


def _moments_of_layers(model, sites, windows, geometry, samples):
    """Read windows of text; the moments of each layer stay on the device where the layer is."""
    moments = [None] * len(sites)

    def keep(i, rows):
        if moments[i] is None:
            moments[i] = Moments(rows.shape[1], full=False, order=4, device=rows.device)
        moments[i].add(rows)
        samples.values[drawn[1], geometry.layer_slice(i)] = rows[drawn[0]].float().cpu().numpy()

    with evaluating(model):
        for batch in batches(windows, max_tokens=1024):
            places = [np.flatnonzero(window.scored) for window in batch.windows]
            drawn = samples.draw(sum(map(len, places)))
            run_batch(model, sites, batch, places, keep, surprisals=False)
    return moments


def _of_recording(model, recording, max_tokens, n_samples, random_state):
    import torch

    geometry = recording.geometry
    sites = {s.layer: s for s in find_sites(model, geometry.site)}
    geometry.check_same(NeuronGeometry.from_sites([sites[i] for i in geometry.layers], geometry.site), "The model")
    moments = Moments(geometry.n_neurons, full=False, order=4)
    samples = _Samples(n_samples, geometry.n_neurons, random_state)
    runs = list(recording) if not hasattr(recording, "to_array") else [recording]
    per_run = None if max_tokens is None else max(1, -(-max_tokens // len(runs)))
    for run in runs:
        stop = run.n_tokens if per_run is None else min(run.n_tokens, per_run)
        for start in range(0, stop, 1024):
            block = run.to_array(start, min(start + 1024, stop))
            moments.add(torch.from_numpy(block))
            rows, places = samples.draw(len(block))
            samples.values[places] = block[rows]
    corpus = (getattr(getattr(recording, "study", None), "info", None) or {}).get("corpus", {})
    known = ("name", "corpus"), ("hash", "corpus_hash"), ("document_hashes", "document_hashes")
    info = {ours: corpus.get(theirs) for theirs, ours in known} | {"recording": noted_runs(runs)}
    return _statistics(geometry, [moments], samples, output_norms([sites[i] for i in geometry.layers]), info)


def _of_recordings(model, recordings, max_tokens, n_samples, random_state):
    """Statistics of several sites, which were recorded while the model read the same text."""
    parts = {
        name: _of_recording(model, recordings[name], max_tokens, n_samples, random_state) for name in sorted(recordings)
    }
    geometry = NeuronGeometry.join(*(part.geometry for part in parts.values()))
    parts = [parts[name] for name in geometry.site_names]
    if len({(part.n_tokens, part.info.get("corpus_hash")) for part in parts}) > 1:
        raise RecordingError("The recordings of several sites must be of the same text; these differ.")
    joined = (np.concatenate([getattr(p, name) for p in parts]) for name in ("mean", "variance", "kurtosis"))
    samples = None if parts[0].samples is None else np.concatenate([p.samples for p in parts], axis=1)
    norms = np.concatenate([p.output_norm for p in parts])
    info = parts[0].info | {"recording": [noted for part in parts for noted in part.info["recording"]]}
    return NeuronStatistics(geometry, parts[0].n_tokens, *joined, norms, samples, info)


def reads_text(reference):
    """Whether a reference is text, which a model has to read."""
    several = isinstance(reference, (list, tuple)) and len(reference) and isinstance(reference[0], str)
    return isinstance(reference, (str, Path)) or hasattr(reference, "texts") or bool(several)


def output_norms(sites):
    """Compute the norm of the weights by which each neuron writes to the residual stream, shape (n_neurons,).

    It is 1 for sites that are the output of a module, where the value itself is written, or multiplied first.
    """
    norms = []
    for site in sites:
        weight = getattr(site.module, "weight", None)
        if site.where != "input" or weight is None or weight.device.type == "meta":
            norms.append(np.ones(site.size))
            continue
        norm = weight_of(site.module).detach().float().norm(dim=0)
        norms.append(norm.cpu().numpy().astype(np.float64)[site.start : site.stop])
    return np.concatenate(norms)
