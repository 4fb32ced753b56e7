"""Minimal pairs: two sentences that differ in one respect, of which a speaker accepts one."""

import numpy as np

from ..exceptions import ParameterError
from .losses import ScoredSequence, sequence_losses

__all__ = ["as_pairs", "minimal_pairs", "pair_sequences"]


def minimal_pairs(model, tokenizer, pairs="all", *, n_pairs=None, max_batch_tokens=4096):
    """Ask a model which sentence of each pair is more likely.

    The likelihood of a sentence is the sum over its tokens, after BOS if the tokenizer has one.

    Parameters
    ----------
    model : transformers causal language model
    tokenizer : transformers tokenizer
    pairs : str, path or list of MinimalPair
        What :func:`llmbrain.text.load_minimal_pairs` takes.
    n_pairs : int, optional
        The first so many of each phenomenon.
    max_batch_tokens : int
        Most tokens of a batch.

    Returns
    -------
    pandas.DataFrame
        A row a pair: ``uid, pair_id, good, bad`` (log likelihoods in nats), ``margin`` and ``correct`` (0.5 for a tie).
        ``frame.groupby("uid").correct.mean()`` is the accuracy by phenomenon.

    References
    ----------
    Warstadt et al. (2020), BLiMP: The benchmark of linguistic minimal pairs for English, TACL 8.
    """
    import pandas as pd

    pairs = as_pairs(pairs, n_pairs)
    losses = sequence_losses(model, pair_sequences(pairs, tokenizer), max_batch_tokens=max_batch_tokens)
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
        }
    )


def as_pairs(pairs, n_pairs=None):
    """Load pairs from a name or path, or take them as they are.

    Parameters
    ----------
    pairs : str, path or list of MinimalPair
    n_pairs : int, optional
        Keep the first so many of each phenomenon.

    Returns
    -------
    list of MinimalPair
    """
    from ..text import load_minimal_pairs

    if isinstance(pairs, (list, tuple)):
        if not pairs or not all(hasattr(p, "good") and hasattr(p, "bad") for p in pairs):
            raise ParameterError("pairs is a list of MinimalPair, a name or a path; the list is empty or holds others.")
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


def pair_sequences(pairs, tokenizer):
    """Turn the good and the bad sentence of every pair, in turn, into sequences to score.

    Parameters
    ----------
    pairs : list of MinimalPair
    tokenizer : transformers tokenizer

    Returns
    -------
    list of ScoredSequence
        Twice as many as pairs.
    """
    from ..text import Corpus, Document, encode

    texts = [text for pair in pairs for text in (pair.good, pair.bad)]
    documents = Corpus([Document(text, id=f"{i}") for i, text in enumerate(texts)], name="pairs")
    return [ScoredSequence(d.ids, ~d.is_special) for d in encode(documents, tokenizer)]
