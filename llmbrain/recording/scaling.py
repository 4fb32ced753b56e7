"""Scale factors of neurons for storage as int16."""

import numpy as np

from .. import parallel
from ..exceptions import GeometryMismatchError
from ..files import save_img
from ..models.hooks import evaluating
from .capture import run_batch

_STEPS = 4096  # per largest value seen; values up to eight times as large still fit int16
_TOKENS = 2048  # in which the largest value is searched


def neuron_scales(job, study):
    """Return the float32 factors of each site's neurons, read from the study or measured on the first texts.

    Several processes share the texts; the factors are those of one.
    """
    lacking = [name for name in job.geometries if not study.path("scale", site=name).exists()]
    lacking = parallel.gather({"lacking": lacking})[0]["lacking"]  # others may see what the main process writes below
    for name, largest in _largest(job, lacking).items():
        if not parallel.main_process():
            break
        scale = np.maximum(largest, np.finfo(np.float32).tiny * _STEPS * 2) / _STEPS
        save_img(study.path("scale", site=name), job.geometries[name].to_img(scale))
    parallel.barrier()
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

    with evaluating(job.model):
        for batch, places, _ in parallel.share(_first_batches(job)):
            run_batch(job.model, [site for _, _, site in sites], batch, places, keep)
    for others in parallel.gather(largest):
        largest = {name: np.maximum(values, others[name]) for name, values in largest.items()}
    for name, values in largest.items():
        for layer in range(job.geometries[name].n_layers):
            part = values[job.geometries[name].layer_slice(layer)]
            np.maximum(part, np.median(part) / 4, out=part)
    return largest


def _first_batches(job):
    """Batches of the first texts, until they keep enough tokens."""
    found, n_kept = [], 0
    for batch in (batch for run in job.plan.runs for batch in job.batches(run)):
        found.append(batch)
        n_kept += sum(map(len, batch[1]))
        if n_kept >= _TOKENS:
            break
    return found


def _read(path, geometry):
    scale = geometry.to_array(path).astype(np.float32)
    if not (scale > 0).all():
        raise GeometryMismatchError(f"{path} is damaged: some factors are not positive. Remove the file.")
    return scale
