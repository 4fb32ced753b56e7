"""Sets of neurons: made from maps, names or images; combined, compared, saved, and matched with controls."""

from .controls import CONTROLS
from .family import ControlFamily, draw_control
from .mask import NeuronMask, masks_from_maps

__all__ = ["CONTROLS", "ControlFamily", "NeuronMask", "draw_control", "masks_from_maps"]
