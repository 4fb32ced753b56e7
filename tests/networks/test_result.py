"""NetworkSet: masks, metrics, flags, files."""

import numpy as np
import pandas as pd
import pytest
from planted import GEOMETRY, K, planted_runs
from reoriented import AXES, misplaced

from llmbrain.exceptions import (
    DatasetError,
    GeometryMismatchError,
    ParameterError,
)
from llmbrain.geometry import NeuronGeometry
from llmbrain.networks import CanICA, NetworkSet


def test_masks_and_metrics(fitted, planted):
    masks = fitted.masks(threshold=3.0)
    assert [m.name for m in masks][:2] == ["network-00", "network-01"]
    z = fitted.networks_.z
    np.testing.assert_array_equal(masks[2].values, np.abs(z[2]) > 3)
    np.testing.assert_array_equal(fitted.masks(3.0, two_sided=False)[2].values, z[2] > 3)
    metrics = fitted.networks_.metrics
    assert metrics["n_neurons"].tolist() == [m.count for m in masks]
    np.testing.assert_allclose(metrics["variance"], fitted.variance_)
    assert (metrics["stability"] > 0.9).all() and not metrics["flagged"].any()
    assert (metrics["kurtosis"] > 3).all()
    assert metrics["first_layer"].le(metrics["peak_layer"]).all()
    assert metrics["peak_layer"].le(metrics["last_layer"]).all()


def test_flags_are_in_every_output(fitted, tmp_path):
    from llmbrain.dataset import Study
    from llmbrain.files import read_json

    metrics = fitted.networks_.metrics.assign(stability=np.linspace(0.9, 0.4, K))
    networks = NetworkSet(fitted.networks_.maps, GEOMETRY, metrics).set_threshold(3.0)
    bad = np.flatnonzero(metrics["stability"] < 0.7).tolist()
    assert networks.flagged == bad and len(bad) == 3
    assert repr(networks) == "NetworkSet(6 networks, 3 flagged, 1940 neurons in 20 layers)"
    assert [mask.info["flagged"] for mask in networks.masks()] == [k in bad for k in range(K)]
    study = Study.create(tmp_path, {"id": "tiny", "weights_hash": "abc", "architecture": "x"}, "texts")
    networks.save(study, "mine")
    assert read_json(study.path("components_json", desc="mine"))["flagged"] == bad
    table = pd.read_csv(study.path("metrics", desc="mine"), sep="\t")
    assert table["flagged"].tolist() == [k in bad for k in range(K)]
    assert NetworkSet.load(study).flagged == bad and "flagged" not in NetworkSet.load(study).info
    assert networks.set_threshold(1e3).flagged == list(range(K))  # empty


def test_another_threshold(fitted):
    networks = NetworkSet(fitted.networks_.maps, GEOMETRY, fitted.networks_.metrics.assign(own=1)).set_threshold(4.5)
    assert networks.metrics["n_neurons"].tolist() == [m.count for m in networks.masks(4.5)]
    np.testing.assert_array_equal(networks.metrics["stability"], fitted.networks_.metrics["stability"])
    assert networks.info["threshold"] == 4.5 and "own" in networks.metrics
    assert networks.threshold == 4.5 and fitted.networks_.threshold == 3
    assert [mask.count for mask in networks.masks()] == networks.metrics["n_neurons"].tolist()


@pytest.mark.parametrize("threshold", [np.nan, np.inf, -1, "3"])
def test_thresholds_that_mean_nothing_are_refused(fitted, threshold):
    networks = NetworkSet(fitted.networks_.maps, GEOMETRY, fitted.networks_.metrics)
    before = networks.metrics.copy()
    for work in (networks.set_threshold, networks.masks):
        with pytest.raises(ParameterError, match="must be a finite number"):
            work(threshold)
    assert networks.metrics.equals(before)


def test_save_and_load(fitted, tmp_path):
    from llmbrain.dataset import Study

    info = {"id": "tiny", "weights_hash": "abc", "architecture": "x"}
    study = Study.create(tmp_path / "study", info, {"name": "texts", "hash": "h"})
    written = fitted.networks_.save(study)
    assert all(p.is_file() for p in written)
    assert written[0].name.endswith("_desc-canica6_components.nii.gz")
    for source in (study, tmp_path / "study"):
        loaded = NetworkSet.load(source)
        np.testing.assert_array_equal(loaded.maps, fitted.networks_.maps)
        assert loaded.geometry == GEOMETRY
        pd.testing.assert_frame_equal(loaded.metrics, fitted.networks_.metrics, check_dtype=False)
        np.testing.assert_allclose(loaded.time_courses[1], fitted.networks_.time_courses[1], rtol=1e-5)
        assert loaded.info["parameters"]["n_components"] == K
    fitted.networks_.save(study, "second")
    assert NetworkSet.load(study, "second").n_networks == K
    assert loaded.hash == fitted.networks_.hash == NetworkSet.load(study, "second").hash
    with pytest.raises(DatasetError, match=r"several networks: canica6, second. Choose one by name \(--networks\)"):
        NetworkSet.load(study)
    with pytest.raises(DatasetError, match="no networks named 'third'"):
        NetworkSet.load(study, "third")


def test_files_of_maps_that_are_not_finite_are_refused(fitted, tmp_path):
    """Also outside the layers in which a network was searched, which are not looked at when maps are described."""
    from llmbrain.dataset import Study

    study = Study.create(tmp_path / "study", {"id": "tiny", "weights_hash": "abc"}, {"name": "texts", "hash": "h"})
    maps, support = fitted.networks_.maps.copy(), np.ones((K, GEOMETRY.n_layers), bool)
    maps[2, GEOMETRY.layer_slice(0)], support[2, 0] = 0, False
    whole = NetworkSet(maps, GEOMETRY, support=support)
    maps[2, 0] = np.nan
    whole.save(study)
    with pytest.raises(DatasetError, match="components.nii.gz holds NaN or infinite values"):
        NetworkSet.load(study)


@pytest.mark.parametrize("axes", [*AXES, "shifted"])
def test_maps_that_were_reoriented_are_refused(axes, fitted, tmp_path):
    import nibabel as nib

    from llmbrain.dataset import Study

    study = Study.create(tmp_path / "study", {"id": "tiny", "weights_hash": "abc"}, {"name": "texts", "hash": "h"})
    path = fitted.networks_.save(study)[0]
    nib.save(misplaced(nib.load(path))[axes], path)
    with pytest.raises(DatasetError, match="components.nii.gz does not fit"):
        NetworkSet.load(study)
    with pytest.raises(GeometryMismatchError, match="components.nii.gz.*(affine|the shape)|affine of .*components"):
        GEOMETRY.to_array(path)


def test_layer_scope_survives_saving(tmp_path):
    from llmbrain.dataset import Study

    geometry = NeuronGeometry.from_sizes([300, 300])
    found = CanICA(2, geometry=geometry, scope="layer", n_init=1).fit(planted_runs(600, 3)[0]).networks_
    study = Study.create(tmp_path, {"id": "tiny", "weights_hash": "abc", "architecture": "x"}, "texts")
    found.save(study)
    np.testing.assert_allclose(NetworkSet.load(study).z, found.z, atol=1e-6)


def test_network_set_refuses_nonsense():
    with pytest.raises(ParameterError, match="NaN"):
        NetworkSet(np.full((1, GEOMETRY.n_neurons), np.nan), GEOMETRY)
    with pytest.raises(ParameterError, match="neurons"):
        NetworkSet(np.ones((1, 5)), GEOMETRY)
    with pytest.raises(ParameterError, match="at least one"):
        NetworkSet(np.ones((0, GEOMETRY.n_neurons)), GEOMETRY)


def test_metrics_of_many_maps_are_those_of_each_alone(monkeypatch):
    """Maps are described in blocks, of which each holds maps that were searched in the same layers."""
    from llmbrain.networks import result

    monkeypatch.setattr(result, "_BLOCK_VALUES", 700)
    geometry = NeuronGeometry.from_sizes([300, 200, 250])
    support = np.array([[1, 0, 0], [1, 0, 0], [1, 0, 0], [0, 1, 1], [1, 0, 1], [0, 1, 0]], bool)
    inside = support[:, geometry.layer_of]
    maps = np.where(inside, np.random.default_rng(0).laplace(size=inside.shape) ** 3, 0)
    maps[1] = 0
    table, z = (
        result.describe_maps(maps, geometry, support=support),
        result.zscore_maps(maps, support, geometry.layer_of),
    )
    for k, row in enumerate(inside):
        part = maps[k, row].astype(np.float32)
        expected = (part - part.mean()) / (part.std() or 1)
        np.testing.assert_allclose(z[k, row], expected, atol=1e-5)
        assert not z[k, ~row].any() and table["n_neurons"][k] == (np.abs(expected) > 3).sum()
        energy = np.bincount(geometry.layer_of[row], np.where(np.abs(expected) > 3, expected, 0) ** 2, 3)
        assert table["peak_layer"][k] == energy.argmax() and table["flagged"][k] == (k == 1)
        np.testing.assert_allclose(table["kurtosis"][k], (expected**4).mean() - 3, rtol=1e-4)
