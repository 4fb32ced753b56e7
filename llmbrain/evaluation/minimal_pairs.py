"""Minimal pairs: two sentences that differ in one respect, only one of them acceptable."""

import numpy as np

from ..arguments import checked, count, optional
from ..exceptions import ParameterError
from ..text import Corpus, Document, MinimalPair, describe_bos, load_minimal_pairs, text_windows
from .losses import window_losses


@checked(n_pairs=optional(count), max_batch_tokens=optional(count))
def minimal_pairs(model, tokenizer, pairs="all", *, n_pairs=None, max_batch_tokens=4096, bos="auto"):
    """Measure how often a model finds the acceptable sentence of a pair more likely.

    The log likelihood of a sentence is the sum over its tokens.

    Parameters
    ----------
    model : transformers causal language model
    tokenizer : transformers tokenizer
    pairs : str, path or list of MinimalPair or (good, bad)
        Pairs of sentences, or an argument of :func:`llmbrain.text.load_minimal_pairs`.
    n_pairs : int, optional
        Keep the first ``n_pairs`` pairs of each phenomenon.
    max_batch_tokens : int
        Maximum number of tokens in a batch.
    bos : {"auto", True, False}
        Special tokens before every sentence, see :func:`llmbrain.text.leading_tokens`.

    Returns
    -------
    pandas.DataFrame
        One row per pair: ``uid, pair_id, good, bad`` (log likelihoods in nats), ``margin``, ``correct`` (0.5 for a tie)
        and ``bos`` (the leading special tokens, or "none"). ``frame.groupby("uid").correct.mean()`` gives the accuracy
        of each phenomenon.

    References
    ----------
    Warstadt et al. (2020), BLiMP: The benchmark of linguistic minimal pairs for English, TACL 8.
    """
    import pandas as pd

    pairs = as_pairs(pairs, n_pairs)
    losses = window_losses(model, pair_windows(pairs, tokenizer, bos), max_batch_tokens=max_batch_tokens)
    nats = np.array([part.sum(dtype=np.float64) for part in losses])
    margin = nats[1::2] - nats[0::2]
    return pd.DataFrame(
        {
            "uid": [p.uid for p in pairs],
            "pair_id": [p.pair_id for p in pairs],
            "good": -nats[0::2],
            "bad": -nats[1::2],
            "margin": margin,
            "correct": (1.0 + np.sign(margin)) / 2,
            "bos": describe_bos(tokenizer, bos),
        }
    )


@checked(n_pairs=optional(count))
def as_pairs(pairs, n_pairs=None):
    """Load pairs by name or path, or check a list; keep the first ``n_pairs`` of each phenomenon."""
    if isinstance(pairs, (list, tuple)):
        pairs = [_as_pair(pair, i) for i, pair in enumerate(pairs, 1)]
        if not pairs:
            raise ParameterError("pairs is empty; pass at least one (good, bad) pair of sentences.")
    else:
        pairs = load_minimal_pairs(pairs)
    if n_pairs is None:
        return list(pairs)
    seen, kept = {}, []
    for pair in pairs:
        seen[pair.uid] = seen.get(pair.uid, 0) + 1
        if seen[pair.uid] <= n_pairs:
            kept.append(pair)
    return kept


def _as_pair(pair, number):
    """Return a MinimalPair, also for ``(good, bad)``."""
    if isinstance(pair, MinimalPair):
        return pair
    two = isinstance(pair, (list, tuple)) and len(pair) == 2 and all(isinstance(s, str) and s.strip() for s in pair)
    if not two or pair[0] == pair[1]:
        raise ParameterError(
            f"Pair {number} must be two different sentences, (good, bad), or a MinimalPair; got {pair!r}."
        )
    return MinimalPair(*pair, "pairs", str(number))


def pair_windows(pairs, tokenizer, bos="auto"):
    """Windows to score: the good and the bad sentence of each pair in turn."""
    sentences = [text for pair in pairs for text in (pair.good, pair.bad)]
    corpus = Corpus([Document(text, id=f"{i}") for i, text in enumerate(sentences)], name="pairs")
    longest = max(map(len, sentences)) * 4 + 8  # more tokens than bytes: every sentence is one window
    return text_windows(corpus, tokenizer, longest, bos=bos)[0]
