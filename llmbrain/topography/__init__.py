"""Display order of neurons: give the sheets of a model a neighbourhood that the eye can read.

Neurons have no natural neighbours, so a thresholded map is a scatter of dots. A topography moves the neurons *within*
each layer's sheet so that those with similar network loadings lie side by side. It serves display only: files keep the
natural order, and nothing statistical may rely on it. Fit it on one half of the data and show maps of the other half;
then a blob is a finding and not a product of the sorting.
"""

from .layout import assign_to_grid, embed_features, hilbert_curve
from .order import Topography, fit_topography, loadings_from_maps

__all__ = [
    "Topography",
    "assign_to_grid",
    "embed_features",
    "fit_topography",
    "hilbert_curve",
    "loadings_from_maps",
]
