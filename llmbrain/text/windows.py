"""Windows of token ids, the form in which models read text, and padded batches of windows.

- Every window begins with the leading special tokens of its document (BOS; the policy is `leading_tokens`), because
  models put their attention sink there. They are read, but neither scored nor recorded.
- A document longer than the context is cut into windows. By default they do not overlap. With a warm-up, each window
  but the first also reads tokens of the window before, so that no token is recorded with less context than that.
- Budgets count the tokens that a model reads, leading special tokens included: 64 windows of 1,024 tokens are 65,536
  tokens. Tokenizing stops when the budget is met.
- Batches are padded on the right. The position of a token is then its place in its row, as every causal model
  assumes, and a window gets the same result in a batch as alone.
"""

from dataclasses import dataclass, replace

import numpy as np

from ..exceptions import CorpusError, check_count
from .tokens import Reader

# A batch ends where more padding than both would be read: a pass of a few tokens costs about as much as 256 more.
PADDING_TOKENS, PADDING_SHARE = 256, 0.2


@dataclass(frozen=True, eq=False)
class Window:
    """Tokens that a model reads in one piece.

    Parameters
    ----------
    ids : int array of shape (n_tokens,)
        Token ids, leading special tokens and warm-up included.
    kept : bool array of shape (n_tokens,)
        True for the tokens that are recorded or scored; False for special tokens, warm-up and prompts.
    document, number : int
        Number of the document, and of the window in it.
    positions : int array of shape (n_tokens,), optional
        Position of each token in its document.
    """

    ids: np.ndarray
    kept: np.ndarray
    document: int = 0
    number: int = 0
    positions: np.ndarray = None

    def __post_init__(self):
        object.__setattr__(self, "ids", np.asarray(self.ids, dtype=np.int64))
        object.__setattr__(self, "kept", np.asarray(self.kept, dtype=bool))
        if self.positions is None:
            object.__setattr__(self, "positions", np.arange(len(self.ids)))

    def __len__(self):
        """Number of tokens that are read."""
        return len(self.ids)

    @property
    def places(self):
        """Indices of the kept tokens in the window."""
        return np.flatnonzero(self.kept)

    @property
    def kept_positions(self):
        """Positions of the kept tokens in their document."""
        return self.positions[self.kept]

    @property
    def scored(self):
        """Bool array, True for kept tokens that have a loss: nothing predicts the first token of a window."""
        scored = self.kept.copy()
        scored[:1] = False
        return scored

    @property
    def n_scored(self):
        """Number of tokens that have a loss."""
        return int(np.count_nonzero(self.kept[1:]))

    def first(self, n):
        """The window cut to its first ``n`` tokens."""
        if n >= len(self):
            return self
        return replace(self, ids=self.ids[:n], kept=self.kept[:n], positions=self.positions[:n])


def text_windows(texts, tokenizer, context=1024, *, bos="auto", max_tokens=None, per_document=None):
    """Cut texts into windows that do not overlap.

    Parameters
    ----------
    texts : Corpus, list of str, source, or list of Window
        Whatever `as_corpus` takes. Windows are passed through, up to ``max_tokens``.
    tokenizer : transformers tokenizer
    context : int
        Maximum number of tokens in a window, leading special tokens included.
    bos : {"auto", True, False}
        See `leading_tokens`.
    max_tokens : int, optional
        Stop after ``max_tokens`` tokens; the last window is cut to fit.
    per_document : int, optional
        Read only the first ``per_document`` tokens of each document.

    Returns
    -------
    windows : list of Window
        In the order of the text. Each has at least one token to score.
    documents : list of TokenizedDocument
        The documents that were reached; empty if windows were given.

    Raises
    ------
    ParameterError
        If ``context`` or a limit leaves too little room for text.
    CorpusError
        If a document has fewer than two tokens.
    """
    if isinstance(texts, (list, tuple)) and texts and isinstance(texts[0], Window):
        return _within(texts, max_tokens), []
    reader = Reader(texts, tokenizer, bos)
    n_head = len(reader.encoder.head)
    check_count("context", context, n_head + 2 - bool(n_head))
    check_count("max_tokens", max_tokens, n_head + 2, optional=True)
    windows, documents, left = [], [], max_tokens
    for number in range(len(reader)):
        limits = [limit for limit in (per_document, left) if limit is not None]
        documents.append(reader.read(number, min(limits) if limits else None, left)[0])
        new = cut_windows(documents[-1], context, number=number)
        windows += _within(new, left)
        if left is not None:
            left = max_tokens - sum(map(len, windows))
            if left < n_head + 2:
                break
    if not windows:
        raise CorpusError("There is no text of at least two tokens.")
    return windows, documents


def cut_windows(document, context, *, warmup=None, kept=None, longest=None, number=0):
    """Cut one document into windows.

    Parameters
    ----------
    document : TokenizedDocument
    context : int
        Maximum number of tokens in a window.
    warmup : int, optional
        Least number of tokens before a kept one, unless the document begins there. Windows then overlap, and each reads
        as much context as fits. By default windows do not overlap.
    kept : bool array of shape (n_tokens,), optional
        Which tokens are recorded or scored; all but special tokens by default.
    longest : int, optional
        Most tokens that one window adds to those before it.
    number : int
        Number of the document.

    Returns
    -------
    list of Window
        Every kept token is kept in exactly one window, in order. Windows that keep no token and the tokens after the
        last kept one are left out.
    """
    kept = ~np.asarray(document.is_special) if kept is None else np.asarray(kept)
    if not kept.any():
        return []
    n_head = document.n_head
    n_tokens = int(np.flatnonzero(kept)[-1]) + 1  # a causal model need not read what comes after
    windows = []
    for i, (start, first, stop) in enumerate(_spans(n_tokens, context, warmup, n_head, longest)):
        head = n_head if start else 0
        positions = np.concatenate([np.arange(head), np.arange(start, stop)])
        own = kept[positions]
        own[: head + first - start] = False
        window = Window(document.ids[positions], own, number, i, positions)
        if own.any() and (warmup is not None or window.n_scored):
            windows.append(window)
    return windows


def _spans(n_tokens, context, warmup, n_head, longest):
    """``(start, first, stop)`` of each window: it reads ``start`` to ``stop`` and keeps tokens from ``first`` on."""
    longest = longest or context
    room = context - n_head  # for text in every window but the first
    first = 0
    while first < n_tokens:
        if first == 0:
            stop = min(n_tokens, context, longest)
        else:
            stop = min(n_tokens, first + min(room - (warmup or 0), longest))
        if warmup is None:
            start = first
        else:
            start = 0 if stop <= context else stop - room
        yield start, first, stop
        first = stop


def _within(windows, max_tokens):
    """The first ``max_tokens`` tokens of some windows; a remainder without a scored token is left out."""
    if max_tokens is None:
        return list(windows)
    found, left = [], max_tokens
    for window in windows:
        window = window.first(left)
        if not window.n_scored:
            break
        found.append(window)
        left -= len(window)
    return found


@dataclass(frozen=True, eq=False)
class Batch:
    """Windows, padded on the right to one length.

    Parameters
    ----------
    ids : int64 tensor of shape (n_windows, n_longest)
    mask : bool tensor of shape (n_windows, n_longest)
        False at padding.
    windows : list of Window
    indices : int array
        Which windows these are, in the list given to `batches`.
    """

    ids: object
    mask: object
    windows: list
    indices: np.ndarray

    def __len__(self):
        """Number of windows."""
        return len(self.windows)

    @property
    def n_tokens(self):
        """Number of tokens without padding."""
        return sum(map(len, self.windows))

    @property
    def attention_mask(self):
        """Int64 tensor for a model, or None if there is no padding, because attention is faster without a mask."""
        return None if self.n_tokens == self.ids.numel() else self.mask.long()

    def to_device(self, device):
        """``ids`` and ``attention_mask`` on a device."""
        mask = self.attention_mask
        return self.ids.to(device), None if mask is None else mask.to(device)

    def inputs(self, device="cpu"):
        """Keyword arguments for a model, on its device."""
        ids, mask = self.to_device(device)
        return {"input_ids": ids} if mask is None else {"input_ids": ids, "attention_mask": mask}

    def rows(self, name):
        """A field of the windows (``"kept"`` or ``"scored"``) as a bool tensor of the shape of ``ids``."""
        return token_mask(self.windows, name, self.ids.shape)


def token_mask(windows, name, shape):
    """A bool field of some windows, padded to a tensor of shape (n_windows, n_longest)."""
    import torch

    chosen = torch.zeros(shape, dtype=torch.bool)
    for row, window in zip(chosen, windows):
        row[: len(window)] = torch.from_numpy(getattr(window, name))
    return chosen


def pad(windows, pad_id=0, indices=None):
    """Pad windows to one batch.

    Parameters
    ----------
    windows : list of Window
    pad_id : int
        Fills the padding, see `padding_id`. Padding is masked, so any id of the vocabulary will do.
    indices : int array, optional
        Numbers of the windows; counted from 0 by default.

    Returns
    -------
    Batch

    Examples
    --------
    >>> batch = pad([Window([5, 6, 7], [0, 1, 1]), Window([8, 9], [0, 1])])
    >>> batch.ids.tolist(), batch.mask.tolist()
    ([[5, 6, 7], [8, 9, 0]], [[True, True, True], [True, True, False]])
    """
    import torch

    windows = list(windows)
    lengths = np.array([len(window) for window in windows])
    mask = np.arange(lengths.max()) < lengths[:, None]
    ids = np.full(mask.shape, pad_id, dtype=np.int64)
    ids[mask] = np.concatenate([window.ids for window in windows])
    indices = np.arange(len(windows)) if indices is None else np.asarray(indices)
    return Batch(torch.from_numpy(ids), torch.from_numpy(mask), windows, indices)


def batches(windows, *, max_rows=None, max_tokens=None, pad_id=0):
    """Yield windows in padded batches, those of similar length together and the longest first.

    Parameters
    ----------
    windows : list of Window
    max_rows, max_tokens : int, optional
        See `group_windows`.
    pad_id : int
        See `pad`.

    Yields
    ------
    Batch
        ``batch.indices`` holds the numbers of its windows.
    """
    for indices in group_windows(windows, max_rows=max_rows, max_tokens=max_tokens):
        yield pad([windows[i] for i in indices], pad_id, indices)


def group_windows(windows, *, max_rows=None, max_tokens=None):
    """Group windows of similar length, the longest first: if memory is short, the first batch shows it.

    A group ends where padding would be more than 256 tokens and more than a fifth of it.

    Parameters
    ----------
    windows : sequence
        Only their lengths matter.
    max_rows : int, optional
        Most windows of a group.
    max_tokens : int, optional
        Maximum number of tokens in a group, padding included. A longer window is a group of its own.

    Returns
    -------
    list of int array
        Numbers of the windows in each group. Every window is in one group.
    """
    for name, value in (("max_rows", max_rows), ("max_tokens", max_tokens)):
        check_count(name, value, optional=True)
    lengths = np.array([len(window) for window in windows], dtype=int)
    order = np.argsort(-lengths, kind="stable")
    groups, start = [], 0
    while start < len(order):
        rows = len(order) if max_tokens is None else max(1, max_tokens // int(lengths[order[start]]))
        stop = start + min(rows, max_rows or rows)
        stop = start + _without_waste(lengths[order[start:stop]])
        groups.append(order[start:stop])
        start = stop
    return groups


def _without_waste(lengths):
    """Number of windows, from the longest, that can be padded to its length with little waste."""
    sizes = lengths[0] * np.arange(1, len(lengths) + 1)
    padding = sizes - np.cumsum(lengths)
    return int((padding <= np.maximum(PADDING_TOKENS, PADDING_SHARE * sizes)).sum())  # padding only grows


def padding_id(tokenizer):
    """Choose the id that fills padding: the tokenizer's own, else EOS, else 0.

    Parameters
    ----------
    tokenizer : transformers tokenizer
        Its ``pad_token_id`` may be 0, None, or equal to EOS.

    Returns
    -------
    int
    """
    known = (getattr(tokenizer, name, None) for name in ("pad_token_id", "eos_token_id"))
    return int(next((value for value in known if value is not None), 0))
