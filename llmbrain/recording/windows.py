"""Which tokens are recorded, in which window, and in which run: bookkeeping without a model.

The windows come from :func:`llmbrain.text.cut_windows`. Every window but the first of a document begins with a warm-up,
so that no token is recorded with less than ``warmup`` tokens of context unless its document begins there.
"""

from dataclasses import dataclass

import numpy as np

from ..exceptions import CorpusError, ParameterError, check_count
from ..images import NIFTI1_MAX
from ..text import cut_windows


@dataclass(frozen=True, eq=False)
class RunPlan:
    """One run, numbered from 1: its windows in text order, and the row of each window's first recorded token."""

    number: int
    windows: list
    rows: list
    n_tokens: int

    @property
    def n_fed(self):
        """Number of tokens that the model reads: recorded, special and warm-up tokens, without padding."""
        return sum(map(len, self.windows))


@dataclass(frozen=True, eq=False)
class Plan:
    """A whole recording before it is made; ``settings`` are the choices that decide which token is recorded where."""

    documents: list
    runs: list
    settings: dict

    @property
    def n_tokens(self):
        """Number of tokens that will be recorded."""
        return sum(run.n_tokens for run in self.runs)

    @property
    def n_fed(self):
        """Number of tokens that the model will read, without padding."""
        return sum(run.n_fed for run in self.runs)


def plan_recording(documents, *, context, warmup, tokens_per_run, max_tokens=None, every=1, special_tokens=False):
    """Decide which tokens are recorded, in which window, in which run.

    ``context`` and ``warmup`` are those of :func:`llmbrain.text.cut_windows`. Consecutive documents fill a run of at
    most ``tokens_per_run`` tokens; a document that does not fit begins the next one. Recording stops after
    ``max_tokens`` tokens (the last document is cut), and keeps only every ``every``-th token of a document;
    ``special_tokens`` records BOS and others as well.
    """
    settings = {
        "context": context,
        "warmup": warmup,
        "tokens_per_run": tokens_per_run,
        "max_tokens": max_tokens,
        "every": every,
        "special_tokens": bool(special_tokens),
    }
    _check_settings(settings)
    documents = list(documents)
    runs, windows, rows, filled, budget = [], [], [], 0, max_tokens

    def close():
        nonlocal windows, rows, filled
        if filled:
            runs.append(RunPlan(len(runs) + 1, windows, rows, filled))
        windows, rows, filled = [], [], 0

    for number, document in enumerate(documents):
        new = _windows_of(number, document, settings, budget)
        sizes = [int(window.kept.sum()) for window in new]
        budget = None if budget is None else budget - sum(sizes)
        if filled + sum(sizes) > tokens_per_run:
            close()
        for window, size in zip(new, sizes):
            if filled + size > tokens_per_run:  # only a document that is longer than a run
                close()
            windows.append(window)
            rows.append(filled)
            filled += size
    close()
    if not runs:
        raise CorpusError("No token is left to record: the corpus has only special tokens. Use other texts.")
    return Plan(documents, runs, settings)


def _windows_of(number, document, settings, budget):
    """Return the windows of one document that record anything, up to the budget of tokens."""
    n_head, recorded = document.n_head, ~np.asarray(document.is_special)
    recorded |= settings["special_tokens"]
    if n_head + settings["warmup"] >= settings["context"]:
        raise ParameterError(
            f"Document {document.id!r} begins with {n_head} special tokens, which with warmup={settings['warmup']} "
            f"leave no room in context={settings['context']}. Use a longer context or a shorter warm-up."
        )
    recorded &= (np.arange(len(recorded)) - n_head) % settings["every"] == 0
    if budget is not None:
        recorded &= np.cumsum(recorded) <= budget
    longest = settings["tokens_per_run"] * settings["every"]
    return cut_windows(
        document, settings["context"], warmup=settings["warmup"], kept=recorded, longest=longest, number=number
    )


def _check_settings(settings):
    for name, least in (("context", 2), ("warmup", 0), ("tokens_per_run", 1), ("max_tokens", 2), ("every", 1)):
        check_count(name, settings[name], least, optional=name == "max_tokens")
    if settings["warmup"] >= settings["context"]:
        raise ParameterError(
            f"warmup={settings['warmup']} leaves nothing to record in context={settings['context']}. Use a smaller one."
        )
    if settings["tokens_per_run"] > NIFTI1_MAX:
        raise ParameterError(
            f"tokens_per_run={settings['tokens_per_run']}: a NIfTI-1 file holds at most {NIFTI1_MAX} volumes."
        )
