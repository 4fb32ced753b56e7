"""Losses of single tokens: the one place where a model's logits become nats.

A sequence is read in one piece; every counted token has the loss ``-log p(token | tokens before it)`` in nats. The
logits of a large vocabulary are never held for a whole batch: the model returns its last hidden states, and head and
softmax (in float32) run over them piece by piece.
"""

from dataclasses import dataclass

import numpy as np

from ..exceptions import ParameterError
from ..models.inputs import input_device, longest_context
from .reader import LogitReader

__all__ = [
    "LogitReader",
    "ScoredSequence",
    "corpus_sequences",
    "hidden_losses",
    "sequence_batches",
    "sequence_losses",
    "token_losses",
]

# float32 logits held at a time: few enough for the caches of a CPU (24 MiB), enough to fill a GPU (1 GiB)
LOGITS_AT_ONCE = {"cpu": 6 * 2**20}
LOGITS_AT_ONCE_ELSEWHERE = 2**28


@dataclass(frozen=True, eq=False)
class ScoredSequence:
    """Token ids and which of them are scored.

    Parameters
    ----------
    ids : int array of shape (n_tokens,)
    counted : bool array of shape (n_tokens,)
        True for tokens whose loss counts; the first token has none.
    """

    ids: np.ndarray
    counted: np.ndarray

    def __post_init__(self):
        counted = np.asarray(self.counted, dtype=bool).copy()
        counted[:1] = False  # nothing predicts the first token
        object.__setattr__(self, "ids", np.asarray(self.ids, dtype=np.int64))
        object.__setattr__(self, "counted", counted)

    def __len__(self):
        return len(self.ids)

    @property
    def n_counted(self):
        """Number of tokens that are scored."""
        return int(self.counted.sum())


def corpus_sequences(corpus, tokenizer, *, context=1024, max_tokens=None):
    """Cut documents into sequences of at most ``context`` tokens that do not overlap.

    Parameters
    ----------
    corpus : Corpus or list of str
    tokenizer : transformers tokenizer
    context : int
        Most tokens a sequence. The first token of a later window is read but not scored.
    max_tokens : int, optional
        Read only so many tokens of each document.

    Returns
    -------
    sequences : list of ScoredSequence
        Special tokens are read, not scored.
    owners : int array of shape (n_sequences,)
        Position of the document each sequence belongs to.
    documents : list of TokenizedDocument
    """
    from ..text import as_corpus, encode

    if context < 2:
        raise ParameterError(f"context={context}: a window needs at least two tokens, one to predict the other.")
    documents = encode(as_corpus(corpus), tokenizer, max_tokens=max_tokens)
    sequences, owners = [], []
    for i, document in enumerate(documents):
        for start in range(0, len(document), context):
            window = slice(start, start + context)
            sequence = ScoredSequence(document.ids[window], ~document.is_special[window])
            if sequence.n_counted:  # a last window of a single token predicts nothing
                sequences.append(sequence)
                owners.append(i)
    return sequences, np.array(owners, dtype=int), documents


def sequence_batches(sequences, max_batch_tokens=4096):
    """Group sequences of similar length.

    Parameters
    ----------
    sequences : sequence of ScoredSequence
    max_batch_tokens : int
        Most tokens of a batch, padding included; a longer sequence is a batch of its own.

    Yields
    ------
    int array
        Positions of the sequences of a batch; the longest come first.
    """
    lengths = np.array([len(s) for s in sequences])
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        rows = max(1, max_batch_tokens // int(lengths[order[start]]))
        yield order[start : start + rows]
        start += rows


def pad(sequences, device):
    """Pad sequences on the right: ``(ids, attention_mask)``, tensors of shape ``(n_sequences, n_longest)``."""
    import torch

    longest = max(len(s) for s in sequences)
    ids = np.zeros((len(sequences), longest), dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = sequence.ids
        mask[row, : len(sequence)] = 1
    return torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)


def sequence_losses(model, sequences, *, max_batch_tokens=4096, progress=None):
    """Score sequences with a model, in batches of similar length.

    Parameters
    ----------
    model : transformers causal language model
    sequences : sequence of ScoredSequence
    max_batch_tokens : int
        Most tokens in a batch, padding included (a longer sequence is a batch of its own).
    progress : callable, optional
        Called with the number of tokens done after each batch.

    Returns
    -------
    list of float32 arrays of shape (n_counted,)
        Nats of the counted tokens of each sequence.
    """
    import torch

    _check_length(model, sequences)
    losses = [None] * len(sequences)
    reader, device = LogitReader(model), input_device(model)
    for rows in sequence_batches(sequences, max_batch_tokens):
        batch = [sequences[i] for i in rows]
        ids, mask = pad(batch, device)
        with torch.no_grad():
            hidden = reader.read(ids, mask if not bool(mask.all()) else None)
            for i, part in zip(rows, batch_losses(hidden, reader.score, ids, batch)):
                losses[i] = part
        if progress is not None:
            progress(int(mask.sum()))
    return losses


def batch_losses(hidden, score, ids, sequences):
    """Losses of the counted tokens of a padded batch, a list of float32 arrays."""
    import torch

    counted = torch.zeros(ids.shape, dtype=torch.bool)
    for row, sequence in enumerate(sequences):
        counted[row, : len(sequence)] = torch.from_numpy(sequence.counted)
    targets = ids[counted.to(ids.device)]
    before = counted[:, 1:].to(hidden.device)
    flat = hidden_losses(hidden[:, :-1][before], score, targets).numpy()
    return np.split(flat, np.cumsum([s.n_counted for s in sequences])[:-1])


def hidden_losses(hidden, score, targets):
    """Nats of target tokens from hidden states, without holding all logits at once.

    Parameters
    ----------
    hidden : tensor of shape (n, hidden_size) or (n, vocabulary)
        The states that predict the targets.
    score : callable
        Turns a piece of ``hidden`` into logits of shape ``(n_piece, vocabulary)``.
    targets : int64 tensor of shape (n,)

    Returns
    -------
    float32 tensor of shape (n,), on the CPU
    """
    import torch

    losses = torch.empty(len(targets), dtype=torch.float32)
    start, step = 0, 64
    while start < len(targets):
        logits = score(hidden[start : start + step]).float()
        target = targets[start : start + step].to(logits.device)
        stop = start + len(target)
        losses[start:stop] = torch.nn.functional.cross_entropy(logits, target, reduction="none")
        limit = LOGITS_AT_ONCE.get(logits.device.type, LOGITS_AT_ONCE_ELSEWHERE)
        start, step = stop, max(1, limit // logits.shape[-1])
    return losses


def _check_length(model, sequences):
    limit = longest_context(model)
    longest = max((len(s) for s in sequences), default=0)
    if not sequences:
        raise ParameterError("There is no sequence to score.")
    if limit and longest > limit:
        raise ParameterError(f"A sequence has {longest} tokens, the model reads at most {limit}; use context={limit}.")


def token_losses(model, tokenizer, corpus, *, context=1024, batch_size=8, max_tokens=None):
    """Loss of every token of every document.

    Parameters
    ----------
    model : transformers causal language model
    tokenizer : transformers tokenizer
    corpus : Corpus, list of str, or a source that ``load_corpus`` takes
    context : int
        Documents are cut into windows of so many tokens that do not overlap.
    batch_size : int
        Windows of full length in a batch.
    max_tokens : int, optional
        Read only so many tokens of each document.

    Returns
    -------
    list of float32 arrays
        For each document the nats of its tokens in order. The first token of a window and special tokens are read but
        not scored.

    Examples
    --------
    >>> losses = token_losses(model, tokenizer, ["A short text."])  # doctest: +SKIP
    >>> np.concatenate(losses).mean()                               # nats per token  # doctest: +SKIP
    """
    sequences, owners, documents = corpus_sequences(corpus, tokenizer, context=context, max_tokens=max_tokens)
    longest = max(len(s) for s in sequences)
    losses = sequence_losses(model, sequences, max_batch_tokens=batch_size * longest)
    return [
        np.concatenate([losses[i] for i in np.flatnonzero(owners == d)] or [np.zeros(0, np.float32)])
        for d in range(len(documents))
    ]
