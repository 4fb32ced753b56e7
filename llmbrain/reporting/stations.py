"""Read what a study may hold beside the main path: numbers of networks tried, dose and response, localizers."""

from dataclasses import dataclass, field

import numpy as np

from ..exceptions import LLMBrainError
from ..files import read_json, read_tsv

__all__ = ["Localizer", "read_stations"]


@dataclass
class Localizer:
    """A contrast of two conditions at every neuron, as its files hold it."""

    name: str
    z: np.ndarray
    selected: np.ndarray
    geometry: object
    info: dict = field(default_factory=dict)

    @property
    def contrast(self):
        """The two conditions, or the name in the files where the description is missing."""
        return tuple(self.info.get("contrast") or (self.name, "the rest"))


def read_stations(study, data):
    """Fill order, doses and localizers of a report from a study folder.

    Parameters
    ----------
    study : Study
    data : ReportData
        Changed in place. What cannot be read is named in ``absent``.
    """
    data.orders = [(desc, read_tsv(path), _json(study, "order_json", desc)) for desc, path in _held(study, "order")]
    data.doses = _doses(study)
    for desc, path in _held(study, "statmap"):
        try:
            data.localizers.append(_localizer(study, desc, path, data.geometry))
        except (LLMBrainError, ValueError, OSError) as error:
            data.absent.append(f"The localizer {desc} cannot be read: {error}")


def _held(study, kind):
    """``(desc, path)`` of all files of a kind, sorted."""
    path = study.path(kind, desc="X")
    before, after = path.name.split("desc-X")
    found = path.parent.glob(f"{before}desc-*{after}")
    return sorted((p.name[len(before) + 5 : len(p.name) - len(after)], p) for p in found)


def _json(study, kind, desc):
    path = study.path(kind, desc=desc)
    return read_json(path) if path.is_file() else {}


def _doses(study):
    from ..lesions.dose import DoseResponse

    found = []
    for desc, path in _held(study, "dose_effects"):
        controls = study.path("dose_controls", desc=desc)
        tables = (read_tsv(p, dtype={"network": str}) if p.is_file() else None for p in (path, controls))
        found.append(DoseResponse(*tables, _json(study, "dose_json", desc)))
    return found


def _localizer(study, desc, path, geometry):
    import nibabel as nib

    from ..geometry import NeuronGeometry
    from ..masks import NeuronMask

    info = _json(study, "statmap_json", desc)
    geometry = NeuronGeometry.from_dict(info["geometry"]) if "geometry" in info else geometry
    if geometry is None:
        raise ValueError("its geometry is not known; save it again, or keep it beside its recording.")
    z = geometry.to_array(nib.load(path))
    mask = study.path("localizer_mask", desc=desc)
    selected = NeuronMask.load(mask).values if mask.is_file() else np.zeros(geometry.n_neurons, bool)
    return Localizer(desc, np.nan_to_num(z), selected, geometry, info)
