"""Words that a network responds to."""

import numpy as np
import pytest
from synthetic import events

from llmbrain.reporting.words import best_stretch, engagement_by_kind, peaks


def test_peaks_stay_in_their_document_and_apart():
    frame = events(84)
    course = np.zeros(84)
    course[[10, 12, 41, 42, 70]] = [5, 4, 3, 2.5, 1]
    found = peaks(course, frame, around=5)
    assert [p for p, _, _ in found] == [10, 41, 42, 70] or [p for p, _, _ in found] == [10, 41, 70]
    for peak, first, last in found:
        assert first <= peak < last and frame["document"].iloc[first:last].nunique() == 1
    first, last = best_stretch(course, frame, 20)
    assert first <= 10 < last and last - first <= 20 and frame["document"].iloc[first:last].nunique() == 1
    assert not peaks(-np.ones(84), frame)


def test_engagement_by_kind_is_the_mean():
    frame = events(84)
    course = np.arange(84, dtype=float)[:, None]
    means = engagement_by_kind(course, frame)
    assert means.loc["encyclopaedic", 0] == course[:42].mean()
    assert engagement_by_kind(course, frame.assign(kind="one")) is None
    assert engagement_by_kind(course, frame.drop(columns="kind")) is None


def test_engagement_is_the_fluctuation_where_runs_hold_one_kind():
    """Neurons are z-scored within runs, so that the means of such kinds say nothing."""
    frame = events(84)
    kinds = frame["kind"].to_numpy()
    strong = kinds == kinds[0]
    course = np.where(np.arange(84) % 2, 1.0, -1.0)[:, None] * np.where(strong, 3.0, 1.0)[:, None]
    apart = frame.assign(run=np.where(strong, 0, 1))
    found = engagement_by_kind(course, apart)
    assert "fluctuation" in found.attrs["title"] and found.loc[kinds[0], 0] == pytest.approx(3)
    mixed = engagement_by_kind(course, frame.assign(run=0))
    assert "Mean" in mixed.attrs["title"] and abs(mixed.loc[kinds[0], 0]) < 0.2
