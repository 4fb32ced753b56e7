"""What a model weighs, and what a ratio means for it: neurons, MLP, decoder and all parameters."""

import numpy as np

from ..exceptions import ParameterError
from ..models.anatomy import anatomy_of, features
from ..models.surgery import prunable_mlps

__all__ = ["count_parameters", "n_units_to_remove"]


def count_parameters(model, parts=None):
    """Count what pruning changes and what it leaves.

    Parameters
    ----------
    model : transformers.PreTrainedModel
    parts : list of Mlp, optional
        Found if not given.

    Returns
    -------
    dict
        ``neurons``, ``mlp_parameters``, ``decoder_parameters`` (all blocks), ``total_parameters`` (tied weights counted
        once) and ``bytes``.
    """
    if parts is None:
        parts = prunable_mlps(model)
    mlp = {}
    for part in parts:
        for linear in part.linears:
            mlp.update({id(p): p.numel() for p in linear.parameters()})
    decoder = {id(p): p.numel() for layer in anatomy_of(model).layers for p in layer.parameters()}
    everything = {id(p): p for p in model.parameters()}
    return {
        "neurons": sum(features(part.writer)[0] for part in parts),
        "mlp_parameters": sum(mlp.values()),
        "decoder_parameters": sum(decoder.values()),
        "total_parameters": sum(p.numel() for p in everything.values()),
        "bytes": sum(p.numel() * p.element_size() for p in everything.values()),
    }


def n_units_to_remove(parts, counts, ratio, ratio_of, model=None):
    """Neurons to remove for a ratio of neurons, parameters, bytes, or time.

    Parameters
    ----------
    parts : list of Mlp
    counts : dict
        From :func:`count_parameters`.
    ratio : float
    ratio_of : {"neurons", "decoder", "all", "bytes", "latency"}
    model : transformers.PreTrainedModel, optional
        For the latency, which is measured: the same share is taken from every layer until the time of a forward pass
        has fallen by the ratio. That settles the number of neurons before an allocation or a search spreads them; where
        a layer's time is not in proportion to its width, an uneven spread takes somewhat more or less time.

    Returns
    -------
    int
    """
    n_units = sum(part.size for part in parts)
    if ratio_of == "neurons":
        return round(ratio * n_units)
    if ratio_of == "latency":
        return _units_for_latency(model, parts, ratio)
    sizes = [part.writer.weight.element_size() if ratio_of == "bytes" else 1 for part in parts]
    cost = np.average([part.unit_cost * s for part, s in zip(parts, sizes)], weights=[part.size for part in parts])
    total = {"decoder": "decoder_parameters", "all": "total_parameters", "bytes": "bytes"}[ratio_of]
    wanted = ratio * counts[total]
    n_remove = round(wanted / cost)
    if n_remove >= n_units:
        _too_much(ratio, ratio_of, n_units * cost / wanted * ratio)
    return n_remove


def _too_much(ratio, ratio_of, most):
    what = {"bytes": "the bytes", "latency": "the time of a forward pass"}.get(ratio_of, f"{ratio_of} parameters")
    raise ParameterError(f"ratio={ratio} of {what} is more than the MLP neurons hold; below {most:.2f} is possible.")


def _units_for_latency(model, parts, ratio):
    """Neurons to remove, evenly, until the measured time has fallen far enough."""
    from .timing import forward_seconds, layer_latency

    shares = np.linspace(0, 1, 9)[1:]
    total, tables = forward_seconds(model), {}
    for part in parts:
        if part.size not in tables:
            times = layer_latency(part, [max(1, round(s * part.size)) for s in shares])
            # no width takes longer than a wider one: where it seems so, something else ran
            tables[part.size] = np.minimum.accumulate(times[::-1])[::-1]
    seconds = sum(tables[part.size] for part in parts)
    wanted = seconds[-1] - ratio * total
    if wanted <= seconds[0]:
        _too_much(ratio, "latency", (seconds[-1] - seconds[0]) / total)
    kept = float(np.interp(wanted, seconds, shares)) if ratio else 1.0
    return round((1 - kept) * sum(part.size for part in parts))


def compare_counts(before, after):
    """One flat table of both, and the share that went."""
    table = {}
    for name in before:
        table[f"{name}_before"], table[f"{name}_after"] = before[name], after[name]
        table[f"{name}_removed"] = 1 - after[name] / before[name] if before[name] else 0.0
    return table
