"""Control sets: which neurons to silence instead of a network, so that the comparison is fair."""

from .draws import anti_network, importance_matched, layer_matched, overlap_share, permuted, random_set, top_matched
from .units import ControlUnits, heads_of_share, whole_heads

__all__ = [
    "ControlUnits",
    "anti_network",
    "heads_of_share",
    "importance_matched",
    "layer_matched",
    "overlap_share",
    "permuted",
    "random_set",
    "top_matched",
    "whole_heads",
]
