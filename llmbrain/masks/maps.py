"""Masks of several maps at once."""

import numpy as np

from ..arguments import checked, numbers
from ..exceptions import ParameterError
from .mask import NeuronMask


@checked(maps=numbers)
def masks_from_maps(maps, geometry, threshold=3.0, two_sided=True, names=None, info=None):
    """Threshold several maps, with one threshold for all or one for each.

    Parameters
    ----------
    maps : array of shape (n_networks, n_neurons)
    geometry : NeuronGeometry
    threshold : float or sequence of n_networks floats
    two_sided : bool
    names : sequence of str, optional
        Default: ``network-01``, ``network-02``, ...
    info : dict, optional

    Returns
    -------
    list of NeuronMask
        Empty masks are included; a lesion of one raises an error with its name.
    """
    maps = np.atleast_2d(np.asarray(maps))
    thresholds = [threshold] * len(maps) if np.ndim(threshold) == 0 else list(threshold)
    if len(thresholds) != len(maps):
        raise ParameterError(f"{len(thresholds)} thresholds for {len(maps)} maps: pass one, or one for each.")
    names = names or [f"network-{i + 1:02d}" for i in range(len(maps))]
    return [
        NeuronMask.from_map(m, geometry, t, two_sided, name=name, info=info)
        for m, t, name in zip(maps, thresholds, names, strict=True)
    ]
