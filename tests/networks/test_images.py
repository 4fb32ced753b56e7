"""Networks as images for other tools."""

import numpy as np
from planted import GEOMETRY, K

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
