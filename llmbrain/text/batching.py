"""Right-padded batches of tokenized documents, and the way back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..exceptions import ParameterError
from .tokens import TokenizedDocument


@dataclass(frozen=True, eq=False)
class Batch:
    """Some documents, padded on the right to one length.

    Parameters
    ----------
    input_ids, attention_mask, position_ids : Tensor of int64, shape (n_documents, n_longest)
        What a model takes. The mask is 1 at tokens and 0 at padding; the position is its running sum minus 1.
    indices : tuple of int
        Which documents these are: positions in the list given to `batches`.
    lengths : tuple of int
        Tokens of each document, without padding.
    """

    input_ids: object
    attention_mask: object
    position_ids: object
    indices: tuple[int, ...]
    lengths: tuple[int, ...]

    def __len__(self) -> int:
        """Count the documents."""
        return len(self.indices)

    @property
    def inputs(self) -> dict:
        """The three tensors by name, for ``model(**batch.inputs)``."""
        return {
            "input_ids": self.input_ids,
            "attention_mask": self.attention_mask,
            "position_ids": self.position_ids,
        }

    def to(self, device) -> Batch:
        """Move the tensors to a device.

        Parameters
        ----------
        device : str or torch.device
            Where to.

        Returns
        -------
        batch : Batch
            The same batch on that device.
        """
        return replace(self, **{name: tensor.to(device) for name, tensor in self.inputs.items()})

    def unpad(self, values) -> list:
        """Cut what a model returned back into documents.

        Parameters
        ----------
        values : Tensor or ndarray, shape (n_documents, n_longest, ...)
            Anything with a row a document and a column a token; flattened ``(n_documents * n_longest, ...)`` too.

        Returns
        -------
        parts : list
            One array of shape ``(length_i, ...)`` for each document, views where the library allows it.

        Raises
        ------
        ParameterError
            If the leading axes do not fit.
        """
        n_rows, n_longest = self.input_ids.shape
        if tuple(values.shape[:2]) != (n_rows, n_longest):
            if values.shape[0] != n_rows * n_longest:
                raise ParameterError(
                    f"values of shape {tuple(values.shape)} do not fit a batch of {n_rows} documents and "
                    f"{n_longest} tokens."
                )
            values = values.reshape(n_rows, n_longest, *values.shape[1:])
        return [values[row, :length] for row, length in enumerate(self.lengths)]


def batches(
    tokenized: Sequence[TokenizedDocument], batch_size=None, *, max_batch_tokens=None, pad_token_id=0, bucket=False
) -> Iterator[Batch]:
    """Group tokenized documents into right-padded batches.

    Right padding with an attention mask and explicit positions gives, for causal models, what each document alone
    would give; left padding does not for models with learned positions.

    Parameters
    ----------
    tokenized : sequence of TokenizedDocument
        As `encode` returns it.
    batch_size : int, optional
        Most documents in a batch; 8 if neither limit is given.
    max_batch_tokens : int, optional
        Most places in a batch, padding included.
    pad_token_id : int or None, default=0
        What fills the padding. It is masked, so any id of the vocabulary will do; None means 0. See `padding_id`.
    bucket : bool, default=False
        Group documents of like length, which pads less. The documents then come in another order, the longest first
        (so that memory runs out at once if it does): follow ``batch.indices``. Otherwise the order is kept.

    Returns
    -------
    batches : iterator of Batch
        Together they hold every document exactly once; each is made when it is asked for.

    Raises
    ------
    ParameterError
        If a limit is not a positive number, or a document alone exceeds ``max_batch_tokens``.

    Examples
    --------
    >>> import numpy as np
    >>> from llmbrain.text import TokenizedDocument, batches
    >>> def document(name, *ids):
    ...     return TokenizedDocument(np.array(ids), [str(i) for i in ids], np.zeros(len(ids), bool), name)
    >>> batch = next(batches([document("a", 5, 6, 7), document("b", 8, 9)], batch_size=2))
    >>> batch.input_ids.tolist(), batch.position_ids.tolist()
    ([[5, 6, 7], [8, 9, 0]], [[0, 1, 2], [0, 1, 1]])
    >>> [part.tolist() for part in batch.unpad(batch.input_ids)]
    [[5, 6, 7], [8, 9]]
    """
    for name, value in (("batch_size", batch_size), ("max_batch_tokens", max_batch_tokens)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1):
            raise ParameterError(f"{name}={value!r}: it must be a whole number of at least 1, or None.")
    if batch_size is None and max_batch_tokens is None:
        batch_size = 8
    lengths = [len(document) for document in tokenized]
    for document, length in zip(tokenized, lengths):
        if max_batch_tokens is not None and length > max_batch_tokens:
            raise ParameterError(
                f"Document {document.id!r} has {length} tokens, more than max_batch_tokens={max_batch_tokens}. "
                "Raise the limit, or cut the documents with encode(..., max_tokens=...)."
            )
    order = list(range(len(lengths)))
    if bucket:
        order.sort(key=lambda i: -lengths[i])
    filler = 0 if pad_token_id is None else int(pad_token_id)
    # The checks above run at the call; the generator proper only when it is consumed.
    return (_pad(tokenized, rows, filler) for rows in _rows(order, lengths, batch_size, max_batch_tokens))


def padding_id(tokenizer) -> int:
    """Choose the id that fills padding: the tokenizer's own, else EOS, else 0.

    Parameters
    ----------
    tokenizer : transformers tokenizer
        Its ``pad_token_id`` may be 0, None, or equal to EOS.

    Returns
    -------
    token_id : int
        An id inside the vocabulary; padded places are masked, so the choice changes no result.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> padding_id(SimpleNamespace(pad_token_id=0, eos_token_id=2))
    0
    >>> padding_id(SimpleNamespace(pad_token_id=None, eos_token_id=2))
    2
    """
    for name in ("pad_token_id", "eos_token_id"):
        value = getattr(tokenizer, name, None)
        if value is not None:
            return int(value)
    return 0


def _rows(order, lengths, batch_size, max_batch_tokens) -> Iterator[list[int]]:
    """Cut an order of documents into groups within both limits."""
    group: list[int] = []
    longest = 0
    for i in order:
        grown = max(longest, lengths[i])
        full = batch_size is not None and len(group) == batch_size
        heavy = max_batch_tokens is not None and grown * (len(group) + 1) > max_batch_tokens
        if group and (full or heavy):
            yield group
            group, grown = [], lengths[i]
        group.append(i)
        longest = grown
    if group:
        yield group


def _pad(tokenized, rows: list[int], filler: int) -> Batch:
    """Make one batch of the documents at some positions."""
    import torch

    lengths = tuple(len(tokenized[i]) for i in rows)
    ids = np.full((len(rows), max(lengths)), filler, dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, (i, length) in enumerate(zip(rows, lengths)):
        ids[row, :length] = tokenized[i].ids
        mask[row, :length] = 1
    positions = np.maximum(mask.cumsum(axis=1) - 1, 0)
    return Batch(torch.from_numpy(ids), torch.from_numpy(mask), torch.from_numpy(positions), tuple(rows), lengths)
