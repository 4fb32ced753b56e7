"""Masks of several maps at once."""

import numpy as np

from .mask import NeuronMask

__all__ = ["masks_from_maps"]


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
    thresholds = np.broadcast_to(np.asarray(threshold, dtype=float), (len(maps),))
    names = names or [f"network-{i + 1:02d}" for i in range(len(maps))]
    return [
        NeuronMask.from_map(m, geometry, float(t), two_sided, name=name, info=info)
        for m, t, name in zip(maps, thresholds, names, strict=True)
    ]
