"""An image with a JSON file of the same name that describes it: the two are published as one."""

from ..exceptions import ParameterError
from ..files import KEY_HASHES, as_path, with_hashes
from .checks import read_object, read_own
from .folder import holds_study
from .publication import publish_together, recover

_ENDS = (".nii.gz", ".nii")


def write_described(path, img, description, key):
    """Write an image and its description; readers see both, or what was there before. Returns the path of the image.

    An earlier file is replaced if its description has the same value of ``key``. Other files, files of a study, and
    names that do not end in ``.nii`` or ``.nii.gz`` raise :class:`ParameterError`.
    """
    path = as_path(path)
    side, there = _beside(path), read_description(path)
    twin = next((p for end in _ENDS if (p := side.with_name(side.stem + end)) != path and p.exists()), None)
    if twin is not None:
        raise ParameterError(f"{side.name} belongs to {twin}, which is not replaced. Choose another name.")
    if (path.exists() or side.exists()) and _of_study(path):
        raise ParameterError(f"{path} belongs to a study, and it is not replaced. Choose another name.")
    if (path.exists() or side.exists()) and there.get(key, object()) != description[key]:
        raise ParameterError(
            f"{path} or {side.name} exists and is not an earlier output of this kind. It is not replaced. Choose "
            "another name."
        )
    publish_together(side, {path: img}, lambda _: with_hashes(description), lambda: ())
    return path


def read_description(path):
    """Read the JSON file of an image, a dict; empty if there is none. A damaged one raises :class:`DatasetError`.

    A file that was written by hand has no hashes of its values.
    """
    side = _beside(as_path(path))
    recover(side.parent)
    if not side.is_file():
        return {}
    return read_own(side) if KEY_HASHES in (content := read_object(side)) else content


def _beside(path):
    for suffix in _ENDS:
        if path.name.endswith(suffix):
            return path.with_name(path.name.removesuffix(suffix) + ".json")
    raise ParameterError(f"The name of an image must end in .nii or .nii.gz; got {path.name!r}.")


def _of_study(path):
    """Whether a file has the name of a file of a study, in the folder of one."""
    return path.name.startswith("sub-") and any(holds_study(parent) for parent in path.absolute().parents[:4])
