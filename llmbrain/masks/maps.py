"""What masks are made of: maps that can be cut, and what is known of their origin."""

import numpy as np

from ..exceptions import GeometryMismatchError, MaskError

__all__ = ["checked_map", "merged_info"]


def checked_map(map, geometry):
    """Take a map as floats, one value a neuron and none NaN.

    Parameters
    ----------
    map : array of shape (n_neurons,)
    geometry : NeuronGeometry

    Returns
    -------
    float array of shape (n_neurons,)
    """
    values = np.asarray(map, dtype=float)
    if values.shape != (geometry.n_neurons,):
        raise GeometryMismatchError(
            f"A map needs one value for each of the {geometry.n_neurons} neurons; got shape {values.shape}."
        )
    if np.isnan(values).any():
        raise MaskError(f"The map holds {int(np.isnan(values).sum())} NaN; a threshold means nothing there.")
    return values


def merged_info(a, b):
    """What is known of a set made of two: what they agree on, what one alone knows, and the texts of both.

    Parameters
    ----------
    a, b : dict

    Returns
    -------
    dict
    """
    merged = {k: v for k, v in {**b, **a}.items() if a.get(k, v) == b.get(k, v)}
    texts = {h for info in (a, b) for h in np.atleast_1d(info.get("corpus_hash", [])).tolist()}
    if texts:
        merged["corpus_hash"] = texts.pop() if len(texts) == 1 else sorted(texts)
    documents = {h for info in (a, b) for h in info.get("document_hashes", [])}
    return merged | ({"document_hashes": sorted(documents)} if documents else {})
