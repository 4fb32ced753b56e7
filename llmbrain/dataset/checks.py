"""Checks of a run and of the names in a study, made before anything is computed from them."""

from pathlib import Path

import numpy as np

from ..exceptions import DatasetError, LLMBrainError
from ..files import KEY_HASHES, as_path, changed_key, read_json, read_tsv, sha256
from ..geometry import NeuronGeometry
from .checksums import checksums, hash_sums, sampled, volume_sums
from .layout import bids_label, events_of

_NEEDED = (
    "ModelID", "WeightsHash", "Site", "Geometry", "NumberOfTokens", "Run", "DataType", "Checksums", "EventsHash",
)  # fmt: skip
_AT_ONCE = 1 << 26  # bytes that a thorough check holds in memory
_REMEDY = "Remove the run's files and record again; the other runs are kept."


def check_run(path, weights_hash=None):
    """Check that a run's file, sidecar and events agree.

    Only headers, file sizes and the events are read, so this is quick for runs of any size. :func:`check_content`
    reads the activations.

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
    path = as_path(path)
    sidecar = read_sidecar(path)
    try:
        geometry = NeuronGeometry.from_dict(sidecar["Geometry"])
    except LLMBrainError as error:
        raise DatasetError(f"{path.with_suffix('.json')}: {error} {_REMEDY}") from error
    if weights_hash and sidecar["WeightsHash"] != weights_hash:
        raise DatasetError(
            f"{path.name} was recorded from a model with the weights hash {sidecar['WeightsHash']}; this study is of "
            f"{weights_hash}. Move the run to the study it belongs to."
        )
    _check_header(path, sidecar, geometry)
    _check_events(path, sidecar)
    if sidecar.get("Scale"):
        _check_scale(inside_study(path, sidecar["Scale"]), geometry, sidecar.get("ScaleHash"))


def check_content(path, thorough=False):
    """Compare the activations of a run with the checksums that were taken while it was recorded.

    Parameters
    ----------
    path : path-like
        The ``_bold.nii`` file; :func:`check_run` has passed it.
    thorough : bool
        Read every volume. By default 64 evenly spaced volumes are read, which finds any damaged stretch of a 64th of
        the run.

    Raises
    ------
    DatasetError
    """
    path = as_path(path)
    sidecar = read_sidecar(path)
    geometry, n_tokens = NeuronGeometry.from_dict(sidecar["Geometry"]), sidecar["NumberOfTokens"]
    img = geometry.open_img(path)
    volumes = np.memmap(path, img.get_data_dtype(), "r", img.dataobj.offset, (n_tokens, geometry.n_voxels))
    if thorough:
        step = max(1, _AT_ONCE // (geometry.n_voxels * volumes.itemsize))
        sums = np.concatenate([volume_sums(volumes[k : k + step]) for k in range(0, n_tokens, step)])
        same = checksums(sums)["All"] == sidecar["Checksums"]["All"]
    else:
        same = hash_sums(volume_sums(volumes[sampled(n_tokens)])) == sidecar["Checksums"]["Sample"]
    if not same:
        raise DatasetError(f"{path} is damaged: its activations have changed since they were recorded. {_REMEDY}")


def read_object(path):
    """Read a JSON file that must hold an object; a damaged file raises :class:`DatasetError`."""
    try:
        content = read_json(path)
    except ValueError as error:
        raise DatasetError(f"{path} is not JSON ({error}). Restore it, or make it again.") from error
    if not isinstance(content, dict):
        raise DatasetError(f"{path} holds {type(content).__name__}, not a JSON object. Restore it, or make it again.")
    return content


def read_own(path, remedy="Restore it, or make it again."):
    """Read a JSON file that was written :func:`~llmbrain.files.with_hashes`, a dict without them.

    Raises
    ------
    DatasetError
        If it is damaged, or a value has changed since it was written.
    """
    content = read_object(path)
    _refuse_changed(path, content, remedy)
    del content[KEY_HASHES]
    return content


def _refuse_changed(path, content, remedy):
    key = changed_key(content)
    if key == KEY_HASHES:
        raise DatasetError(f"{path} lacks {KEY_HASHES}, the hashes of its values. {remedy}")
    if key:
        raise DatasetError(f"{path} is damaged: {key!r} has changed since it was written. {remedy}")


def read_table(path, dtype=None):
    """Read a table; a damaged file raises :class:`DatasetError`."""
    try:
        return read_tsv(path, dtype=dtype)
    except ValueError as error:  # pandas: no columns, rows of another length, another encoding, text for a number
        reason = str(error).strip().rstrip(".")
        raise DatasetError(f"{path} cannot be read as a table ({reason}). Restore it, or make it again.") from error


def read_sidecar(path):
    """Read and check the sidecar of a run, given its ``.nii`` or ``.json``; returns a dict."""
    path = as_path(path).with_suffix(".nii")
    side = path.with_suffix(".json")
    if not path.is_file():
        raise DatasetError(f"{path} is missing. {_REMEDY}")
    try:
        sidecar = read_json(side)
    except FileNotFoundError:
        raise DatasetError(f"{path} has no sidecar: it is unfinished, or not a run of llmbrain. {_REMEDY}") from None
    except ValueError as error:
        raise DatasetError(f"{side} is not JSON ({error}). {_REMEDY}") from error
    if not isinstance(sidecar, dict):
        raise DatasetError(f"{side} holds {type(sidecar).__name__}, not a JSON object. {_REMEDY}")
    missing = [key for key in _NEEDED if key not in sidecar]
    if missing:
        raise DatasetError(f"{side} lacks {', '.join(missing)}: it is not a sidecar of llmbrain. {_REMEDY}")
    _refuse_changed(side, sidecar, _REMEDY)
    if f"_run-{sidecar['Run']:02d}_" not in path.name:
        raise DatasetError(f"{path} is named after another run than its sidecar says ({sidecar['Run']}). {_REMEDY}")
    if f"_desc-{bids_label(sidecar['Site'])}_" not in path.name:
        raise DatasetError(f"{path} is named after another site than its sidecar says ({sidecar['Site']}). {_REMEDY}")
    return sidecar


def inside_study(path, name):
    """Path of a file that the sidecar of ``path`` names; it must lie in the same study, with links resolved."""
    side = path.with_suffix(".json")
    if not isinstance(name, str) or Path(name).is_absolute():
        raise DatasetError(f"{side} names the file {name!r}; only paths relative to its folder are allowed.")
    folder = path.parent
    root = next((parent for parent in path.parents if (parent / "study.json").is_file()), folder)
    named = folder / name
    if not named.resolve().is_relative_to(root.resolve()):
        raise DatasetError(f"{side} names the file {name!r}, which lies outside of the study {root}.")
    return named


def _check_header(path, sidecar, geometry):
    try:
        img = geometry.open_img(path)
    except LLMBrainError as error:
        raise DatasetError(f"{error} {_REMEDY}") from error
    expected = (*geometry.shape, int(sidecar["NumberOfTokens"]))
    if img.shape != expected:
        raise DatasetError(f"{path} has the shape {img.shape}, its sidecar says {expected}. {_REMEDY}")
    if str(img.get_data_dtype().name) != sidecar["DataType"]:
        raise DatasetError(f"{path} holds {img.get_data_dtype()}, its sidecar says {sidecar['DataType']}. {_REMEDY}")
    size = img.dataobj.offset + geometry.n_voxels * expected[3] * img.get_data_dtype().itemsize
    if path.stat().st_size != size:
        raise DatasetError(f"{path} has {path.stat().st_size} bytes instead of {size}: it is damaged. {_REMEDY}")


def _check_events(path, sidecar):
    events = events_of(path)
    if not events.is_file():
        raise DatasetError(f"{events} is missing. {_REMEDY}")
    with open(events, "rb") as file:
        n_lines = sum(1 for _ in file) - 1
    n_tokens = int(sidecar["NumberOfTokens"])
    if n_lines != n_tokens:
        raise DatasetError(f"{events} describes {n_lines} tokens, {path.name} holds {n_tokens}. {_REMEDY}")
    if sha256(events) != sidecar["EventsHash"]:
        raise DatasetError(f"{events} does not fit {path.name}: its content has changed since. {_REMEDY}")


def _check_scale(path, geometry, known):
    """Check the scaling factors of int16 runs; without the right ones the values cannot be read."""
    remedy = "Restore it, or record into a new folder."
    if not path.is_file():
        raise DatasetError(f"{path} is missing: it holds the factor of each neuron of the int16 runs. {remedy}")
    if known is not None and sha256(path) != known:
        raise DatasetError(f"{path} has changed since the runs were recorded. {remedy}")
    try:
        geometry.to_array(path)  # reads all data: a truncated file may have a whole header
    except LLMBrainError as error:
        raise DatasetError(f"{error} {remedy}") from error
