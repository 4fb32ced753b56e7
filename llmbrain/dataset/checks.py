"""Is a run what its sidecar says? Asked before anything is computed from it."""

from pathlib import Path

import numpy as np

from ..exceptions import DatasetError, LLMBrainError
from ..files import read_json
from ..geometry import NeuronGeometry

__all__ = ["check_run", "read_sidecar"]

_NEEDED = ("ModelID", "WeightsHash", "Site", "Geometry", "NumberOfTokens", "Run", "DataType")


def check_run(path, weights_hash=None):
    """Compare a run's file, sidecar and events.

    Only headers, file sizes and the events are read, so this is quick for runs of any size.

    Parameters
    ----------
    path : path-like
        The ``_bold.nii`` file.
    weights_hash : str, optional
        Hash of the model that the study is about.

    Raises
    ------
    DatasetError
        Names the file, what is wrong with it, and what to do.
    """
    path = Path(path)
    sidecar = read_sidecar(path)
    try:
        geometry = NeuronGeometry.from_dict(sidecar["Geometry"])
    except LLMBrainError as error:
        raise DatasetError(f"{path.with_suffix('.json')}: {error} {_REMEDY}") from error
    if weights_hash and sidecar["WeightsHash"] != weights_hash:
        raise DatasetError(
            f"{path.name} was recorded from a model with the weights hash {sidecar['WeightsHash']}, the study is about "
            f"{weights_hash}. Move it to the study it belongs to."
        )
    _check_header(path, sidecar, geometry)
    _check_events(path, sidecar)
    if sidecar.get("Scale"):
        _check_scale(path.parent / sidecar["Scale"], geometry)


_REMEDY = "Remove the run's files and record again; the other runs are kept."


def read_sidecar(path):
    """Read the sidecar of a run.

    Parameters
    ----------
    path : path-like
        The run's ``.nii`` or ``.json``.

    Returns
    -------
    dict

    Raises
    ------
    DatasetError
        If one of the two is missing, or the sidecar is not one.
    """
    path = Path(path).with_suffix(".nii")
    if not path.is_file():
        raise DatasetError(f"{path} is missing. {_REMEDY}")
    try:
        sidecar = read_json(path.with_suffix(".json"))
    except FileNotFoundError:
        raise DatasetError(f"{path} has no sidecar: it was not finished, or is not llmbrain's. {_REMEDY}") from None
    except ValueError as error:
        raise DatasetError(f"{path.with_suffix('.json')} is not JSON ({error}). {_REMEDY}") from error
    missing = [key for key in _NEEDED if key not in sidecar]
    if missing:
        raise DatasetError(
            f"{path.with_suffix('.json')} lacks {', '.join(missing)}: not a sidecar of llmbrain. {_REMEDY}"
        )
    wrong = [key for key in ("NumberOfTokens", "Run") if not isinstance(sidecar[key], int) or sidecar[key] < 1]
    if wrong:
        raise DatasetError(f"{path.with_suffix('.json')} says {wrong[0]}={sidecar[wrong[0]]!r}. {_REMEDY}")
    if f"_run-{sidecar['Run']:02d}_" not in path.name:
        raise DatasetError(f"{path} is called another run than its sidecar says ({sidecar['Run']}). {_REMEDY}")
    return sidecar


def _check_header(path, sidecar, geometry):
    import nibabel as nib

    try:
        img = nib.load(path)
    except Exception as error:  # nibabel raises several kinds, all of which mean the same here
        raise DatasetError(f"{path} is not a NIfTI file ({error}). {_REMEDY}") from error
    expected = (*geometry.shape, int(sidecar["NumberOfTokens"]))
    if img.shape != expected:
        raise DatasetError(f"{path} has the shape {img.shape}, its sidecar says {expected}. {_REMEDY}")
    if str(img.get_data_dtype().name) != sidecar["DataType"]:
        raise DatasetError(f"{path} holds {img.get_data_dtype()}, its sidecar says {sidecar['DataType']}. {_REMEDY}")
    size = img.dataobj.offset + geometry.n_voxels * expected[3] * img.get_data_dtype().itemsize
    if path.stat().st_size != size:
        raise DatasetError(f"{path} has {path.stat().st_size} bytes instead of {size}: it is damaged. {_REMEDY}")


def _check_events(path, sidecar):
    events = path.with_name(path.name.split("_desc-")[0] + "_events.tsv")
    if not events.is_file():
        raise DatasetError(f"{events} is missing. {_REMEDY}")
    with open(events, "rb") as file:
        n_lines = sum(1 for _ in file) - 1
    n_tokens = int(sidecar["NumberOfTokens"])
    if n_lines != n_tokens:
        raise DatasetError(f"{events} describes {n_lines} tokens, {path.name} holds {n_tokens}. {_REMEDY}")


def _check_scale(path, geometry):
    """The factors of int16: without them a run cannot be read, with others its numbers would be wrong."""
    import nibabel as nib

    remedy = "Restore it, or record into a new folder."
    if not path.is_file():
        raise DatasetError(f"{path} is missing: it holds the factor of each neuron of the int16 runs. {remedy}")
    try:
        shape = np.asarray(nib.load(path).dataobj).shape  # all of it: a truncated one has a whole header
    except Exception as error:  # nibabel raises several kinds, all of which mean the same here
        raise DatasetError(f"{path} is not a NIfTI file ({error}). {remedy}") from error
    if shape != geometry.shape:
        raise DatasetError(f"{path} has the shape {shape}, the runs have volumes of {geometry.shape}. {remedy}")
