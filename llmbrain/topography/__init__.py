"""Display order of neurons, in which neurons of a layer with similar network loadings are neighbours.

Neurons have no natural neighbours, so a thresholded map looks like scattered dots. A topography is for display only:
files keep the natural order, and no statistic may use it. Fit it on one half of the data and show maps of the other
half, so that clusters are a finding and not a product of the sorting.
"""

from .order import Topography, fit_topography, loadings_from_maps

__all__ = ["Topography", "fit_topography", "loadings_from_maps"]
