"""The whole of the evidence on planted networks, whatever holds the runs, and its files."""

import numpy as np
import pandas as pd
import pytest

from llmbrain.dataset import Study
from llmbrain.exceptions import GeometryMismatchError
from llmbrain.geometry import NeuronGeometry
from llmbrain.networks import CanICA
from llmbrain.networks.evidence.gather import gather_evidence


class TextRun:
    """An array with events, as a recorded run has them."""

    def __init__(self, x, events, geometry):
        self.x, self.events, self.geometry, self.n_tokens, self.scale = x, events, geometry, len(x), None
        self.path = "memory"

    def raw(self):
        return self.geometry.to_disk(self.x)


def study_like(n_runs=6, n_tokens=120, n_networks=4, surplus=2, seed=0):
    """Four planted networks, the first awake in code, the second following the position in the text."""
    rng = np.random.default_rng(seed)
    geometry = NeuronGeometry.from_sizes([300] * 4)
    v = geometry.n_neurons
    maps = 3 * rng.gamma(4, 0.5, (n_networks, v)) * (rng.random((n_networks, v)) < 0.06)
    runs = []
    for r in range(n_runs):
        frame = pd.DataFrame({"token": rng.choice([" a", " 3", ".", " cat"], n_tokens)})
        frame["document"] = [f"d{r}-{t // 40}" for t in range(n_tokens)]
        frame["kind"] = ["code" if t // 40 == r % 3 else "prose" for t in range(n_tokens)]
        frame["position"] = np.arange(n_tokens) % 40
        courses = 0.7 * rng.normal(size=(n_tokens, n_networks))
        courses[:, 0] += 2.0 * (frame["kind"] == "code")
        courses[:, 1] += 0.1 * (frame["position"] - 20)
        courses[:, 2] += 2.0 * (frame["token"] == " 3")
        x = courses @ maps + rng.normal(size=(n_tokens, v))
        runs.append(TextRun(x.astype(np.float32), frame, geometry))
    fitted = CanICA(n_components=n_networks + surplus, n_init=3, geometry=geometry).fit([r.x for r in runs])
    return runs, maps, fitted.networks_


@pytest.fixture(scope="module")
def planted():
    runs, maps, networks = study_like()
    own = np.abs(np.corrcoef(maps, networks.maps)[:4, 4:]).argmax(axis=1)
    return runs, networks, own


@pytest.mark.filterwarnings("ignore::llmbrain.exceptions.NumericalWarning")
def test_evidence_tells_planted_networks_from_surplus_ones(planted):
    runs, networks, own = planted
    found = gather_evidence(networks, runs, n_repeats=8, n_draws=39)
    metrics = found.networks.metrics
    surplus = np.setdiff1d(np.arange(6), own)
    assert not metrics["flagged"][own].any() and metrics["flagged"][surplus].all()
    assert (metrics["stability"][own] > 0.9).all() and (metrics["dice"][own] > 0.6).all()
    assert (metrics["icc"][own] > 0.85).all() and (metrics["split_half_r"][surplus] < 0.5).all()
    assert metrics["label"][own[2]] == "fires at numbers" and metrics["artefact"][own[1]] == "position"
    table = found.engagement[found.engagement["network"] == own[0]].set_index("kind")
    assert abs(table["mean"]["code"] - table["mean"]["prose"]) > 0.8 and table["p_mean"].iloc[0] < 0.05
    assert np.allclose(found.profile.drop(columns="network").sum(axis=1), 1)
    assert found.connectivity.mean.shape == (6, 6)
    # the centrotypes are maps in the flat order of neurons, though the runs were read in that of files
    centres = found.centrotypes
    r = np.abs(np.corrcoef(networks.maps[own], centres.maps)[:4, 4:])
    assert (r.max(axis=1) > 0.98).all() and len(centres.flagged) == 2
    assert not set(r.argmax(axis=1)) & set(centres.flagged)
    assert {"iq", "coverage", "stability"} <= set(centres.metrics) and centres.info["maps"].startswith("centrotypes")


@pytest.mark.filterwarnings("ignore::llmbrain.exceptions.NumericalWarning")
def test_evidence_of_plain_arrays_has_no_texts(planted):
    runs, networks, _ = planted
    plain = gather_evidence(networks, [r.x for r in runs], n_repeats=3, n_draws=9)
    assert plain.interpretation is None and plain.engagement is None
    from_runs = gather_evidence(networks, runs, n_repeats=3, n_draws=9)
    # files are read in another order of neurons: only rounding may differ
    assert np.allclose(plain.stability["iq"], from_runs.stability["iq"], atol=0.1)
    with pytest.raises(GeometryMismatchError):
        gather_evidence(networks, [r.x[:, :600] for r in runs])


@pytest.mark.filterwarnings("ignore::llmbrain.exceptions.NumericalWarning")
def test_evidence_with_the_confounds_of_the_fit(planted):
    runs, _, _ = planted
    rng = np.random.default_rng(5)
    ramps = [np.linspace(-2, 2, 120) for _ in runs]
    dirty = [r.x + np.outer(ramp, 6 * rng.normal(size=1200)).astype(np.float32) for r, ramp in zip(runs, ramps)]
    networks = CanICA(4, n_init=2, geometry=runs[0].geometry).fit(dirty, confounds=ramps).networks_
    options = {"n_repeats": 4, "n_draws": 9}
    with_them, without = (gather_evidence(networks, dirty, confounds=c, **options) for c in (ramps, None))
    assert (with_them.stability[["stability", "split_half_r", "icc"]] > 0.7).all(axis=None)
    assert without.stability["split_half_r"].min() < 0.7 and len(without.networks.flagged)


@pytest.mark.filterwarnings("ignore::llmbrain.exceptions.NumericalWarning")
def test_evidence_of_layer_networks_and_its_files(planted, tmp_path):
    runs, _, _ = planted
    networks = CanICA(n_components=3, n_init=2, scope="layer", geometry=runs[0].geometry).fit([r.x for r in runs])
    found = gather_evidence(networks.networks_, runs, n_repeats=3, n_draws=9)
    assert len(found.clusters) == 4 and found.stability["network"].tolist() == list(range(12))
    profile = found.profile.drop(columns="network").to_numpy()
    assert np.allclose(profile.max(axis=1), 1)
    centres = found.centrotypes
    assert np.array_equal(centres.support, networks.networks_.support)
    r = np.abs(np.corrcoef(networks.components_, centres.maps)[:12, 12:])
    steady = found.stability["stability"].to_numpy() > 0.9
    assert steady.sum() > 3 and (r.max(axis=1)[steady] > 0.95).all()

    files = found.save(Study.create(tmp_path, {"id": "tiny", "weights_hash": "abc", "architecture": "x"}, "texts"))
    assert all(f.is_file() for f in files)
    kinds = {f.name.rsplit("_", 1)[-1].split(".")[0] for f in files}
    assert {"stability", "profile", "connectivity", "tokens", "contexts"} <= kinds, kinds


@pytest.mark.filterwarnings("ignore::llmbrain.exceptions.NumericalWarning")
def test_evidence_of_other_runs_and_of_duplicate_networks(planted):
    from llmbrain.networks import NetworkSet

    runs, networks, _ = planted
    fewer = gather_evidence(networks, runs[:4], n_repeats=3, n_draws=9)
    assert len(fewer.interpretation.table) == 6
    twins = NetworkSet(np.concatenate([networks.maps, networks.maps[:1]]), networks.geometry, info=networks.info)
    twins.time_courses = [np.hstack([c, c[:, :1]]) for c in networks.time_courses]
    found = gather_evidence(twins, runs, n_repeats=3, n_draws=9)
    assert found.stability["icc"].isna().all() and len(found.stability) == 7
