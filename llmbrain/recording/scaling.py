"""The factor of each neuron for storage as int16."""

import numpy as np

from ..exceptions import GeometryMismatchError
from ..files import save_img
from .capture import quiet_forward, run_batch

__all__ = ["neuron_scales"]

_STEPS = 8192  # of the largest value seen; values up to four times as large still fit int16


def neuron_scales(job, study):
    """The factor of each neuron, by site: read from the study, or measured on the first batch of texts and written.

    Parameters
    ----------
    job : llmbrain.recording.job.Job
    study : llmbrain.Study

    Returns
    -------
    dict of ndarray of shape (n_neurons,), float32
    """
    lacking = [name for name in job.geometries if not study.path("scale", site=name).exists()]
    for name, largest in _largest(job, lacking).items():
        scale = np.maximum(largest, np.finfo(np.float32).tiny * _STEPS * 2) / _STEPS
        save_img(study.path("scale", site=name), job.geometries[name].to_img(scale))
    return {
        name: _read(study.path("scale", site=name), geometry) for name, geometry in job.geometries.items()
    }


def _largest(job, names):
    """Largest absolute activation of each neuron in the first batch of the first run."""
    if not names:
        return {}
    sites = [(name, i, site) for name in names for i, site in enumerate(job.sites[name])]
    largest = {name: np.zeros(job.geometries[name].n_neurons, np.float32) for name in names}
    batch, places, _, _ = next(job.batches(job.plan.runs[0]))

    def keep(i, rows):
        name, position, _ = sites[i]
        values = rows.abs().amax(0).float().cpu().numpy()
        largest[name][job.geometries[name].layer_slice(position)] = np.nan_to_num(values, posinf=1.0)

    with quiet_forward(job.model):
        run_batch(job.model, [site for _, _, site in sites], batch, places, keep)
    return largest


def _read(path, geometry):
    scale = geometry.to_array(path).astype(np.float32)
    if not (scale > 0).all():
        raise GeometryMismatchError(f"{path} holds factors that are not positive: it is damaged. Remove it.")
    return scale
