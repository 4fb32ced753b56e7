"""Networks as files that neuroimaging tools know: maps in z, masks, and labels of the strongest network."""

import numpy as np

_REFERENCE = {"SpatialReference": "orig", "Manual": False}


def strongest_network(z, threshold):
    """Number from 1 of the network with the largest \\|z\\| of each neuron, int16; 0 without any above the threshold.

    Examples
    --------
    >>> strongest_network(np.array([[4.0, 0.0, 5.0], [-6.0, 1.0, 3.5]]), 3.0).tolist()
    [2, 0, 1]
    """
    strongest = labels = None
    for k, row in enumerate(z):
        size = np.abs(row)
        if labels is None:
            strongest, labels = np.full(len(size), threshold, size.dtype), np.zeros(len(size), np.int16)
        larger = size > strongest
        labels[larger], strongest[larger] = k + 1, size[larger]
    return labels


def image_parts(networks, threshold):
    """Make the images of a set of networks and their sidecars: kind of file -> image, table or sidecar.

    Masks and their sidecars are dicts with one entry per network. Neurons with a larger \\|z\\| than the threshold
    belong to a network.
    """
    import pandas as pd

    geometry, z = networks.geometry, networks.z
    labels = strongest_network(z, threshold)
    masks = networks.masks(threshold)
    counts = np.bincount(labels, minlength=len(networks) + 1)
    table = {
        "index": np.arange(len(networks) + 1),
        "name": ["none", *(mask.name for mask in masks)],
        "n_neurons": counts,
    }
    method = networks.info.get("method", "networks")
    return {
        "z_components": geometry.to_img(z),
        "z_components_json": {
            "Description": f"Maps of {method}, one volume per network, z-scored over the neurons of each map.",
            "Units": "z",
            **_REFERENCE,
        },
        "networks_dseg": geometry.to_img(labels),
        "networks_tsv": pd.DataFrame(table),
        "networks_json": {
            "Description": f"The strongest network of {method} at each neuron, 0 if no |z| is above {threshold:g}.",
            "Threshold": threshold,
            **_REFERENCE,
            "index": {"Description": "Label of the voxels.", "Format": "integer"},
            "name": {"Description": "Name of the network."},
            "n_neurons": {"Description": "Number of neurons with the label."},
        },
        "network_mask": {k: mask.to_img() for k, mask in enumerate(masks)},
        "network_mask_json": {
            k: {
                "Description": f"Neurons of {mask.name} of {method}: those with |z| above {threshold:g}.",
                "Type": "ROI",
                "Threshold": threshold,
                **_REFERENCE,
                **mask.sidecar(),
            }
            for k, mask in enumerate(masks)
        },
    }
