"""Which token is fed when, and which run it is written to: bookkeeping without a model.

A document longer than the context is read in windows. Every window but the first begins with tokens that were
recorded already, the warm-up, so that no token is recorded with less than ``warmup`` tokens of context unless its
document has no more to give. Leading special tokens (BOS) are repeated at the head of every window, because models
put their attention sink there.
"""

from dataclasses import dataclass

import numpy as np

from ..exceptions import CorpusError, ParameterError
from ..geometry import NIFTI1_MAX

__all__ = ["Plan", "RunPlan", "Window", "plan_recording", "plan_windows"]


@dataclass(frozen=True)
class Window:
    """One forward pass of one document.

    Parameters
    ----------
    document : int
        Number of the document.
    number : int
        Number of the window in it.
    start, stop : int
        Which tokens are fed.
    first : int
        The first of them that is recorded.
    """

    document: int
    number: int
    start: int
    first: int
    stop: int


@dataclass(frozen=True, eq=False)
class Piece:
    """What the model is fed for a window, and where its tokens belong.

    Parameters
    ----------
    window : Window
    ids : ndarray of int64, shape (n_fed,)
        Token ids, the repeated special tokens at the head included.
    places : ndarray, shape (n_kept,)
        Which of the fed tokens are recorded.
    tokens : ndarray, shape (n_kept,)
        Their positions in the document.
    row : int
        Row of the first of them in the run.
    """

    window: Window
    ids: np.ndarray
    places: np.ndarray
    tokens: np.ndarray
    row: int

    def __len__(self):
        return len(self.ids)


@dataclass(frozen=True, eq=False)
class RunPlan:
    """One run.

    Parameters
    ----------
    number : int
        From 1.
    pieces : list of Piece
        In the order of the text.
    n_tokens : int
        Recorded tokens.
    """

    number: int
    pieces: list
    n_tokens: int


@dataclass(frozen=True, eq=False)
class Plan:
    """A whole recording before it is made.

    Parameters
    ----------
    documents : list of llmbrain.text.TokenizedDocument
    runs : list of RunPlan
    settings : dict
        The choices that decide which token lies where.
    """

    documents: list
    runs: list
    settings: dict

    @property
    def n_tokens(self):
        """Tokens that will be recorded."""
        return sum(run.n_tokens for run in self.runs)

    @property
    def n_fed(self):
        """Tokens that the model will read: recorded, special and warm-up ones, without padding."""
        return sum(len(piece) for run in self.runs for piece in run.pieces)


def plan_windows(n_tokens, context, warmup, n_head=0, longest=None):
    """Cut a document into windows.

    Parameters
    ----------
    n_tokens : int
        Tokens of the document, special ones included.
    context : int
        Most tokens that the model reads at once.
    warmup : int
        Least number of tokens before a recorded one, unless the document begins there; ``0 <= warmup < context``.
    n_head : int
        Leading special tokens, which every window repeats.
    longest : int, optional
        Most tokens that one window may record.

    Returns
    -------
    list of (start, first, stop)
        Each token of ``0 .. n_tokens - 1`` is in exactly one ``first .. stop - 1``, in order.

    Examples
    --------
    >>> plan_windows(10, context=6, warmup=2)
    [(0, 0, 6), (4, 6, 10)]
    """
    longest = longest or context
    room = context - n_head  # for tokens of the text in any window but the first
    windows, first = [], 0
    while first < n_tokens:
        if first == 0:
            stop = min(n_tokens, context, longest)
        else:
            stop = min(n_tokens, first + min(room - warmup, longest))
        start = 0 if stop <= context else stop - room
        windows.append((start, first, stop))
        first = stop
    return windows


def plan_recording(documents, *, context, warmup, tokens_per_run, max_tokens=None, every=1, special_tokens=False):
    """Decide which tokens are recorded, in which window, in which run.

    Parameters
    ----------
    documents : list of llmbrain.text.TokenizedDocument
    context, warmup : int
        See :func:`plan_windows`.
    tokens_per_run : int
        Most tokens of a run; consecutive documents fill it, a document that does not fit begins the next one.
    max_tokens : int, optional
        Stop after so many recorded tokens; the last document is cut.
    every : int
        Record only every ``every``-th token of a document.
    special_tokens : bool
        Record BOS and other special tokens as well.

    Returns
    -------
    Plan

    Raises
    ------
    ParameterError
        If a number is outside what is allowed.
    CorpusError
        If no token is left to record.
    """
    settings = {
        "context": context,
        "warmup": warmup,
        "tokens_per_run": tokens_per_run,
        "max_tokens": max_tokens,
        "every": every,
    }
    _check_settings(settings)
    settings["special_tokens"] = bool(special_tokens)
    documents = list(documents)
    runs, pieces, filled, budget = [], [], 0, max_tokens

    def close():
        nonlocal pieces, filled
        if filled:
            runs.append(RunPlan(len(runs) + 1, pieces, filled))
        pieces, filled = [], 0

    for number, document in enumerate(documents):
        new = _pieces(number, document, settings, budget)
        total = sum(len(piece.places) for piece in new)
        budget = None if budget is None else budget - total
        if filled + total > tokens_per_run:
            close()
        for piece in new:
            if filled + len(piece.places) > tokens_per_run:  # only a document that is longer than a run
                close()
            pieces.append(Piece(piece.window, piece.ids, piece.places, piece.tokens, filled))
            filled += len(piece.places)
    close()
    if not runs:
        raise CorpusError("No token is left to record: every token of the corpus is a special one. Give other texts.")
    return Plan(documents, runs, settings)


def _pieces(number, document, settings, budget):
    """Windows of one document that record anything, cut where the budget of tokens ends."""
    recorded = ~np.asarray(document.is_special)
    n_head = int(np.argmax(recorded)) if recorded.any() else 0
    recorded |= settings["special_tokens"]
    if n_head + settings["warmup"] >= settings["context"]:
        raise ParameterError(
            f"Document {document.id!r} begins with {n_head} special tokens, which with warmup={settings['warmup']} "
            f"leave no room in context={settings['context']}. Use a longer context or a shorter warm-up."
        )
    recorded &= (np.arange(len(recorded)) - n_head) % settings["every"] == 0
    if budget is not None:
        recorded &= np.cumsum(recorded) <= budget
    if not recorded.any():
        return []
    n_tokens = int(np.flatnonzero(recorded)[-1]) + 1  # a causal model need not read what comes after
    cuts = plan_windows(
        n_tokens,
        settings["context"],
        settings["warmup"],
        n_head,
        settings["tokens_per_run"] * settings["every"],
    )
    pieces = []
    for i, (start, first, stop) in enumerate(cuts):
        tokens = np.flatnonzero(recorded[first:stop]) + first
        if not len(tokens):
            continue
        head = n_head if start > 0 else 0
        ids = np.concatenate([document.ids[:head], document.ids[start:stop]])
        pieces.append(Piece(Window(number, i, start, first, stop), ids, tokens - start + head, tokens, 0))
    return pieces


def _check_settings(settings):
    for name, value in settings.items():
        least = 0 if name == "warmup" else 2 if name in ("context", "max_tokens") else 1
        if name == "max_tokens" and value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
            raise ParameterError(f"{name}={value!r}: it must be a whole number of at least {least}.")
    if settings["warmup"] >= settings["context"]:
        raise ParameterError(
            f"warmup={settings['warmup']} leaves nothing to record in context={settings['context']}; make it smaller."
        )
    if settings["tokens_per_run"] > NIFTI1_MAX:
        raise ParameterError(
            f"tokens_per_run={settings['tokens_per_run']}: a NIfTI-1 file holds at most {NIFTI1_MAX} volumes."
        )
