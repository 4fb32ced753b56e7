"""Parts of a model (layers, windows) decomposed in one batch on a GPU, with the results of :func:`group_ica`."""

import torch

from ...exceptions import ParameterError
from .group import GroupICA, check_n_components, order_maps, say_convergence, say_dead
from .ica import layered_ica
from .runs import CleanedRuns

__all__ = ["can_batch", "group_ica_of_parts"]


def can_batch(parts, device, group, contrast):
    """Whether parts can be decomposed in one batch: a GPU, equal widths, all tokens at once, the cube."""
    if device is None or torch.device(device).type != "cuda" or len(parts) < 2:
        return False
    widths = {sources[0].n_neurons for sources in parts}
    return len(widths) == 1 and contrast == "cube" and (group == "tokens" or len(parts[0]) == 1)


def group_ica_of_parts(
    parts,
    n_components=20,
    *,
    confounds=None,
    n_init=10,
    max_iter=200,
    tol=1e-4,
    detrend=False,
    standardize=True,
    random_state=0,
    device="cuda",
    dtype=torch.bfloat16,
    warn=True,
):
    """Decompose every part by itself, as :func:`~llmbrain.networks.group_ica` with ``group="tokens"`` would.

    Parameters
    ----------
    parts : list of list of ArraySource
        The runs of every part; all parts have the same number of neurons.
    dtype : torch.dtype
        Type in which the cleaned tokens lie on the device.
    n_components, confounds, n_init, max_iter, tol, detrend, standardize, random_state, device, warn
        See :func:`~llmbrain.networks.group_ica`.

    Returns
    -------
    list of GroupICA
    """
    data = [
        CleanedRuns(sources, confounds, detrend=detrend, standardize=standardize, device=device) for sources in parts
    ]
    check_n_components(n_components, data[0].n_tokens, data[0].n_neurons)
    found = layered_ica(
        (d.stacked(0, d.n_neurons).to(dtype) for d in data),
        n_components,
        n_init=n_init,
        standardize=False,
        max_iter=max_iter,
        tol=tol,
        random_state=random_state,
    )
    values = found.values.sqrt().cpu().numpy()
    if not torch.isfinite(found.maps).all():
        raise ParameterError(f"n_components={n_components}, but a part has fewer independent directions than that.")
    results = [_result(d, found, i, values[i]) for i, d in enumerate(data)]
    if warn:
        for d, result in zip(data, results):
            say_dead(torch.from_numpy(result.dead), d)
        say_convergence(found.converged.cpu().numpy(), float(found.change.max()))
    return results


def _result(data, found, i, values):
    dead = data.dead().numpy()
    maps = found.maps[i].cpu().numpy()
    maps[:, dead] = 0
    maps, courses, variance = order_maps(data, maps)
    return GroupICA(
        maps=maps,
        variance=variance,
        n_iter=found.n_iter[i].cpu().numpy(),
        converged=found.converged[i].cpu().numpy(),
        chosen=int(found.chosen[i]),
        singular_values=values,
        dead=dead,
        n_nonfinite=int(data.bad.sum()),
        time_courses=courses,
        rotations=found.rotations[i].cpu().numpy(),
        whitened=None,
        group="tokens",
    )
