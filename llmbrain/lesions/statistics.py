"""What neurons do on a reference text: means for mean lesions, values for resampling, importances for controls."""

from dataclasses import dataclass, field

import numpy as np

from ..exceptions import ParameterError
from ..geometry import NeuronGeometry

__all__ = ["IMPORTANCES", "NeuronStatistics", "neuron_statistics", "output_norms"]

IMPORTANCES = ("fluctuation", "power", "variance", "mean", "kurtosis", "norm")


@dataclass(frozen=True, eq=False)
class NeuronStatistics:
    """Moments of every neuron over the tokens of a reference text.

    Parameters
    ----------
    geometry : NeuronGeometry
    n_tokens : int
    mean, variance, kurtosis : float array of shape (n_neurons,)
        Variance with divisor ``n_tokens``; excess kurtosis (0 for a Gaussian, and for a neuron that never moves).
    output_norm : float array of shape (n_neurons,)
        Euclidean norm of the weights by which the neuron writes to the residual stream; 1 for sites without such.
    samples : float32 array of shape (n_samples, n_neurons) or None
        The neurons at some of the tokens.
    info : dict
        ``corpus_hash``, ``corpus``, ``document_hashes`` where they are known.
    """

    geometry: NeuronGeometry
    n_tokens: int
    mean: np.ndarray
    variance: np.ndarray
    kurtosis: np.ndarray
    output_norm: np.ndarray
    samples: np.ndarray = None
    info: dict = field(default_factory=dict)

    def importance(self, kind="fluctuation"):
        """How much a neuron matters by a rule that needs no lesion.

        Parameters
        ----------
        kind : {"fluctuation", "power", "variance", "mean", "kurtosis", "norm"}
            ``fluctuation``: variance times squared output norm (FLAP; An et al. 2024); ``power``: mean square times
            squared output norm (Wanda by channel); ``variance``; ``mean``: its size; ``kurtosis``; ``norm``: of the
            output weights.

        Returns
        -------
        float array of shape (n_neurons,)
        """
        squared = self.output_norm**2
        if kind == "fluctuation":
            return self.variance * squared
        if kind == "power":
            return (self.variance + self.mean**2) * squared
        if kind == "norm":
            return self.output_norm.copy()
        if kind in ("variance", "kurtosis"):
            return getattr(self, kind).copy()
        if kind == "mean":
            return np.abs(self.mean)
        raise ParameterError(f"importance {kind!r} is unknown; choose from {', '.join(IMPORTANCES)}.")


class Moments:
    """Sums of powers, taken about a first guess of the mean so that nothing is lost to cancellation."""

    def __init__(self, n_neurons, n_samples=0, random_state=0):
        self.n = 0
        self.sums = np.zeros((4, n_neurons))
        self.shift = None
        self.rng = np.random.default_rng(random_state)
        self.samples = np.zeros((n_samples, n_neurons), np.float32)

    def add(self, block):
        """Add ``(n_tokens, n_neurons)`` float32 values."""
        if self.shift is None:
            self.shift = block.mean(axis=0, dtype=np.float64).astype(np.float32)
        # some neurons at a time, so that the powers stay in the caches
        for start in range(0, block.shape[1], 1024):
            part = slice(start, start + 1024)
            first = block[:, part] - self.shift[part]
            second = first * first
            for total, power in zip(self.sums, (first, second, second * first, second * second)):
                total[part] += power.sum(axis=0, dtype=np.float64)
        self._sample(block)
        self.n += len(block)

    def _sample(self, block):
        """Reservoir sampling (Vitter's algorithm R): every token has the same chance."""
        size = len(self.samples)
        if not size:
            return
        seen = self.n + np.arange(len(block))
        place = np.where(seen < size, seen, self.rng.integers(0, seen + 1))
        for row in np.flatnonzero(place < size):
            self.samples[place[row]] = block[row]

    def result(self, geometry, norms, info):
        m1, m2, m3, m4 = self.sums / self.n
        variance = np.maximum(m2 - m1**2, 0.0)
        fourth = m4 - 4 * m1 * m3 + 6 * m1**2 * m2 - 3 * m1**4
        kurtosis = np.divide(fourth, variance**2, out=np.full_like(m1, 3.0), where=variance > 1e-12) - 3.0
        samples = self.samples[: min(self.n, len(self.samples))]
        return NeuronStatistics(
            geometry, self.n, m1 + self.shift, variance, kurtosis, norms, samples if len(samples) else None, info
        )


def neuron_statistics(
    model, tokenizer=None, texts="demo", *, site="mlp", max_tokens=8192, n_samples=0, context=512, random_state=0
):
    """Collect the moments of all neurons of a site over a reference text.

    Parameters
    ----------
    model : transformers causal language model
    tokenizer : transformers tokenizer, optional
        Not needed with a recording.
    texts : Corpus, list of str, source, or Recording
        A recording that exists already is read instead of running the model again.
    site : str
    max_tokens : int or None
        Read the first so many tokens of the text (spread over the documents); None: all.
    n_samples : int
        Keep the values at so many tokens, for resampling lesions.
    context : int
        Longest piece of a document.
    random_state : int
        Which tokens are kept.

    Returns
    -------
    NeuronStatistics
        Special tokens are left out.
    """
    from ..models.sites import find_sites

    if hasattr(texts, "geometry"):
        return _of_recording(model, texts, max_tokens, n_samples, random_state)
    sites = find_sites(model, site)
    geometry = NeuronGeometry.from_sites(sites, site)
    moments = Moments(geometry.n_neurons, n_samples, random_state)
    info = _read(model, tokenizer, texts, sites, geometry, moments, max_tokens, context)
    return moments.result(geometry, output_norms(sites), info)


def _read(model, tokenizer, texts, sites, geometry, moments, max_tokens, context):
    import torch

    from ..evaluation.losses import corpus_sequences, input_device, pad, sequence_batches
    from ..models.hooks import site_hooks
    from ..text import as_corpus

    corpus = as_corpus(texts)
    per_document = None if max_tokens is None else max(2, -(-max_tokens // len(corpus)) + 1)
    sequences, _, documents = corpus_sequences(corpus, tokenizer, context=context, max_tokens=per_document)
    block, wanted = None, None

    def keep(i, x):
        block[:, geometry.layer_slice(i)] = x.reshape(-1, x.shape[-1])[wanted].float().cpu().numpy()

    with site_hooks(sites, keep), torch.no_grad():
        for rows in sequence_batches(sequences, 1024):
            batch = [sequences[i] for i in rows]
            ids, mask = pad(batch, input_device(model))
            flat = np.zeros(ids.shape, bool)
            for row, sequence in enumerate(batch):
                flat[row, : len(sequence)] = sequence.counted
            wanted = torch.from_numpy(flat.ravel()).to(ids.device)
            block = np.empty((int(flat.sum()), geometry.n_neurons), np.float32)
            model.base_model(input_ids=ids, attention_mask=mask, use_cache=False)
            moments.add(block)
    return {"corpus": corpus.name, "corpus_hash": corpus.hash, "document_hashes": [d.hash for d in corpus]}


def _of_recording(model, recording, max_tokens, n_samples, random_state):
    from ..models.sites import find_sites

    geometry = recording.geometry
    sites = {s.layer: s for s in find_sites(model, geometry.site)}
    geometry.check_same(NeuronGeometry.from_sites([sites[i] for i in geometry.layers], geometry.site), "The model")
    moments = Moments(geometry.n_neurons, n_samples, random_state)
    runs = list(recording) if not hasattr(recording, "to_array") else [recording]
    per_run = None if max_tokens is None else max(1, -(-max_tokens // len(runs)))
    for run in runs:
        stop = run.n_tokens if per_run is None else min(run.n_tokens, per_run)
        for start in range(0, stop, 1024):
            moments.add(run.to_array(start, min(start + 1024, stop)))
    corpus = (getattr(getattr(recording, "study", None), "info", None) or {}).get("corpus", {})
    known = ("name", "corpus"), ("hash", "corpus_hash"), ("document_hashes", "document_hashes")
    info = {ours: corpus.get(theirs) for theirs, ours in known}
    return moments.result(geometry, output_norms([sites[i] for i in geometry.layers]), info)


def output_norms(sites):
    """Norm of the weights by which each neuron writes to the residual stream.

    Parameters
    ----------
    sites : list of Site

    Returns
    -------
    float array of shape (n_neurons,)
        1 for sites that are the output of a module: there the neuron is what is written, or is multiplied before it.
    """
    norms = []
    for site in sites:
        weight = getattr(site.module, "weight", None)
        if site.where != "input" or weight is None or weight.device.type == "meta":
            norms.append(np.ones(site.size))
            continue
        columns_are_inputs = hasattr(site.module, "in_features")  # Conv1D of GPT-2 stores its weight transposed
        norm = weight.detach().float().norm(dim=0 if columns_are_inputs else 1)
        norms.append(norm.cpu().numpy().astype(np.float64)[site.start : site.stop])
    return np.concatenate(norms)
