"""Atlases of a site: the layer, and the attention head, of each voxel as label images."""

import numpy as np

from .layout import bids_label
from .results import is_done, write_result

_COLUMNS = {
    "index": {"Description": "Label of the voxels.", "Format": "integer"},
    "name": {"Description": "Name of the region."},
    "layer": {"Description": "Number of the layer in the model, from 0."},
    "n_neurons": {"Description": "Number of recorded neurons of the layer."},
    "head": {"Description": "Number of the attention head in its layer, from 0."},
}


def _atlas_json(what, site):
    return {
        "Description": f"The {what} of the model as labels of the voxels of the site {site}.",
        "SpatialReference": "orig",
        "Manual": False,
        "Site": site,
        **_COLUMNS,
    }


def _mask_json(site):
    return {
        "Description": f"1 at the neurons of the site {site}, 0 at the padding of their sheets.",
        "Type": "ROI",
        "SpatialReference": "orig",
        "Manual": False,
        "Site": site,
    }


def write_atlases(study, geometry):
    """Write the mask of neurons, the layer of each voxel as labels and, where the site has heads, the attention head.

    Whole atlases of the same neurons are kept.
    """
    import pandas as pd

    site = geometry.site
    study.describe_label(bids_label(site), f"Activations of the site {site}.")
    names = [f"layer{i:02d}" for i in geometry.layers]
    index = np.arange(1, geometry.n_layers + 1)
    layers = pd.DataFrame({"index": index, "name": names, "layer": geometry.layers, "n_neurons": geometry.sizes})
    _write(study, "layers", geometry, geometry.layers_img, layers)
    if not study.path("neurons_json", site=site).is_file():
        study.write("neurons_mask", geometry.mask_img, site=site)
        study.write("neurons_json", _mask_json(site), site=site)
    if geometry.n_heads is None:
        return
    rows = [(f"layer{i:02d}head{h:02d}", i, h) for i, n in zip(geometry.layers, geometry.n_heads) for h in range(n)]
    heads = pd.DataFrame(rows, columns=["name", "layer", "head"])
    heads.insert(0, "index", np.arange(1, len(rows) + 1))
    _write(study, "heads", geometry, geometry.heads_img, heads)


def _write(study, what, geometry, img, table):
    site, settings = bids_label(geometry.site), geometry.to_dict()
    if not is_done(study, what, site, settings):
        parts = {f"{what}_dseg": img, f"{what}_tsv": table}
        write_result(study, what, site, parts, _atlas_json(what, geometry.site), settings=settings)
