"""Reading a new text: its tokens, their surprisal, the activity of every neuron, and the courses of the networks.

A new text is measured against the recording: every neuron is z-scored with its mean and standard deviation over the
recorded tokens, the networks' courses are the least-squares weights of their maps, as in the decomposition, and each
course is z-scored over the recorded tokens as well. A z of 2 therefore means the same in any text, however short.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np

from ..exceptions import CorpusError, ParameterError
from ..models.finite import not_finite_error
from ..models.hooks import evaluating
from ..models.inputs import input_device
from ..recording.capture import run_batch
from ..stats import Moments
from ..text import Document, pad
from ..text.tokens import Encoder
from ..text.windows import cut_windows

MOST_VALUES = 1 << 27  # of the recording that the yardstick reads: 512 MiB of float32
BLOCK = 64  # consecutive tokens that are read at a time


@dataclass(frozen=True, eq=False)
class Yardstick:
    """Means and standard deviations over ``n_tokens`` recorded tokens.

    ``mean`` and ``sd`` (n_neurons,) are of the activity; a neuron that never changes has the standard deviation 0.
    ``weights`` (n_neurons, n_networks) turn z-scored activity into courses, see :func:`course_weights`, whose mean and
    standard deviation are ``course_mean`` and ``course_sd`` (n_networks,).
    """

    mean: np.ndarray
    sd: np.ndarray
    weights: np.ndarray
    course_mean: np.ndarray
    course_sd: np.ndarray
    n_tokens: int

    def z(self, activity):
        """Z-score activity ``(n_tokens, n_neurons)``; neurons that never change get 0."""
        return _scaled(activity, self.mean, self.sd)

    def courses(self, z):
        """Z-scored courses ``(n_tokens, n_networks)`` of z-scored activity."""
        return (z @ self.weights - self.course_mean) / np.where(self.course_sd > 0, self.course_sd, 1)


def _scaled(activity, mean, sd):
    z = np.subtract(activity, mean, dtype=np.float32)
    z *= np.divide(1, sd, out=np.zeros_like(sd), where=sd > 0)
    return z


def course_weights(networks):
    """Compute the weights (n_neurons, n_networks) that turn z-scored activity into the courses of networks.

    ``z @ weights`` are the least-squares courses that :meth:`llmbrain.CanICA.transform` returns. Networks that were
    searched in the same layers share one regression. A network without neurons gets zeros.
    """
    maps, support = networks.maps, networks.support
    groups = np.zeros(len(maps), int)
    if support is not None:
        groups = np.unique(support, axis=0, return_inverse=True)[1].ravel()
    weights = np.zeros((maps.shape[1], len(maps)), np.float32)
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        part = maps[rows].astype(np.float64)
        weights[:, rows] = part.T @ np.linalg.pinv(part @ part.T, hermitian=True)
    return weights


def measure_yardstick(recording, networks=None, max_values=MOST_VALUES):
    """Measure a :class:`Yardstick` on blocks of tokens spread evenly over the runs of a recording.

    At most ``max_values`` values (tokens times neurons) are read. Courses of ``networks`` are measured too.
    """
    import torch

    n_neurons = recording.geometry.n_neurons
    blocks = _blocks(recording, max(2, max_values // n_neurons))
    moments = Moments(n_neurons, full=False)
    for run, start, stop in blocks:
        moments.add(torch.from_numpy(run.to_array(start, stop)))
    mean, sd = moments.mean.numpy().astype(np.float32), moments.variance.sqrt().numpy().astype(np.float32)
    # a float32 sum leaves a trace of variance in a constant neuron
    sd[sd <= 1e-6 * np.abs(mean)] = 0
    if networks is None:
        return Yardstick(mean, sd, np.zeros((n_neurons, 0), np.float32), np.zeros(0), np.zeros(0), moments.n)
    networks.geometry.check_same(recording.geometry, "The recording")
    weights, found = course_weights(networks), Moments(len(networks), full=False)
    for run, start, stop in blocks:
        found.add(torch.from_numpy(_scaled(run.to_array(start, stop), mean, sd) @ weights))
    return Yardstick(mean, sd, weights, found.mean.numpy(), found.variance.sqrt().numpy(), moments.n)


def _blocks(recording, n_tokens):
    """Blocks of tokens ``(run, start, stop)``: all, or about ``n_tokens`` spread evenly over the runs."""
    share = min(1.0, n_tokens / recording.n_tokens)
    found = []
    for run in recording:
        starts = range(0, run.n_tokens, BLOCK)
        n = max(1, round(share * len(starts)))
        for i in np.unique(np.linspace(0, len(starts) - 1, n).round().astype(int)):
            found.append((run, starts[i], min(starts[i] + BLOCK, run.n_tokens)))
    return found


@dataclass(frozen=True, eq=False)
class Reading:
    """A text as the model read it: spelling of each token (special tokens left out), surprisal and activity.

    ``surprisal`` (n_tokens,) is in nats, NaN for a first token that nothing predicts; ``activity`` has the shape
    (n_tokens, n_neurons); ``cut`` tells whether the text was longer than the limit.
    """

    tokens: list
    surprisal: np.ndarray
    activity: np.ndarray
    cut: bool


def window_of(text, tokenizer, *, bos="auto", max_tokens=512):
    """Turn a text into one window of at most ``max_tokens`` tokens, their spelling, and whether the text was cut.

    A text of fewer than two tokens raises :class:`CorpusError`. ``bos`` as in :func:`llmbrain.text.leading_tokens`.
    """
    if not isinstance(text, str):
        raise ParameterError(f"The text must be a string; got {type(text).__name__}.")
    if not text.strip():
        raise CorpusError("The text is empty. Type or paste at least two words.")
    encoder = Encoder(tokenizer, bos)
    limit = max_tokens + len(encoder.head)
    document = encoder.document(Document(text, "text"), limit + 1)
    (window,) = cut_windows(document, len(document.ids) + 1)
    cut = int(window.kept.sum()) > max_tokens
    window = window.first(limit)
    return window, [document.tokens[i] for i in window.kept_positions], cut


def read_text(model, sites, window, tokens, cut=False):
    """Run a model once over a window from :func:`window_of`; ``sites`` are in the order of the geometry's layers.

    A surprisal that is not finite is an error that names the first module that returned such a value.
    """
    batch, parts = pad([window]), [None] * len(sites)

    def keep(i, rows):
        parts[i] = rows.float().cpu().numpy()

    with evaluating(model):
        surprisal = run_batch(model, sites, batch, [window.places], keep).float().cpu().numpy()
    if not np.isfinite(surprisal[window.places > 0]).all():  # nothing predicts a first token
        inputs = batch.inputs(input_device(model))
        raise not_finite_error(model, partial(model, **inputs, use_cache=False), "The surprisals")
    return Reading(tokens, surprisal, np.concatenate(parts, axis=1), cut)
