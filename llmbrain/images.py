"""NIfTI images in the space of llmbrain: identity affine, and a fourth axis that counts tokens."""

import contextlib
import math

import numpy as np

from .arguments import checked, count
from .exceptions import DatasetError, GeometryMismatchError

NIFTI1_MAX = 32767  # NIfTI-1 stores each axis in a signed 16-bit integer


@checked(width=count)
def fold(width):
    """Fold ``width`` neurons into a nearly square sheet ``(rows, cols)`` with ``rows >= cols``.

    The most square exact fold is used if its sides differ by at most 1 : 3. Otherwise the sheet is the smallest nearly
    square one that holds all neurons, and the rest of it is padding.

    Examples
    --------
    >>> fold(1536), fold(11008), fold(97)
    ((48, 32), (128, 86), (10, 10))
    """
    for cols in range(math.isqrt(width), 0, -1):
        if width % cols == 0:
            rows = width // cols
            if rows <= 3 * cols:
                return rows, cols
            break
    rows = math.ceil(math.sqrt(width))
    return rows, math.ceil(width / rows)


def load_img(img):
    """Open an image or its path, of unknown geometry; :func:`check_space` checks its voxels."""
    import nibabel as nib

    if hasattr(img, "dataobj"):
        return img
    with _damage(img):
        return nib.load(img)


def read_data(img):
    """Read the voxels of an image."""
    with _damage(img.get_filename()):
        return np.asanyarray(img.dataobj)


def check_space(img, shape, owner):
    """Return an image if its volumes have the shape of ``owner`` and the identity affine; others raise an error."""
    import nibabel as nib

    name = img.get_filename() or "The image"
    if img.shape[:3] != shape:
        raise GeometryMismatchError(f"{name} has the shape {img.shape[:3]}, {owner} has {shape}.")
    if img.affine is None or not np.allclose(img.affine, np.eye(4)):
        axes = "unknown" if img.affine is None else "".join(map(str, nib.aff2axcodes(img.affine)))
        raise GeometryMismatchError(
            f"The affine of {name} (axes {axes}) is not the identity (axes RAS) that llmbrain writes: it was "
            "flipped, reoriented or resampled, and its voxels no longer match neurons. Save it in the space of an "
            "image written by llmbrain."
        )
    return img


def new_img(volume):
    """Make an image of a volume, with identity affine."""
    import nibabel as nib

    img = nib.Nifti1Image(volume, np.eye(4))
    img.header.set_xyzt_units("mm", "unknown")  # the fourth axis counts tokens, and NIfTI has no code for them
    return img


def nifti_dtype(dtype):
    """Data type in which values of a type are stored: booleans as uint8, floats as float32, long integers as int32."""
    if np.issubdtype(dtype, np.bool_):
        return np.uint8
    if np.issubdtype(dtype, np.floating):
        return np.float32
    if dtype.itemsize > 4:
        return np.int32
    return dtype


@contextlib.contextmanager
def _damage(name):
    """Name the file whose reading fails."""
    try:
        yield
    except (PermissionError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise DatasetError(f"There is no image {name}.") from error
    except Exception as error:  # nibabel raises many kinds for damaged files
        raise DatasetError(f"{name} is damaged ({error}). Restore it, or make it again.") from error
