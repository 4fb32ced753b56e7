"""Mask files: a NIfTI image of 0 and 1, and a JSON sidecar."""

import numpy as np

from ..dataset.described import read_description, write_described
from ..exceptions import MaskError, ParameterError
from ..files import as_path
from ..geometry import NeuronGeometry

FORMAT = "llmbrain neuron mask"


def read_image(img, geometry, threshold=0.0):
    """Find the neurons where a 3D image is above a threshold: a bool array of shape (n_neurons,)."""
    img = geometry.open_img(img)
    if len(img.shape) != 3:
        raise MaskError(f"A mask must be a 3D image (one volume); got shape {img.shape}.")
    values = geometry.to_array(img)
    marked = np.asarray(img.dataobj) > threshold
    stray = int((marked & ~geometry.is_neuron).sum())
    if stray:
        raise MaskError(f"The image marks {stray} voxels without a neuron (padding); erase them first.")
    return np.nan_to_num(values) > threshold


def write_mask(path, mask, model=None):
    """Write a mask as an image with a sidecar; see :meth:`llmbrain.NeuronMask.save`."""
    return write_described(path, mask.to_img(), describe_mask(mask, model), key="format")


def describe_mask(mask, model=None):
    """Content of the sidecar of a mask."""
    if model is not None and not isinstance(model, dict):
        raise ParameterError(f"model must be the dict from llmbrain.models.describe_model(model); got {model!r}.")
    info = mask.info | ({"model": model} if model is not None else {})
    described = {"format": FORMAT, "name": mask.name, "n_neurons": mask.count, "geometry": mask.geometry.to_dict()}
    return {**described, "info": info}


def read_mask(path, geometry=None):
    """Read a file written by :func:`write_mask`, as the arguments of a NeuronMask."""
    path = as_path(path)
    described = read_description(path)
    if not path.is_file():
        raise MaskError(f"There is no mask file {path}.")
    if "geometry" in described:
        own = NeuronGeometry.from_dict(described["geometry"])
        if geometry is not None:
            geometry.check_same(own, f"The mask {path.name}")
        geometry = own
    if geometry is None:
        raise MaskError(f"{path.name} has no sidecar (.json) with a geometry. Pass geometry=.")
    return {
        "values": read_image(path, geometry),
        "geometry": geometry,
        "name": described.get("name"),
        "info": described.get("info"),
    }
