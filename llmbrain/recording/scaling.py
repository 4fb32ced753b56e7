"""Scale factors of neurons for storage as int16."""

import numpy as np

from ..exceptions import GeometryMismatchError
from ..files import save_img
from ..models.hooks import evaluating
from .capture import run_batch

_STEPS = 4096  # per largest value seen; values up to eight times as large still fit int16
_TOKENS = 2048  # in which the largest value is searched


def neuron_scales(job, study):
    """Return the float32 factors of each site's neurons, read from the study or measured on the first texts."""
    lacking = [name for name in job.geometries if not study.path("scale", site=name).exists()]
    for name, largest in _largest(job, lacking).items():
        scale = np.maximum(largest, np.finfo(np.float32).tiny * _STEPS * 2) / _STEPS
        save_img(study.path("scale", site=name), job.geometries[name].to_img(scale))
    return {name: _read(study.path("scale", site=name), geometry) for name, geometry in job.geometries.items()}


def _largest(job, names):
    """Largest absolute activation of each neuron in the first texts; at least a quarter of its layer's median.

    The minimum leaves headroom for neurons that happened to be quiet.
    """
    if not names:
        return {}
    sites = [(name, i, site) for name in names for i, site in enumerate(job.sites[name])]
    largest = {name: np.zeros(job.geometries[name].n_neurons, np.float32) for name in names}

    def keep(i, rows):
        name, position, _ = sites[i]
        values = np.nan_to_num(rows.abs().amax(0).float().cpu().numpy(), posinf=0.0)
        part = largest[name][job.geometries[name].layer_slice(position)]
        np.maximum(part, values, out=part)

    seen = 0
    with evaluating(job.model):
        for batch, places, _ in (batch for run in job.plan.runs for batch in job.batches(run)):
            run_batch(job.model, [site for _, _, site in sites], batch, places, keep)
            seen += sum(map(len, places))
            if seen >= _TOKENS:
                break
    for name, values in largest.items():
        for layer in range(job.geometries[name].n_layers):
            part = values[job.geometries[name].layer_slice(layer)]
            np.maximum(part, np.median(part) / 4, out=part)
    return largest


def _read(path, geometry):
    scale = geometry.to_array(path).astype(np.float32)
    if not (scale > 0).all():
        raise GeometryMismatchError(f"{path} is damaged: some factors are not positive. Remove the file.")
    return scale
