"""Reading a recording: runs, their activations and events, and the confounds that nilearn takes."""

import warnings
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from ..exceptions import DatasetError, LLMBrainWarning, ParameterError
from ..files import as_path, read_tsv
from ..geometry import NeuronGeometry
from .checks import check_content, check_run, inside_study, read_sidecar
from .checksums import run_hash
from .layout import events_of

CONFOUNDS = ("position", "sink", "log_frequency", "surprisal")
_TEXT = {"token": str, "document": str, "kind": str, "role": str}


class Run:
    """One recorded run: a 4D NIfTI file, its sidecar, its events.

    Parameters
    ----------
    path : path-like
        The ``_bold.nii`` file.
    check : bool
        Whether to compare the file with its sidecar and events first.

    Raises
    ------
    DatasetError
        If the file is missing, truncated, foreign, or does not match its sidecar.
    """

    def __init__(self, path, check=True):
        self.path = as_path(path)
        if check:
            check_run(self.path)

    def __repr__(self):
        return f"Run({self.path.name}: {self.n_tokens} tokens x {self.geometry.n_neurons} neurons)"

    def __len__(self):
        return self.n_tokens

    def __fspath__(self):
        return str(self.path)

    @cached_property
    def sidecar(self):
        """The JSON sidecar, a dict."""
        return read_sidecar(self.path)

    @cached_property
    def geometry(self):
        """The :class:`~llmbrain.NeuronGeometry` of the volumes."""
        return NeuronGeometry.from_dict(self.sidecar["Geometry"])

    @property
    def index(self):
        """Number of the run, from 1."""
        return int(self.sidecar["Run"])

    @property
    def n_tokens(self):
        """Number of volumes."""
        return int(self.sidecar["NumberOfTokens"])

    @cached_property
    def events(self):
        """Events of the run: a data frame with one row per token; ``task-*_events.json`` explains the columns."""
        return read_tsv(events_of(self.path), dtype=_TEXT)

    @cached_property
    def scale(self):
        """Factor of each neuron, shape ``(n_neurons,)``, for runs stored as int16; None for float32."""
        name = self.sidecar.get("Scale")
        if name is None:
            return None
        return self.geometry.to_array(inside_study(self.path, name)).astype(np.float32)

    @cached_property
    def hash(self):
        """Short hash of the activations and events, from the sidecar."""
        return run_hash(self.sidecar)

    def check(self, thorough=False):
        """Compare the activations with their checksums, see :func:`llmbrain.dataset.check_content`; at most once."""
        done = self.__dict__.setdefault("_checked", set())
        if not done & {True, thorough}:
            check_content(self.path, thorough)
            done.add(thorough)

    def raw(self):
        """The stored values as a memory map ``(n_tokens, n_voxels)`` in file order (layer fastest)."""
        dtype, offset = self._stored
        return np.memmap(self.path, dtype, "r", offset, (self.n_tokens, self.geometry.n_voxels))

    @cached_property
    def _stored(self):
        """Type of the stored values, and the byte at which they begin; read once, because runs are read in blocks."""
        img = self.geometry.open_img(self.path)
        return img.get_data_dtype(), img.dataobj.offset

    def to_array(self, start=None, stop=None):
        """Activations of the tokens ``start`` to ``stop``.

        Returns
        -------
        ndarray of shape (n, n_neurons), float32
            In the flat order of neurons, ``offsets[layer] + unit``.

        Raises
        ------
        DatasetError
            If the activations have changed since they were recorded; see :meth:`check`.
        """
        self.check()
        array = self.geometry.from_disk(self.raw()[slice(start, stop)])
        return array if self.scale is None else array.astype(np.float32) * self.scale

    def img(self):
        """The run as a nibabel image. Its data stay on disk until they are read; int16 is read and scaled at once."""
        return self.geometry.open_img(self.path) if self.scale is None else self.geometry.to_img(self.to_array())

    def confounds(self, columns=CONFOUNDS):
        """See :func:`read_confounds`."""
        return read_confounds(self, columns)


def open_runs(paths, weights_hash=None):
    """Check and open the finished runs of a site, the ``_bold.nii`` files in order, as a list of :class:`Run`.

    A file that is damaged or of another model than ``weights_hash`` raises :class:`DatasetError`; a missing run between
    others raises a warning.
    """
    for path in paths:
        check_run(path, weights_hash)
    runs = [Run(path, check=False) for path in paths]
    gaps = sorted(set(range(1, runs[-1].index)) - {run.index for run in runs})
    if gaps:
        site, lacking = runs[0].geometry.site, f"{'run' if len(gaps) == 1 else 'runs'} {', '.join(map(str, gaps))}"
        message = f"{runs[0].path.parent} lacks {lacking} of the site {site!r}: never recorded, or removed."
        warnings.warn(message, LLMBrainWarning, stacklevel=3)
    return runs


class Recording(Sequence):
    """The runs of one site of one study, in order.

    Parameters
    ----------
    study : Study
    runs : list of Run
    """

    def __init__(self, study, runs):
        if not runs:
            raise DatasetError(f"{study.root} holds no finished run.")
        self.study = study
        self.runs = list(runs)
        for run in self.runs[1:]:
            self.geometry.check_same(run.geometry, run.path.name)

    def __getitem__(self, i):
        return Recording(self.study, self.runs[i]) if isinstance(i, slice) else self.runs[i]

    def __len__(self):
        return len(self.runs)

    def __repr__(self):
        g = self.geometry
        return (
            f"Recording({self.root}: {len(self)} runs, {self.n_tokens} tokens x {g.n_neurons} neurons "
            f"of the site '{g.site}')"
        )

    @property
    def root(self):
        """Folder of the study."""
        return self.study.root

    @property
    def geometry(self):
        """The :class:`~llmbrain.NeuronGeometry` that all runs share."""
        return self.runs[0].geometry

    @property
    def site(self):
        """Name of the recorded site."""
        return self.geometry.site

    @property
    def n_tokens(self):
        """Number of recorded tokens in all runs."""
        return sum(run.n_tokens for run in self.runs)

    @property
    def paths(self):
        """Paths of the NIfTI files, as nilearn's estimators take them."""
        return [str(run.path) for run in self.runs]

    def check(self, thorough=False):
        """Compare the activations of all runs with their checksums; see :meth:`Run.check`."""
        for run in self.runs:
            run.check(thorough)

    def source(self):
        """Describe this recording for results that are made from it: its site, its runs, and all runs of the study."""
        known = self.study.run_hashes(self.site)
        return {"site": self.site, "runs": {str(run.index): run.hash for run in self.runs}, "known": sorted(known)}

    @cached_property
    def events(self):
        """Events of all runs in one data frame, with a column ``run``."""
        import pandas as pd

        frames = [run.events.assign(run=run.index) for run in self.runs]
        return pd.concat(frames, ignore_index=True)

    def confounds(self, columns=CONFOUNDS):
        """One data frame per run, for ``fit(recording.paths, confounds=...)``; see :func:`read_confounds`."""
        return read_confounds(self, columns)


def read_confounds(runs, columns=CONFOUNDS):
    """Read confounds of the activations in the form that nilearn takes.

    Parameters
    ----------
    runs : Run, path of a run, Recording or list of runs
    columns : sequence of str
        Numeric columns of the events. ``"log_position"`` is the logarithm of 1 + position.

    Returns
    -------
    DataFrame of shape (n_tokens, n_columns), or a list of them
        One for each run. A missing value (the surprisal of a document's first token) becomes the mean of its
        column, because a regressor must be finite; a column that is constant in a run is left out, because it would
        be confounded with the mean.

    Raises
    ------
    ParameterError
        If a column is unknown or not numeric.
    """
    if isinstance(runs, (Recording, list, tuple)):
        return [read_confounds(run, columns) for run in runs]
    run = runs if isinstance(runs, Run) else Run(runs)
    events = run.events.assign(log_position=np.log1p(run.events["position"]))
    numeric = events.select_dtypes("number")
    unknown = [name for name in columns if name not in numeric]
    if unknown:
        raise ParameterError(
            f"The events have no numeric column {', '.join(unknown)}. Choose from {', '.join(numeric)}."
        )
    frame = numeric[list(columns)].astype(float)
    frame = frame.fillna(frame.mean()).dropna(axis=1)
    return frame.loc[:, frame.nunique() > 1]
