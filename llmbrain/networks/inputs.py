"""Inputs of ``fit`` and ``transform`` as runs that can be read in blocks, with their geometry."""

import glob
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..exceptions import DatasetError, GeometryMismatchError, ParameterError
from ..files import as_path, read_json
from ..geometry import NeuronGeometry
from ..images import load_img
from .engines.sources import ArraySource


@dataclass(frozen=True)
class GridGeometry(NeuronGeometry):
    """Geometry of volumes of any shape, such as those of other programs: every voxel is a neuron."""

    grid: tuple = None  # rows, cols

    @property
    def shape(self):
        """Shape of a volume, ``(n_layers, rows, cols)``."""
        return (len(self.sizes), *self.grid)

    def to_dict(self):
        """Describe the geometry with plain lists and strings (for JSON)."""
        return {**super().to_dict(), "grid": list(self.grid)}


def geometry_from_dict(d):
    """Rebuild a geometry of either kind from its ``to_dict``."""
    if "grid" in d:
        return grid_geometry((len(d["sizes"]), *d["grid"]))
    return NeuronGeometry.from_dict(d)


def grid_geometry(shape):
    """Geometry of images without a sidecar: positions on axis 0 are layers, voxels are neurons."""
    layers, rows, cols = (int(n) for n in shape)
    plain = NeuronGeometry.from_sizes([rows * cols] * layers)
    return plain if plain.shape == (layers, rows, cols) else GridGeometry(plain.sizes, grid=(rows, cols))


@dataclass
class Runs:
    """Runs of one site that can be read in blocks."""

    sources: list  # of ArraySource, one per run
    geometry: NeuronGeometry
    # Flat index of each neuron in reading order; None if that is the flat order. Files are read in their own order, on
    # which no step of the decomposition depends, and only the final maps are reordered.
    order: np.ndarray
    images: list  # of callables that return a run as an image or path for nilearn
    info: dict = field(default_factory=dict)  # model, corpus and files of the runs
    recording: object = None  # the Recording, or what else holds the runs

    @property
    def n_tokens(self):
        """Tokens of each run, a list."""
        return [s.n_tokens for s in self.sources]

    @property
    def dtypes(self):
        """Types of the values of each run, a list; float32 for integers that have scaling factors."""
        return [np.dtype(np.float32) if s.scale is not None else s.open().dtype for s in self.sources]

    def read_order(self, maps):
        """Reorder maps ``(n, n_neurons)`` from the flat order to the reading order."""
        return maps if self.order is None else maps[..., self.order]

    def flat_order(self, maps):
        """Reorder maps from the reading order to the flat order of neurons."""
        if self.order is None:
            return maps
        out = np.empty_like(maps)
        out[..., self.order] = maps
        return out

    def part(self, neurons):
        """Sources restricted to the flat indices ``neurons``, in their order."""
        rank = np.empty(self.geometry.n_neurons, int)
        rank[np.arange(len(rank)) if self.order is None else self.order] = np.arange(len(rank))
        where = rank[neurons]
        columns = [where if s.columns is None else s.columns[where] for s in self.sources]
        return [ArraySource(s.open, s.n_tokens, len(where), c, s.scaled(where)) for s, c in zip(self.sources, columns)]


@dataclass
class _Item:
    """One run before the common order is known."""

    open: object
    n_tokens: int
    geometry: NeuronGeometry
    columns: np.ndarray  # column of each neuron in flat order, or None
    image: object
    on_disk: bool = False
    scale: np.ndarray = None


def load_runs(runs, geometry=None):
    """Turn any object that holds runs into :class:`Runs`.

    Accepts a Recording, a Run, a Study, a folder (a study), a NIfTI image, a ``.npy`` file, an array
    ``(n_tokens, n_neurons)``, or a list of runs, images, files or arrays. ``geometry`` is that of arrays and of images
    without a sidecar; arrays without a geometry are one layer. A path may be a pattern that names several files.
    :class:`Runs` are returned unchanged.
    """
    if isinstance(runs, Runs):
        return runs
    info, given = {}, runs
    runs = open_study(_expand(runs))
    if hasattr(runs, "study") and hasattr(runs, "runs"):  # a Recording
        info = _describe(runs)
        runs = list(runs.runs)
    elif not isinstance(runs, (list, tuple)):
        runs = [runs]
    if not len(runs):
        raise ParameterError("The list of runs is empty; pass at least one recording, image or array.")
    items = []
    for i, run in enumerate(runs):
        item = _item(run, geometry, i)
        first = items[0].geometry if items else geometry
        if first is not None and item.geometry != first:
            first.check_same(item.geometry, f"Run {i}")
        items.append(item)
    return _common_order(items, info, given)


def _expand(runs):
    """Replace a pattern such as ``study/*_bold.nii`` by the files that match it, sorted by name."""
    if not isinstance(runs, (str, Path)) or not glob.has_magic(str(runs)) or Path(runs).exists():
        return runs
    found = sorted(glob.glob(str(runs)))
    if not found:
        raise DatasetError(f"No file matches the pattern {str(runs)!r}.")
    return found


def open_study(runs):
    """Open the recording of a folder or a Study; other objects are returned unchanged."""
    if isinstance(runs, (str, Path)) and Path(runs).is_dir():
        from ..dataset import open_recording

        return open_recording(runs)
    if hasattr(runs, "recording") and hasattr(runs, "root"):  # a Study
        return runs.recording()
    return runs


def _describe(recording):
    study = getattr(recording.study, "info", {}) or {}
    corpus, model = study.get("corpus", {}), study.get("model", {})
    return {
        "model": model,
        "corpus": corpus,
        "corpus_hash": corpus.get("hash"),
        "runs": [run.index for run in recording.runs],
        "files": [run.path.name for run in recording.runs],
        "recording": recording.source(),
    }


def _item(run, geometry, i):
    if isinstance(run, (str, Path)):
        return _from_path(as_path(run), geometry, i)
    if hasattr(run, "raw") and hasattr(run, "geometry"):
        return _from_run(run)
    if hasattr(run, "dataobj"):
        return _from_image(run, geometry, i)
    return _from_array(_try_array(run, i), geometry, i)


def _try_array(run, i):
    if hasattr(run, "tocsr"):
        raise ParameterError(f"Run {i} is a sparse matrix. Pass an array: run.toarray().")
    try:
        array = np.asarray(run)
    except ValueError as error:
        raise ParameterError(f"Run {i} is not an array: {error}.") from error
    if array.dtype.kind not in "fiub":
        raise ParameterError(
            f"Run {i} is a {type(run).__name__} of type {array.dtype}; a Run, a path, an image or a real array "
            "(n_tokens, n_neurons) is expected."
        )
    return array


def _from_path(path, geometry, i):
    if not path.exists():
        raise DatasetError(f"Run {i}: {path} does not exist.")
    if path.suffix == ".npy":
        return _from_array(np.load(path, mmap_mode="r", allow_pickle=False), geometry, i)
    if not path.name.endswith((".nii", ".nii.gz")):
        raise ParameterError(f"Run {i}: {path.name} is neither a NIfTI image (.nii, .nii.gz) nor an array (.npy).")
    if path.name.endswith("_bold.nii") and path.with_suffix(".json").is_file():
        from ..dataset import Run

        if geometry is None or _is_own(path.with_suffix(".json")):  # integers need the scale that the sidecar names
            return _from_run(Run(path))
    return _from_image(load_img(path), geometry, i, path)


def _is_own(sidecar):
    """Whether a sidecar was written by this package, or cannot be read, so that opening the run says why."""
    try:
        return "Geometry" in read_json(sidecar)
    except (ValueError, TypeError):
        return True


def _from_run(run):
    g = run.geometry
    if hasattr(run, "check"):  # some volumes, once per run
        run.check()

    def image():
        return str(run.path) if run.scale is None else run.img()

    return _Item(run.raw, run.n_tokens, g, g.disk_voxels, image, True, run.scale)


def _from_image(img, geometry, i, path=None):
    if len(img.shape) != 4:
        raise ParameterError(
            f"Run {i} is an image of shape {img.shape}; four axes (layer, row, col, token) are expected."
        )
    if geometry is None:
        geometry = grid_geometry(img.shape[:3])
    try:
        img = geometry.open_img(img)
    except GeometryMismatchError as error:
        raise GeometryMismatchError(f"Run {i}: {error}") from None
    n = img.shape[3]

    def image():
        return str(path) if path is not None else img

    proxy = img.dataobj
    if path is not None and path.suffix == ".nii" and _unscaled(proxy):

        def raw():
            return np.memmap(path, img.get_data_dtype(), "r", proxy.offset, (n, geometry.n_voxels))

        return _Item(raw, n, geometry, geometry.disk_voxels, image, True)
    volumes = np.asanyarray(proxy)
    if volumes.flags.f_contiguous:
        return _Item(lambda: volumes.reshape(-1, n, order="F").T, n, geometry, geometry.disk_voxels, image, True)
    columns = np.flatnonzero(geometry.is_neuron.ravel())
    return _Item(lambda: volumes.reshape(-1, n).T, n, geometry, columns, image)


def _unscaled(proxy):
    slope, inter = getattr(proxy, "slope", None), getattr(proxy, "inter", None)
    return slope in (None, 1) and inter in (None, 0)


def _from_array(array, geometry, i):
    if array.ndim != 2 or not all(array.shape):
        raise ParameterError(f"Run {i} has the shape {array.shape}; (n_tokens, n_neurons) is expected.")
    if geometry is None:
        geometry = NeuronGeometry.from_sizes([array.shape[1]])
    if array.shape[1] != geometry.n_neurons:
        raise GeometryMismatchError(f"Run {i} has {array.shape[1]} neurons; the geometry has {geometry.n_neurons}.")
    return _Item(lambda: array, len(array), geometry, None, lambda: geometry.to_img(array))


def _common_order(items, info, recording):
    geometry = items[0].geometry
    order = np.argsort(geometry.disk_voxels) if any(item.on_disk for item in items) else None
    sources = []
    for item in items:
        columns, scale = item.columns, item.scale
        if order is not None:
            columns = order if columns is None else columns[order]
            scale = None if scale is None else scale[order]
        sources.append(ArraySource(item.open, item.n_tokens, geometry.n_neurons, columns, scale))
    return Runs(sources, geometry, order, [item.image for item in items], info, recording)


def as_confounds(confounds, n_runs):
    """Turn confounds into a list of arrays or None, one for each run.

    Accepts None, one array or data frame for a single run, or a list of arrays, data frames or paths of tables.
    """
    if confounds is None:
        return None
    if n_runs == 1 and (hasattr(confounds, "columns") or getattr(confounds, "ndim", 0) in (1, 2)):
        confounds = [confounds]
    if len(confounds) != n_runs:
        raise ParameterError(
            f"Number of confounds ({len(confounds)}) must match number of images ({n_runs}): one table for each run."
        )
    return [_table(c, i) for i, c in enumerate(confounds)]


def _table(confounds, i):
    if confounds is None:
        return None
    if isinstance(confounds, (str, Path)):
        import pandas as pd

        if not as_path(confounds).is_file():
            raise DatasetError(f"The confounds of run {i}: {confounds} does not exist.")
        confounds = pd.read_csv(confounds, sep="\t" if str(confounds).endswith(".tsv") else ",")
    try:
        return np.asarray(confounds, np.float64)
    except (TypeError, ValueError) as error:
        raise ParameterError(f"The confounds of run {i} must be numbers, (n_tokens, n_confounds): {error}.") from error
