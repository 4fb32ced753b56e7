"""Sets of neurons: made from maps, names or images, combined, compared, matched with controls, saved."""

from .many import masks_from_maps
from .mask import NeuronMask

__all__ = ["NeuronMask", "masks_from_maps"]
