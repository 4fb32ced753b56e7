"""The maps of a report as data for its canvas: two bytes per neuron, and the display order."""

import base64
import json

import numpy as np

MOST_VALUES = 4_000_000  # of all maps together; larger reports show pictures only


def map_data(maps, geometry, topography=None, threshold=3.0):
    """Write maps ``(n_maps, n_neurons)`` as JSON for ``maps.js``, or None if they are too many for a page.

    Examples
    --------
    >>> from llmbrain.geometry import NeuronGeometry
    >>> data = json.loads(map_data(np.array([[1.0, -2.0]]), NeuronGeometry((2,))))
    >>> np.frombuffer(base64.b64decode(data["maps"][0]["values"]), np.int16).tolist(), data["maps"][0]["scale"]
    ([16384, -32767], 2.0)
    """
    maps = np.asarray(maps, np.float32)
    if maps.size > MOST_VALUES:
        return None
    data = {
        "sizes": list(geometry.sizes), "layers": list(geometry.layers), "shape": list(geometry.shape),
        "threshold": float(threshold), "maps": [_packed(row) for row in maps],
    }  # fmt: skip
    if topography is not None:
        data |= {"cells": _text(topography.cells, np.uint32), "rank": _text(topography.rank(), np.uint32)}
    return json.dumps(data, separators=(",", ":"))


def _packed(row):
    scale = max(float(np.abs(row).max(initial=0)), 1e-6)
    return {"scale": round(scale, 6), "values": _text(np.rint(row / scale * 32767), np.int16)}


def _text(values, dtype):
    return base64.b64encode(np.ascontiguousarray(values, dtype).tobytes()).decode()
