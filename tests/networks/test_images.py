"""Networks as images for other tools, and as the folder that Rica opens."""

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from planted import GEOMETRY, K

from llmbrain.exceptions import ParameterError
from llmbrain.networks import NetworkSet, write_tedana
from llmbrain.networks.images import image_parts, strongest_network


def test_strongest_network_is_the_largest_above_the_threshold():
    rng = np.random.default_rng(0)
    z = rng.laplace(size=(5, 400)) * 2
    labels = strongest_network(z, 3.0)
    size = np.abs(z)
    np.testing.assert_array_equal(labels, np.where(size.max(0) > 3, size.argmax(0) + 1, 0))


def test_images_agree_with_the_networks(fitted):
    networks = fitted.networks_
    parts = image_parts(networks, 3.0)
    np.testing.assert_array_equal(GEOMETRY.to_array(parts["z_components"]), networks.z)
    assert parts["z_components_json"]["Units"] == "z"
    masks = networks.masks()
    labels = GEOMETRY.to_array(parts["networks_dseg"])
    table = parts["networks_tsv"]
    assert table["index"].tolist() == list(range(K + 1)) and table["n_neurons"].sum() == GEOMETRY.n_neurons
    for k, mask in enumerate(masks):
        np.testing.assert_array_equal(GEOMETRY.to_array(parts["network_mask"][k]) > 0, mask.values)
        assert mask.values[labels == k + 1].all() and table["name"][k + 1] == mask.name
        assert (labels == k + 1).sum() == table["n_neurons"][k + 1]
    np.testing.assert_array_equal(labels > 0, np.any([mask.values for mask in masks], axis=0))


def test_tedana_folder(fitted, tmp_path):
    networks = fitted.networks_
    written = write_tedana(networks, tmp_path / "rica")
    assert {path.name for path in written} == {path.name for path in (tmp_path / "rica").iterdir()}
    # what Rica looks for in names, and the columns that it shows
    (z,) = (p for p in written if "ICA" in p.name and "stat-z_components.nii.gz" in p.name)
    (mixing,) = (p for p in written if "_mixing.tsv" in p.name)
    (metrics,) = (p for p in written if "_metrics.tsv" in p.name)
    assert sum("_mask.nii" in p.name for p in written) == 1 and sum(p.name == "report.txt" for p in written) == 1
    np.testing.assert_allclose(GEOMETRY.to_array(nib.load(z)), networks.z, rtol=1e-6)
    courses, table = pd.read_csv(mixing, sep="\t"), pd.read_csv(metrics, sep="\t")
    np.testing.assert_allclose(courses, np.concatenate(networks.time_courses), rtol=1e-4, atol=1e-4)
    assert table["Component"].tolist() == courses.columns.tolist() == [f"ICA_{k:02d}" for k in range(K)]
    np.testing.assert_allclose(table["variance explained"], 100 * fitted.variance_, rtol=1e-4)
    assert table[["kappa", "rho"]].notna().all().all()
    assert (table["classification"] == "rejected").to_numpy().nonzero()[0].tolist() == networks.flagged
    with pytest.raises(ParameterError, match="no time courses"):
        write_tedana(NetworkSet(networks.maps, GEOMETRY), tmp_path / "other")
