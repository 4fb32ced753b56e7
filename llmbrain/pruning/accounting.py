"""What a model weighs, and what a ratio means for it: neurons, MLP, decoder and all parameters."""

import numpy as np

from ..exceptions import ParameterError
from ..models.sites import find_decoder_layers

__all__ = ["count_parameters", "n_units_to_remove"]


def count_parameters(model, parts=None):
    """Count what pruning changes and what it leaves.

    Parameters
    ----------
    model : transformers.PreTrainedModel
    parts : list of MLPPart, optional
        Found if not given.

    Returns
    -------
    dict
        ``neurons``, ``mlp_parameters``, ``decoder_parameters`` (all blocks), ``total_parameters`` (tied weights counted
        once) and ``bytes``.
    """
    if parts is None:
        from .units import find_mlp_parts

        parts = find_mlp_parts(model)
    mlp = {}
    for part in parts:
        for module in (part.down, *(m for _, m, _ in part.readers)):
            mlp.update({id(p): p.numel() for p in module.parameters()})
    decoder = {id(p): p.numel() for layer in find_decoder_layers(model)[1] for p in layer.parameters()}
    everything = {id(p): p for p in model.parameters()}
    return {
        "neurons": sum(part.down.weight.numel() // _width(part) for part in parts),
        "mlp_parameters": sum(mlp.values()),
        "decoder_parameters": sum(decoder.values()),
        "total_parameters": sum(p.numel() for p in everything.values()),
        "bytes": sum(p.numel() * p.element_size() for p in everything.values()),
    }


def _width(part):
    from .units import features

    return features(part.down)[1]


def n_units_to_remove(parts, counts, ratio, ratio_of):
    """Neurons to remove for a ratio of neurons, decoder parameters or all parameters.

    Parameters
    ----------
    parts : list of MLPPart
    counts : dict
        From :func:`count_parameters`.
    ratio : float
    ratio_of : {"neurons", "decoder", "all"}

    Returns
    -------
    int
    """
    n_units = sum(part.size for part in parts)
    if ratio_of == "neurons":
        return round(ratio * n_units)
    cost = np.average([part.unit_cost for part in parts], weights=[part.size for part in parts])
    wanted = ratio * counts["decoder_parameters" if ratio_of == "decoder" else "total_parameters"]
    n_remove = round(wanted / cost)
    if n_remove >= n_units:
        most = n_units * cost / wanted * ratio
        raise ParameterError(
            f"ratio={ratio} of {ratio_of} parameters is more than the MLP neurons hold; below {most:.2f} is possible."
        )
    return n_remove


def compare_counts(before, after):
    """One flat table of both, and the share that went."""
    table = {}
    for name in before:
        table[f"{name}_before"], table[f"{name}_after"] = before[name], after[name]
        table[f"{name}_removed"] = 1 - after[name] / before[name] if before[name] else 0.0
    return table
