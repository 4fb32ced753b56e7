"""The same image in world space with its axes flipped or permuted, as other programs may save it."""

import nibabel as nib
import numpy as np
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

AXES = ("LAS", "RPS", "RAI", "LPI", "ARS", "SAR")


def reoriented(img, axes):
    """An image with other axes, of the same values at the same places of the world."""
    turned = img.as_reoriented(ornt_transform(io_orientation(img.affine), axcodes2ornt(axes)))
    back = nib.as_closest_canonical(turned)
    assert "".join(nib.aff2axcodes(turned.affine)) == axes
    assert np.array_equal(back.get_fdata(), img.get_fdata()) and np.allclose(back.affine, img.affine)
    return turned


def shifted(img):
    """An image whose field of view was moved by one voxel along the layers, as cropping does."""
    affine = img.affine.copy()
    affine[0, 3] = 1
    return nib.Nifti1Image(np.roll(np.asarray(img.dataobj), -1, 0), affine)


def misplaced(img):
    """Images that must be refused, by name."""
    return {**{axes: reoriented(img, axes) for axes in AXES}, "shifted": shifted(img)}
