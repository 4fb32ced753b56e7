"""Words that a network responds to: peaks in context, and the stretch of text that engages it most."""

import numpy as np


def peaks(course, events, around=8):
    """Find the six strongest tokens of a course (n_tokens,) whose contexts do not overlap.

    Returns a list of rows ``(peak, first, last)``; the context lies within the document and excludes ``last``.
    """
    start, stop = _document_bounds(events)
    found, taken = [], np.zeros(len(course), bool)
    for i in np.argsort(-course, kind="stable"):
        if len(found) == 6 or course[i] <= 0:
            break
        if taken[i]:
            continue
        first, last = max(start[i], i - around), min(stop[i], i + around + 1)
        taken[max(0, first - around) : last + around] = True
        found.append((int(i), int(first), int(last)))
    return found


def best_stretch(course, events, length=90):
    """Find the rows ``first, last`` of the stretch of one document that engages a network (n_tokens,) most."""
    start, stop = _document_bounds(events)
    smooth = np.convolve(np.maximum(course, 0), np.ones(9) / 9, mode="same")
    centre = int(smooth.argmax())
    low, high = int(start[centre]), int(stop[centre])
    first = int(np.clip(centre - length // 2, low, max(low, high - length)))
    return first, min(high, first + length)


def engagement_by_kind(courses, events):
    """Compute the engagement of each network in each kind of text: its mean, or its fluctuation.

    Returns a data frame, kinds by networks, whose ``attrs["title"]`` names the measure; None for fewer than two kinds.
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
