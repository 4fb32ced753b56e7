"""Sets of neurons: made from maps, names or images; combined, compared, saved, and matched with controls."""

from .controls import CONTROLS
from .family import ControlFamily, draw_control
from .maps import masks_from_maps
from .mask import NeuronMask

__all__ = ["CONTROLS", "ControlFamily", "NeuronMask", "draw_control", "masks_from_maps"]
