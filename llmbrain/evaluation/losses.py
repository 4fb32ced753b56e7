"""Losses of single tokens, ``-log p(token | tokens before it in its window)`` in nats.

Every task computes its losses here. The logits of a large vocabulary are never held for a whole batch: the model
returns its last hidden states, and the head and a float32 softmax run over them in pieces.
"""

from functools import partial

import numpy as np

from ..arguments import checked, count, optional
from ..exceptions import ParameterError
from ..models.finite import not_finite_error
from ..models.hooks import evaluating
from ..models.inputs import check_readable, input_device, longest_context
from ..text import batches, text_windows
from ..text.windows import token_mask
from .reader import LogitReader

# On a CPU with a linear head, logits of this many tokens for this many words are held at a time (8 MiB): the product
# with all words at once takes up to 1.7 times as long, because it copies the whole head for a few tokens.
ROWS_AT_ONCE, WORDS_AT_ONCE = 2048, 1024
# float32 logits held at a time otherwise: few enough for the caches of a CPU (24 MiB), enough to fill a GPU (1 GiB)
LOGITS_AT_ONCE = {"cpu": 6 * 2**20}
LOGITS_AT_ONCE_ELSEWHERE = 2**28


@checked(batch_size=count, per_document=optional(count))
def token_losses(model, tokenizer, text, *, context=1024, batch_size=8, per_document=None, bos="auto"):
    """Loss of every token of every document.

    Parameters
    ----------
    model : transformers causal language model
    tokenizer : transformers tokenizer
    text : Corpus, list of str, or a source that ``load_corpus`` takes
    context : int
        Documents are cut into windows of ``context`` tokens that do not overlap.
    batch_size : int
        Windows of full length in a batch.
    per_document : int, optional
        Read only the first ``per_document`` tokens of each document.
    bos : {"auto", True, False}
        Special tokens at the head of every window, see :func:`llmbrain.text.leading_tokens`.

    Returns
    -------
    list of float32 arrays
        Nats of the tokens of each document, in order. Special tokens are not scored, and neither is the first token of
        a window without BOS, because nothing predicts it.

    Examples
    --------
    >>> losses = token_losses(model, tokenizer, ["A short text."])  # doctest: +SKIP
    >>> np.concatenate(losses).mean()                               # nats per token  # doctest: +SKIP
    """
    windows, documents = text_windows(text, tokenizer, context, bos=bos, per_document=per_document)
    losses = window_losses(model, windows, max_batch_tokens=batch_size * max(map(len, windows)))
    found = [[np.zeros(0, np.float32)] for _ in documents]
    for window, part in zip(windows, losses):
        found[window.document].append(part)
    return [np.concatenate(parts) for parts in found]


def window_losses(model, windows, *, max_batch_tokens=4096, progress=None):
    """Score windows with a model, in batches of similar length.

    Parameters
    ----------
    model : transformers causal language model
    windows : list of llmbrain.text.Window
    max_batch_tokens : int
        Maximum number of tokens in a batch, padding included. A longer window is a batch of its own.
    progress : callable, optional
        Called with the number of tokens done after each batch.

    Returns
    -------
    list of float32 arrays of shape (n_scored,)
        Nats of the scored tokens of each window.

    Raises
    ------
    NumericalError
        If a loss is not finite. It names the first module that returned such a value.
    """
    import torch

    check_length(model, windows)
    check_readable(model, (window.ids for window in windows))
    losses = [None] * len(windows)
    reader, device = LogitReader(model), input_device(model)
    for batch in batches(windows, max_tokens=max_batch_tokens):
        with torch.no_grad(), evaluating(model):
            inputs = batch.inputs(device)
            hidden = reader.read(**inputs)
            parts = batch_losses(hidden, reader, inputs["input_ids"], batch.windows)
        if not all(np.isfinite(part).all() for part in parts):
            raise not_finite_error(model, partial(model, **inputs, use_cache=False), "The losses")
        for i, part in zip(batch.indices, parts):
            losses[i] = part
        if progress is not None:
            progress(batch.n_tokens)
    return losses


def batch_losses(hidden, reader, ids, windows):
    """Losses of the scored tokens of a padded batch, one float32 array of shape (n_scored,) per window.

    ``reader`` is the :class:`LogitReader` that has read ``hidden``, shape (n_windows, n_longest, ...).
    """
    flat = scored_losses(hidden, reader, ids, token_mask(windows, "scored", ids.shape))
    return np.split(flat, np.cumsum([window.n_scored for window in windows])[:-1])


def scored_losses(hidden, reader, ids, scored):
    """Losses of the tokens of a batch where the bool tensor ``scored`` is True, row after row, as a float32 array."""
    targets = ids[scored.to(ids.device)]
    before = scored[:, 1:].to(hidden.device)
    return hidden_losses(hidden[:, :-1][before], reader, targets).numpy()


def hidden_losses(hidden, reader, targets):
    """Nats of target tokens, shape (n,), from the states before them, shape (n, ...), without holding all logits.

    ``reader`` is the :class:`LogitReader` that has read ``hidden``. The result is on the CPU.
    """
    import torch

    if reader.n_words is not None:
        losses = torch.empty(len(targets), dtype=torch.float32)
        for start in range(0, len(targets), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            losses[rows] = _losses_by_words(hidden[rows], reader, targets[rows])
        return losses
    parts, start, step = [], 0, 64
    while start < len(targets):
        logits = reader.score(hidden[start : start + step]).float()
        target = targets[start : start + step].to(logits.device)
        parts.append(torch.nn.functional.cross_entropy(logits, target, reduction="none"))
        limit = LOGITS_AT_ONCE.get(logits.device.type, LOGITS_AT_ONCE_ELSEWHERE)
        start, step = start + step, max(1, limit // logits.shape[-1])
    return torch.cat(parts).cpu() if parts else torch.empty(0)  # copied once, or the device would wait each time


def _losses_by_words(hidden, reader, targets):
    """Nats of target tokens from some words after the other: products of many rows with few words are the fastest."""
    import torch

    sums, own = [], torch.empty(len(targets), dtype=torch.float32)
    for first in range(0, reader.n_words, WORDS_AT_ONCE):
        last = min(first + WORDS_AT_ONCE, reader.n_words)
        logits = reader.score_words(hidden, first, last).float()
        sums.append(logits.logsumexp(-1))
        here = ((targets >= first) & (targets < last)).nonzero()[:, 0]
        own[here] = logits[here, targets[here] - first]
    return torch.stack(sums).logsumexp(0) - own


def check_length(model, windows):
    """Raise a ParameterError if there is no window, or a window is longer than the model can read."""
    if not windows:
        raise ParameterError("There is no window to score.")
    limit, longest = longest_context(model), max(len(window) for window in windows)
    if limit and longest > limit:
        raise ParameterError(
            f"A window has {longest} tokens, but the model reads at most {limit}. Use context={limit} (--context), or "
            "shorter texts where each is read as a whole."
        )
