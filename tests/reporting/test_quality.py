"""Quality of a recording: planted sinks, dead neurons and loud tokens are found."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from llmbrain.geometry import NeuronGeometry
from llmbrain.reporting.stations import quality
from llmbrain.reporting.stations.quality import measure_quality, robust_z, token_measures

GEOMETRY = NeuronGeometry((20, 30))


def planted(n=60, seed=0):
    rng = np.random.default_rng(seed)
    activity = rng.normal(size=(n, GEOMETRY.n_neurons)).astype(np.float32)
    activity[40] *= 12.0  # a loud token
    activity[:, [3, 25, 26]] = 0.7  # dead
    return activity


class Recording(list):
    """As much of a recording as the measures need."""

    geometry = GEOMETRY

    def __init__(self, *activity):
        runs = []
        for index, values in enumerate(activity, 1):
            n = len(values)
            events = pd.DataFrame(
                {"token": [f" t{i}" for i in range(n)], "document": [f"d{index}-{i // 20}" for i in range(n)]}
            )
            events["kind"], events["sink"] = "prose", (np.arange(n) == 0).astype(int)
            runs.append(SimpleNamespace(
                index=index, n_tokens=n, events=events, to_array=lambda a, b, values=values: values[a:b].copy()
            ))  # fmt: skip
        super().__init__(runs)
        self.n_tokens = sum(map(len, activity))


def test_planted_faults_are_found():
    found = measure_quality(Recording(planted(), planted(seed=1)))
    assert found.dead.tolist() == [1, 2] and found.whole
    outlying = found.tokens[found.tokens["outlying"]]
    assert outlying["place"].tolist() == [40, 40] and outlying["token"].tolist() == [" t40", " t40"]
    assert found.sinks["n"] == 2 and 0 < found.sinks["share"] < 0.1
    assert found.tokens["change"].isna().sum() == 6  # the first token of each document
    assert set(found.documents["tokens"]) == {20}


def test_reading_in_chunks_changes_nothing(monkeypatch):
    run = Recording(planted())[0]
    whole = token_measures(run, 60)
    monkeypatch.setattr(quality, "CHUNK", 7)
    for a, b in zip(whole, token_measures(run, 60)):
        np.testing.assert_allclose(a, b, rtol=1e-4)
    z = planted()
    z = (z - z.mean(0)) / np.where((sd := z.std(0)) > 1e-6, sd, np.inf)
    alive = 47
    np.testing.assert_allclose(whole[0], np.sqrt((z**2).sum(1) / alive), rtol=1e-3)
    np.testing.assert_allclose(whole[1][1:], np.sqrt((np.diff(z, axis=0) ** 2).sum(1) / alive), rtol=1e-3)


def test_a_large_recording_is_read_in_part():
    found = measure_quality(Recording(planted(200)), budget=4 * GEOMETRY.n_neurons * 100)
    assert len(found.tokens) == 100 and not found.whole


def test_robust_distances_of_constant_values_are_zero():
    assert robust_z([2.0, 2.0, 2.0]).tolist() == [0, 0, 0]
    assert robust_z([1.0, 2.0, 3.0, 100.0])[-1] == pytest.approx(97.5 / 1.4826)
