"""The display order of a report, from one half of a recording, and the maps of the other half."""

import numpy as np

__all__ = ["BYTES", "display_order", "half_name", "half_of", "other_half"]

BYTES = 3e8  # of activity that a report reads at once, for the carpet and for the display order


def display_order(data, recording, wanted, study=None):
    """The display order: the one that is asked for, the one the study holds, or a new one from half of the data."""
    from ..topography import Topography, fit_topography, loadings_from_maps

    if wanted is None or data.networks is None:
        return None
    if wanted != "auto":
        data.networks.geometry.check_same(wanted.geometry, "The topography")
        return wanted
    path = None if study is None else study.path("topography", site=data.networks.geometry.site)
    if path is not None and path.is_file():
        topography = Topography.load(path)
        if topography.geometry == data.networks.geometry:
            return topography
    if recording is not None and recording.geometry == data.networks.geometry:
        features, source = loadings_from_maps(half_of(recording), data.networks.maps), half_name(recording)
    else:
        features, source = np.asarray(data.networks.maps), "the shown maps themselves"
    topography = fit_topography(features, data.networks.geometry, source=source)
    if path is not None:
        topography.save(path)
    return topography


def half_of(recording, second=False, budget=BYTES):
    """Activity of one half of a recording, thinned to a budget of bytes and z-scored in each run.

    With several runs every other one, else one half of the tokens.
    """
    n = max(60, int(budget / (4 * recording.geometry.n_neurons)))
    if len(recording) == 1:
        run, half = recording[0], recording[0].n_tokens // 2
        start, stop = (half, run.n_tokens) if second else (0, max(half, 1))
        return _standard(run.to_array(start, min(start + n, stop)))
    runs = recording[int(second) :: 2]
    each = -(-n // len(runs))
    return np.concatenate([_standard(run.to_array(0, min(each, run.n_tokens))) for run in runs])


def half_name(recording, second=False):
    """Name of what :func:`half_of` takes."""
    if len(recording) == 1:
        half = recording[0].n_tokens // 2
        return f"the last {recording[0].n_tokens - half} tokens" if second else f"the first {half} tokens"
    runs = recording[int(second) :: 2]
    names = ", ".join(str(run.index) for run in runs[:12]) + (" …" if len(runs) > 12 else "")
    return f"the {'even' if second else 'odd'} runs ({names})"


def _standard(activity):
    centred = activity - activity.mean(axis=0)
    return centred / np.maximum(centred.std(axis=0), 1e-6)


def other_half(data, recording):
    """Maps of the half that the display order has not seen, so that blobs in them are not made by the sorting."""
    from ..topography import loadings_from_maps

    source = str(data.topography.info.get("source")) if data.topography is not None else ""
    if recording is None or recording.geometry != data.networks.geometry or half_name(recording) != source:
        return None
    return loadings_from_maps(half_of(recording, second=True), data.networks.maps), half_name(recording, second=True)
