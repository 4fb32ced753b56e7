"""Parts of a model that are decomposed separately: the whole model, each layer, or windows of layers."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..exceptions import MaskError, ParameterError, ParameterTypeError
from ..parallel import alone, gather, share, world_size
from .engines.group import GroupICA
from .engines.parallel import hand_back, temporary
from .engines.sources import as_slice

_LISTS = ("time_courses", "initial")  # fields of GroupICA that hold several arrays


@dataclass
class Part:
    """Neurons that are decomposed together."""

    neurons: np.ndarray  # flat indices, ascending
    layers: np.ndarray  # bool (n_layers,)


@dataclass
class Parts:
    """Combined decompositions of all parts."""

    maps: np.ndarray
    variance: np.ndarray
    stability: np.ndarray
    n_iter: np.ndarray
    converged: np.ndarray
    dead: np.ndarray
    time_courses: list
    support: np.ndarray
    group: str
    flat: bool
    tail_weights: list  # of dict, one per part
    initial: list  # neurons, initial maps and loadings of each part of a dictionary


def parts_of(geometry, scope, mask=None):
    """Cut the neurons into parts: the whole model, each layer, or all windows of ``scope`` consecutive layers.

    ``mask`` (a NeuronMask, image, path or nilearn masker) restricts the neurons.
    """
    allowed = _allowed(geometry, mask)
    n = geometry.n_layers
    if scope == "model":
        width = n
    elif scope == "layer":
        width = 1
    elif isinstance(scope, (int, np.integer)) and not isinstance(scope, bool) and 1 <= scope <= n:
        width = int(scope)
    else:
        raise ParameterError(f"scope must be 'model', 'layer' or a window of 1 to {n} layers; got {scope!r}.")
    neurons, numbers = np.flatnonzero(allowed), np.arange(n)
    cuts = np.searchsorted(neurons, geometry.offsets)
    return [
        Part(neurons[cuts[first] : cuts[first + width]], (numbers >= first) & (numbers < first + width))
        for first in range(n - width + 1)
    ]


def _allowed(geometry, mask):
    if mask is None:
        return np.ones(geometry.n_neurons, bool)
    if hasattr(mask, "values") and hasattr(mask, "geometry"):
        geometry.check_same(mask.geometry, "The mask")
        allowed = mask.values
    else:
        img = getattr(mask, "mask_img_", getattr(mask, "mask_img", mask))
        if not isinstance(img, (str, Path)) and not hasattr(img, "dataobj"):
            raise ParameterTypeError(
                "'mask' must be of type NeuronMask, image or path, or a masker that has a mask image; "
                f"got {type(mask).__name__}."
            )
        allowed = geometry.to_array(img) > 0
    if not allowed.any():
        raise MaskError("The mask holds no neuron.")
    return np.asarray(allowed, bool)


def _read(runs, part, whole):
    if not whole:
        neurons = part.neurons
        if runs.order is not None:  # in the order of the files, which reads forwards only
            chosen = np.zeros(runs.geometry.n_neurons, bool)
            chosen[neurons] = True
            neurons = runs.order[chosen[runs.order]]
        return runs.part(neurons), neurons
    return runs.sources, part.neurons if runs.order is None else runs.order


def decompose_parts(runs, parts, decompose, batch=None):
    """Decompose every part and combine the maps in the flat order of neurons.

    ``decompose`` takes the sources of a part and the flat indices of its neurons in reading order, and returns a
    :class:`~llmbrain.networks.engines.group.GroupICA`. ``batch`` takes the sources of all parts and the numbers of
    some, and decomposes these at once, or returns None if it cannot. Several processes share the parts, or the neurons
    of a single part.
    """
    from .evidence.stability import restart_stability

    n_neurons = runs.geometry.n_neurons
    whole = len(parts) == 1 and len(parts[0].neurons) == n_neurons
    read = [_read(runs, part, whole) for part in parts]
    if len(parts) > 1 and world_size() > 1:
        results = _shared(read, decompose, batch)
    else:
        results = _results(read, range(len(read)), decompose, batch)
    hand_back()
    # numpy's zeros would lie in huge pages, of which each layer touches one in every map
    maps = None if whole else temporary(sum(len(r.maps) for r in results), n_neurons).numpy()
    dead, first = np.zeros(n_neurons, bool), 0
    for (_, neurons), result in zip(read, results):
        rows = slice(first, first + len(result.maps))
        if whole:
            maps = result.maps
            if runs.order is not None:
                for row in maps:  # in place: a second copy may not fit into memory
                    row[runs.order] = row.copy()
            dead = runs.flat_order(result.dead)
        else:
            maps[rows, as_slice(neurons)] = result.maps
            dead[neurons] |= result.dead
        first += len(result.maps)
    single = len(results) == 1
    return Parts(
        maps=maps,
        variance=np.concatenate([r.variance * len(p.neurons) / n_neurons for p, r in zip(parts, results)]),
        stability=np.concatenate([restart_stability(r.rotations, r.chosen) for r in results]),
        n_iter=results[0].n_iter if single else np.stack([r.n_iter for r in results]),
        converged=results[0].converged if single else np.stack([r.converged for r in results]),
        dead=dead,
        time_courses=[np.hstack(c) for c in zip(*(r.time_courses for r in results))],
        support=None if whole else np.repeat([p.layers for p in parts], [len(r.maps) for r in results], axis=0),
        group=results[0].group,
        flat=any(r.flat for r in results),
        tail_weights=[r.tail_weights for r in results],
        initial=[(neurons, *r.initial) for (_, neurons), r in zip(read, results) if r.initial],
    )


def _results(read, numbers, decompose, batch):
    """Decompositions of some of the parts."""
    found = batch([sources for sources, _ in read], numbers) if batch and len(numbers) else None
    return [decompose(*read[i]) for i in numbers] if found is None else found


def _shared(read, decompose, batch):
    """Decompositions of all parts, each made by one process."""
    numbers = share(range(len(read)))
    with alone():
        own = dict(zip(numbers, _results(read, numbers, decompose, batch)))
    found = {}
    for i in range(-(-len(read) // world_size())):  # one part of each process at a time, which takes least memory
        some = {"part": numbers[i], **_to_record(own[numbers[i]])} if i < len(numbers) else {}
        found |= {record.pop("part"): _from_record(record) for record in gather(some) if record}
    return [found[i] for i in range(len(read))]


def _to_record(found):
    """A decomposition as arrays and plain values."""
    record = {name: value for name, value in vars(found).items() if name not in _LISTS}
    for name in _LISTS:
        record |= {f"{name} {i}": array for i, array in enumerate(getattr(found, name) or ())}
    return record


def _from_record(record):
    lists = {name: [record.pop(key) for key in list(record) if key.startswith(f"{name} ")] for name in _LISTS}
    return GroupICA(**record, **{name: arrays or None for name, arrays in lists.items()})
