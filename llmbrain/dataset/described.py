"""An image with a JSON file of the same name that describes it: the two are published as one."""

from pathlib import Path

from ..exceptions import ParameterError
from .checks import read_object
from .publication import publish_together, recover

__all__ = ["read_description", "write_described"]


def write_described(path, img, description, key):
    """Write an image and its description; readers see both, or what was there before.

    Parameters
    ----------
    path : path-like
        Of the image; ends in ``.nii`` or ``.nii.gz``.
    img : image
    description : dict
    key : str
        By this key an earlier file of the same kind is recognised; its value must be the same. Others are refused.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    ParameterError
        If the name has another ending, or another file is there.
    """
    path = Path(path)
    side, there = _beside(path), read_description(path)
    if (path.exists() or side.exists()) and there.get(key, object()) != description[key]:
        raise ParameterError(
            f"{path} or {side.name} exists and is no earlier output of this kind; it is not replaced. Choose another "
            "name."
        )
    publish_together(side, {path: img}, lambda _: description, lambda: ())
    return path


def read_description(path):
    """Read the JSON file of an image, a dict; empty if there is none.

    Raises
    ------
    DatasetError
        If it is damaged.
    """
    side = _beside(Path(path))
    recover(side.parent)
    return read_object(side) if side.is_file() else {}


def _beside(path):
    for suffix in (".nii.gz", ".nii"):
        if path.name.endswith(suffix):
            return path.with_name(path.name.removesuffix(suffix) + ".json")
    raise ParameterError(f"The name of an image must end in .nii or .nii.gz; got {path.name!r}.")
