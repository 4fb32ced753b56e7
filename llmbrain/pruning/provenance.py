"""What a result says about its making: which networks, which settings, and where it departs from its recipe."""

import hashlib
import json

import numpy as np

from .recipe import RECIPES, make_options

__all__ = ["describe_networks", "name_recipe", "networks_id", "settings_hash"]

# Options that say how much text is read at a time and in all, not what is done with it.
_READING = ("context", "n_tokens", "batch_size", "network_tokens")


def networks_id(networks):
    """What tells networks from others: the name of those that are found on the calibration text, else a content hash.

    Parameters
    ----------
    networks : NetworkSet, LayerMaps, array, str or None

    Returns
    -------
    str or None

    Examples
    --------
    >>> networks_id("joint")
    'joint'
    >>> networks_id([[0.0, 1.0]]) == networks_id(np.array([[0.0, 1.0]]))
    True
    """
    if networks is None or isinstance(networks, str):
        return networks
    layers = getattr(networks, "maps", None)
    if not isinstance(layers, list):
        layers = [networks.z if hasattr(networks, "z") else networks]
    digest = hashlib.sha256()
    for layer in layers:
        values = layer.detach().cpu().numpy() if hasattr(layer, "detach") else layer
        values = np.ascontiguousarray(values, dtype=np.float64)
        digest.update(str(values.shape).encode())
        digest.update(values)
    return digest.hexdigest()[:16]


def describe_networks(networks, info=None):
    """Networks as plain values, for the summary of a pruned model.

    Parameters
    ----------
    networks : NetworkSet, LayerMaps, array, str or None
        As they were given.
    info : dict, optional
        What is known of networks that were found on the calibration text.

    Returns
    -------
    dict or None
        ``kind`` ("published", "layers", "joint", "NetworkSet", "LayerMaps" or "maps"), for given maps their ``hash``,
        and the plain values of their account.
    """
    if networks is None:
        return None
    if isinstance(networks, str):
        return {"kind": networks, **_plain(info)}
    kind = type(networks).__name__ if hasattr(networks, "z") else "maps"
    info = getattr(networks, "info", None) if info is None else info
    return {"kind": kind, "hash": networks_id(networks), **_plain(info)}


def _plain(info):
    """The entries that JSON holds and that are short."""
    found = {}
    for name, value in (info or {}).items():
        text = json.dumps(value, default=str)
        if len(text) <= 500:
            found[name] = json.loads(text)
    return found


def settings_hash(options, networks=None):
    """Short hash of all options, and of the networks where they are read.

    Parameters
    ----------
    options : Options or dict
    networks : optional
        None where nothing reads them.

    Returns
    -------
    str
        Begins with a letter, so that no table takes it for a number.

    Examples
    --------
    >>> settings_hash({}) == settings_hash({"floor": 0.05}) != settings_hash({"floor": 0.1})
    True
    """
    text = json.dumps([make_options(options).to_dict(), networks_id(networks)], sort_keys=True)
    return "s" + hashlib.sha256(text.encode()).hexdigest()[:15]


def name_recipe(recipe, score, allocation, compensation, options):
    """The name of a recipe, with what was changed of it.

    How much text is read (context, tokens, windows at a time) is no part of a recipe.

    Parameters
    ----------
    recipe : str
    score, allocation, compensation
        What was done.
    options : Options

    Returns
    -------
    str

    Examples
    --------
    >>> name_recipe("fast", "flap", "uniform", "affine", {"token_weights": "stream", "n_tokens": 2048})
    'fast, changed: allocation=uniform'
    """
    own = RECIPES[recipe]
    done = {"score": score, "allocation": allocation, "compensation": compensation}
    done = {name: value if isinstance(value, str) else "given" for name, value in done.items()}
    changed = {name: value for name, value in done.items() if value != own[name]}
    plain = make_options(own["options"]).to_dict()
    for name, value in make_options(options).to_dict().items():
        if name not in _READING and value != plain[name]:
            changed[name] = value
    return recipe if not changed else f"{recipe}, changed: " + ", ".join(f"{k}={v}" for k, v in changed.items())
