"""Perplexity per token, and its protocol."""

from collections.abc import Iterable

import numpy as np

from ..arguments import checked, count
from ..exceptions import CorpusError
from ..text import describe_bos, text_windows
from .losses import window_losses


def perplexity(model, tokenizer, text, context=1024, *, max_tokens=None, batch_size=4, bos="auto"):
    """Compute the perplexity of a text: ``exp`` of the mean loss in nats per token.

    Each text is cut into windows of ``context`` tokens that do not overlap, and each window begins with the leading
    special tokens of the model (BOS). All other tokens are scored with equal weight, except the first token of a window
    without BOS, which nothing predicts. Compare perplexities only for the same tokenizer, ``context`` and ``bos``.

    Parameters
    ----------
    model : transformers causal language model
    tokenizer : transformers tokenizer
    text : str, list of str or Corpus
        A string is a text here, not a path.
    context : int
        Tokens of a window, leading special tokens included.
    max_tokens : int, optional
        Read only the first ``max_tokens`` tokens of all texts together.
    batch_size : int
        Windows in a batch.
    bos : {"auto", True, False}
        Special tokens at the head of every window, see :func:`llmbrain.text.leading_tokens`.

    Returns
    -------
    float

    Raises
    ------
    ParameterError
        If ``context`` is below 2 or above what the model reads.
    CorpusError
        If a text has fewer than two tokens.

    References
    ----------
    The protocol of the pruning literature on WikiText-2 (Frantar & Alistarh 2023, SparseGPT), except that every window
    begins with BOS, and that the last, shorter window is also scored.

    Examples
    --------
    >>> perplexity(model, tokenizer, "To be, or not to be.")  # doctest: +SKIP
    """
    options = {"max_tokens": max_tokens, "batch_size": batch_size, "bos": bos}
    return perplexity_report(model, tokenizer, text, context, **options)["perplexity"]


@checked(batch_size=count)
def perplexity_report(model, tokenizer, text, context=1024, *, max_tokens=None, batch_size=4, bos="auto"):
    """Compute the perplexity of a text and describe how it was measured.

    Parameters
    ----------
    model, tokenizer, text, context, max_tokens, batch_size, bos
        As in :func:`perplexity`.

    Returns
    -------
    dict
        ``perplexity``, ``nats_per_token``, ``n_tokens`` (scored), ``n_windows``, ``context``, ``stride``, ``level``,
        ``bos`` (the leading special tokens of every window, or "none") and ``window_losses``, the mean nats of each
        window.
    """
    windows, _ = text_windows(_texts(text), tokenizer, context, bos=bos, max_tokens=max_tokens)
    losses = window_losses(model, windows, max_batch_tokens=batch_size * context)
    counts = np.array([len(part) for part in losses])
    means = np.array([part.mean(dtype=np.float64) for part in losses])
    nats = float((means * counts).sum() / counts.sum())
    return {
        "perplexity": float(np.exp(nats)),
        "nats_per_token": nats,
        "n_tokens": int(counts.sum()),
        "n_windows": len(windows),
        "context": int(context),
        "stride": int(context),
        "level": "token",
        "bos": describe_bos(tokenizer, bos),
        "window_losses": means,
    }


def _texts(text):
    """A list of texts without those that are only white space, such as the empty lines of a list of lines."""
    texts = [text] if isinstance(text, str) else getattr(text, "texts", text)
    texts = texts if isinstance(texts, Iterable) else []
    texts = [t for t in texts if not isinstance(t, str) or t.strip()]
    if not texts or not all(isinstance(t, str) for t in texts):
        raise CorpusError("Perplexity needs a string, a list of strings or a Corpus, with at least one text in it.")
    return texts
