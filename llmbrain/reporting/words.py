"""Words that a network responds to: peaks in context, and the stretch of text that engages it most."""

import numpy as np

__all__ = ["best_stretch", "engagement_by_kind", "peaks"]


def peaks(course, events, n=6, around=8):
    """Find the strongest tokens of a time course whose contexts do not overlap.

    Parameters
    ----------
    course : array of shape (n_tokens,)
        One network, z-scored.
    events : pandas.DataFrame
        ``document`` of each token (and ``run``).
    n : int
        Number of peaks.
    around : int
        Tokens of context on each side.

    Returns
    -------
    list of (peak, first, last)
        Rows: the token, and its context within the document, ``last`` excluded.

    Examples
    --------
    >>> import pandas as pd
    >>> peaks(np.array([0, 5, 0, 0, 0, 3.0]), pd.DataFrame({"document": list("aaabbb")}), n=2, around=1)
    [(1, 0, 3), (5, 4, 6)]
    """
    start, stop = _document_bounds(events)
    found, taken = [], np.zeros(len(course), bool)
    for i in np.argsort(-course, kind="stable"):
        if len(found) == n or course[i] <= 0:
            break
        if taken[i]:
            continue
        first, last = max(start[i], i - around), min(stop[i], i + around + 1)
        taken[max(0, first - around) : last + around] = True
        found.append((int(i), int(first), int(last)))
    return found


def best_stretch(course, events, length=90):
    """Find the stretch of one document that engages a network most.

    Parameters
    ----------
    course : array of shape (n_tokens,)
        One network, z-scored.
    events : pandas.DataFrame
        ``document`` of each token (and ``run``).
    length : int
        Maximum number of tokens.

    Returns
    -------
    first, last : int
        Its rows, ``last`` excluded.
    """
    start, stop = _document_bounds(events)
    smooth = np.convolve(np.maximum(course, 0), np.ones(9) / 9, mode="same")
    centre = int(smooth.argmax())
    low, high = int(start[centre]), int(stop[centre])
    first = int(np.clip(centre - length // 2, low, max(low, high - length)))
    return first, min(high, first + length)


def engagement_by_kind(courses, events):
    """Compute the engagement of each network in each kind of text: its mean, or its fluctuation.

    Neurons are z-scored within runs. If each run holds one kind of text, the means are zero by construction, and the
    root mean square is used instead.

    Parameters
    ----------
    courses : array of shape (n_tokens, n_networks)
        Z-scored over tokens.
    events : pandas.DataFrame
        ``kind`` of each token.

    Returns
    -------
    pandas.DataFrame or None
        Kinds by networks; ``attrs["title"]`` names the measure. None if there are fewer than two kinds.
    """
    import pandas as pd

    if "kind" not in events or events["kind"].isna().all() or events["kind"].nunique() < 2:
        return None
    kinds, courses = events["kind"].to_numpy(), pd.DataFrame(courses)
    apart = "run" in events and events.groupby("run")["kind"].nunique().median() == 1
    found = np.sqrt((courses**2).groupby(kinds).mean()) if apart else courses.groupby(kinds).mean()
    found.attrs["title"] = "Strength of fluctuation by kind of text" if apart else "Mean engagement by kind of text"
    return found


def _document_bounds(events):
    """First row and end row of the part of one document that each token belongs to."""
    key = events["document"].astype(str)
    if "run" in events:
        key = key + "\0" + events["run"].astype(str)
    key = key.to_numpy()
    edges = np.flatnonzero(np.r_[True, key[1:] != key[:-1], True])
    length = np.diff(edges)
    return np.repeat(edges[:-1], length), np.repeat(edges[1:], length)
