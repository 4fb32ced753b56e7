"""Perplexity at the level of tokens, with its protocol stated."""

import numpy as np

from ..exceptions import CorpusError, ParameterError
from .losses import ScoredSequence, sequence_losses, token_losses

__all__ = ["perplexity", "perplexity_report", "token_losses"]


def perplexity(model, tokenizer, text, context=1024, *, max_tokens=None, batch_size=4):
    """Perplexity of a text: ``exp`` of the mean loss in nats per token.

    Each text is tokenised in one piece, as the tokenizer does it by itself (BOS once at its start if the tokenizer adds
    one, else none), and cut into windows of ``context`` tokens that do not overlap. Every token but the first of a
    window is scored, all with equal weight. Perplexities are comparable only for one tokenizer and one context.

    Parameters
    ----------
    model : transformers causal language model
    tokenizer : transformers tokenizer
    text : str, list of str or Corpus
        A string is a text here, never a path.
    context : int
        Tokens of a window.
    max_tokens : int, optional
        Score only the first so many tokens of all texts together.
    batch_size : int
        Windows in a batch.

    Returns
    -------
    float

    Raises
    ------
    ParameterError
        If ``context`` is below 2 or above what the model reads.
    CorpusError
        If there is no text of at least two tokens.

    References
    ----------
    The protocol of the pruning literature on WikiText-2 (Frantar & Alistarh 2023, SparseGPT), except that the last,
    shorter window is scored too.

    Examples
    --------
    >>> perplexity(model, tokenizer, "To be, or not to be.")  # doctest: +SKIP
    """
    return perplexity_report(model, tokenizer, text, context, max_tokens=max_tokens, batch_size=batch_size)[
        "perplexity"
    ]


def perplexity_report(model, tokenizer, text, context=1024, *, max_tokens=None, batch_size=4):
    """Perplexity with everything that is needed to compare it.

    Parameters
    ----------
    model, tokenizer, text, context, max_tokens, batch_size
        As in :func:`perplexity`.

    Returns
    -------
    dict
        ``perplexity``, ``nats_per_token``, ``n_tokens`` (scored), ``n_windows``, ``context``, ``stride``, ``level``,
        ``bos`` (whether the tokenizer put one), and ``window_losses``, the mean nats of each window.
    """
    if context < 2:
        raise ParameterError(f"context={context}: a window needs at least two tokens.")
    ids = _token_ids(tokenizer, text)
    if max_tokens is not None:
        starts = np.cumsum([0] + [len(i) for i in ids])
        ids = [i[: max(0, max_tokens - start)] for i, start in zip(ids, starts)]
    windows = [part[start : start + context] for part in ids for start in range(0, len(part), context)]
    sequences = [ScoredSequence(w, np.ones(len(w), bool)) for w in windows if len(w) > 1]
    if not sequences:
        raise CorpusError("There is no text of at least two tokens to take the perplexity of.")
    losses = sequence_losses(model, sequences, max_batch_tokens=batch_size * context)
    counts = np.array([len(part) for part in losses])
    means = np.array([part.mean(dtype=np.float64) for part in losses])
    nats = float((means * counts).sum() / counts.sum())
    bos = getattr(tokenizer, "bos_token_id", None)
    return {
        "perplexity": float(np.exp(nats)),
        "nats_per_token": nats,
        "n_tokens": int(counts.sum()),
        "n_windows": len(sequences),
        "context": int(context),
        "stride": int(context),
        "level": "token",
        "bos": bool(bos is not None and ids[0][0] == bos),
        "window_losses": means,
    }


def _token_ids(tokenizer, text):
    texts = [text] if isinstance(text, str) else list(getattr(text, "texts", text))
    if not texts or not all(isinstance(t, str) for t in texts):
        raise CorpusError("Perplexity needs a string, a list of strings or a Corpus.")
    return [np.asarray(tokenizer(t, verbose=False)["input_ids"], dtype=np.int64) for t in texts]
