"""Losses of single tokens: the one place where a model's logits become nats.

A sequence is read in one piece; every counted token has the loss ``-log p(token | tokens before it)`` in nats. The
logits of a large vocabulary are never held for a whole batch: the model returns its last hidden states, and head and
softmax (in float32) run over them piece by piece.
"""

import contextlib
from dataclasses import dataclass

import numpy as np

from ..exceptions import ParameterError

__all__ = [
    "LogitReader",
    "ScoredSequence",
    "corpus_sequences",
    "hidden_losses",
    "input_device",
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
    from ..corpus import as_corpus, encode

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


class LogitReader:
    """Runs a model up to what its head reads, and knows how the head and what follows make logits of that.

    Whether head and hidden states give the model's own logits is checked on the first pass, at the last token of every
    row. Where they do not (an unknown rescaling behind the head), the full logits of the model are taken from then on.

    Parameters
    ----------
    model : transformers causal language model
    """

    def __init__(self, model):
        import inspect

        self.model, self.head = model, model.get_output_embeddings()
        known = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._finish = None if known and self.head is not None else _full
        # some classes call the decoder inside their base model directly
        self._bodies = {getattr(model, "base_model", model), model.get_decoder()} - {model, None}

    def read(self, ids, attention_mask=None):
        """Run the model.

        Parameters
        ----------
        ids : int64 tensor of shape (batch, n_tokens)
        attention_mask : tensor of the same shape, optional

        Returns
        -------
        tensor of shape (rows, n_tokens, hidden_size)
            What :meth:`score` takes, on the rows that came out (hooks may have added some).
        """
        import torch

        inputs = {"input_ids": ids, "attention_mask": attention_mask, "use_cache": False}
        if self._finish is None:
            hidden, last = self._run(inputs, 1)
            self._finish = self._find(hidden, last[:, -1])
        elif self._finish is not _full:
            # no logits at all: they are computed piece by piece, and only where a token is scored
            hidden, _ = self._run(inputs, torch.zeros(0, dtype=torch.long, device=ids.device))
        return self.model(**inputs).logits if self._finish is _full else hidden

    def score(self, hidden):
        """Logits of some hidden states, ``(..., vocabulary)``."""
        return hidden if self._finish is _full else self._finish(self.head(hidden))

    def _run(self, inputs, keep):
        caught = []
        with contextlib.ExitStack() as stack:
            for body in self._bodies:
                handle = body.register_forward_hook(lambda module, args, output: caught.append(output[0]))
                stack.callback(handle.remove)
            logits = self.model(**inputs, logits_to_keep=keep).logits
        return (caught[-1] if caught else None), logits

    def _find(self, hidden, expected):
        if hidden is None:
            return _full
        made = self.head(hidden[:, -1])
        candidates = _finishers(self.model.config.get_text_config())
        return next((finish for finish in candidates if _same(finish(made), expected)), _full)


def _finishers(config):
    """What models are known to do with the output of the head."""
    yield _as_it_is
    cap = getattr(config, "final_logit_softcapping", None)
    if cap:
        yield lambda x: cap * (x / cap).tanh()
    for name, sign in (("logit_scale", 1), ("logits_scaling", -1)):
        scale = getattr(config, name, None)
        if scale:
            yield lambda x, factor=float(scale) ** sign: x * factor


def _same(logits, expected):
    import torch

    # half-precision products of another shape differ in the last of 8 or 11 bits
    tolerance = 1e-4 if expected.dtype == torch.float32 else 2e-2
    logits, expected = logits.float(), expected.float().to(logits.device)
    scale = float(expected.abs().nan_to_num().max()) or 1.0
    return torch.allclose(logits, expected, rtol=0.0, atol=tolerance * scale, equal_nan=True)


def _as_it_is(logits):
    return logits


def _full(logits):
    return logits


def input_device(model):
    """Find where a model wants its token ids, also when it is spread over devices.

    Parameters
    ----------
    model : transformers causal language model

    Returns
    -------
    torch.device
    """
    weight = model.get_input_embeddings().weight
    return model.device if weight.device.type == "meta" else weight.device


def _check_length(model, sequences):
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
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
