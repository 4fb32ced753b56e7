"""Networks found in a recording: maps over neurons, metrics, time courses, files."""

import hashlib
import json
from functools import cached_property
from itertools import groupby

import numpy as np

from ..dataset import as_study, bids_label, open_result, write_result
from ..exceptions import DatasetError, ParameterError, check_threshold
from .engines.parallel import block_map, run_blocks, workers
from .engines.sources import as_slice
from .images import image_parts

STABLE = 0.7  # networks of less stability are flagged
THRESHOLD = 3.0  # neurons with a larger |z| over neurons belong to a network
_BLOCK_VALUES = 1 << 17  # of maps that are described at a time (512 KiB)


class NetworkSet:
    """Networks found in a recording.

    Parameters
    ----------
    maps : ndarray of shape (n_networks, n_neurons)
        Weights in flat order; stored as float32.
    geometry : NeuronGeometry
        Geometry of the neurons.
    metrics : DataFrame, optional
        One row per network; computed by :func:`describe_maps` if not given.
    info : dict, optional
        Estimator, parameters, model, corpus and convergence of the fit.
    time_courses : list of ndarray (n_tokens, n_networks), optional
        One for each run.
    support : ndarray of bool, shape (n_networks, n_layers), optional
        Layers in which each network was searched; all by default. Weights in other layers are zero.

    Attributes
    ----------
    maps, geometry, metrics, info, time_courses, support

    Examples
    --------
    >>> from llmbrain.geometry import NeuronGeometry
    >>> geometry = NeuronGeometry.from_sizes([50, 50])
    >>> maps = np.random.default_rng(0).laplace(size=(2, 100)) ** 3
    >>> networks = NetworkSet(maps, geometry)
    >>> networks
    NetworkSet(2 networks, 100 neurons in 2 layers)
    >>> networks.flagged
    []
    >>> [mask.name for mask in networks.masks(2.0)]
    ['network-00', 'network-01']
    """

    def __init__(self, maps, geometry, metrics=None, info=None, time_courses=None, support=None):
        maps = np.ascontiguousarray(maps, dtype=np.float32)
        if maps.ndim != 2 or not len(maps):
            raise ParameterError(f"maps must be (n_networks, n_neurons) with at least one network; got {maps.shape}.")
        if maps.shape[1] != geometry.n_neurons:
            raise ParameterError(f"maps have {maps.shape[1]} neurons, but the geometry has {geometry.n_neurons}.")
        if support is not None:
            support = np.asarray(support, bool)
        blocks = _blocks(maps, support, geometry.layer_of)  # to read the zeros elsewhere takes long
        with workers():
            bad = np.flatnonzero(
                np.concatenate(list(block_map(lambda b: ~np.isfinite(maps[b]).all(1), blocks)))
            ).tolist()
        if bad:
            raise ParameterError(f"Maps {bad} hold NaN or infinite values. Remove them first.")
        self.maps, self.geometry, self.support = maps, geometry, support
        self.info = dict(info or {})
        self.time_courses = time_courses
        if metrics is None:
            metrics = describe_maps(maps, geometry, support=support)
        self.metrics = metrics

    @property
    def n_networks(self):
        """Number of networks."""
        return len(self.maps)

    def __len__(self):
        return len(self.maps)

    def __repr__(self):
        g, n = self.geometry, len(self.flagged)
        flags = f", {n} flagged" if n else ""
        return f"NetworkSet({len(self)} networks{flags}, {g.n_neurons} neurons in {g.n_layers} layers)"

    def summary(self, n_rows=40):
        """Summarise the networks in a few lines of text, one line for each of the first ``n_rows``."""
        table, info = self.metrics, self.info
        share = float(table["variance"].sum()) if "variance" in table else float("nan")
        of = f", {share:.0%} of the variance" if share == share else ""
        lines = [
            f"{len(self)} networks of {self.geometry.n_neurons:,} neurons ({self.geometry.site}){of}; "
            f"{len(self.flagged)} flagged as empty or unstable.",
            "network  neurons  variance  layers  stability",
        ]
        for row in table.head(n_rows).itertuples():
            variance, stability = (getattr(row, name, float("nan")) for name in ("variance", "stability"))
            lines.append(
                f"{row.network:>7}  {row.n_neurons:>7,}  {variance:>8.2%}  {row.first_layer:>2}-{row.last_layer:<3}  "
                f"{stability:>9.2f}{'  flagged' if row.network in self.flagged else ''}"
            )
        if len(table) > n_rows:
            lines.append(f"... and {len(table) - n_rows} more")
        if info.get("converged") is False:
            lines.append("The decomposition did not converge.")
        return "\n".join(lines)

    @property
    def flagged(self):
        """Numbers of the networks that are empty or unstable, a list."""
        if "flagged" not in self.metrics:
            return []
        return np.flatnonzero(self.metrics["flagged"].fillna(False).astype(bool)).tolist()

    @property
    def z(self):
        """Maps z-scored over the neurons in which they were searched, ``(n_networks, n_neurons)`` float32."""
        return zscore_maps(self.maps, self.support, self.geometry.layer_of)

    @cached_property
    def img(self):
        """The maps as a 4D NIfTI image, one volume per network."""
        return self.geometry.to_img(self.maps)

    @property
    def hash(self):
        """Short hash of the maps and their neurons, by which results recognise the networks they were made from."""
        digest = hashlib.sha256(json.dumps(self.geometry.to_dict(), sort_keys=True).encode())
        digest.update(self.maps.tobytes())
        if self.support is not None:
            digest.update(self.support.tobytes())
        return digest.hexdigest()[:16]

    @property
    def name(self):
        """Name in a study, unless another is given: method, number of components, and the site if it is not mlp."""
        n_components = self.info.get("n_components", len(self))
        return networks_name(self.info.get("method", "networks"), n_components, self.geometry.site)

    @property
    def threshold(self):
        """Neurons with a larger \\|z\\| belong to a network: 3, or what :meth:`set_threshold` was given."""
        return float(self.info.get("threshold") or THRESHOLD)

    def masks(self, threshold=None, two_sided=True):
        """Return the networks as sets of neurons.

        Parameters
        ----------
        threshold : float or sequence of n_networks floats, optional
            Neurons with a larger \\|z\\| over neurons belong to the network; by default that of the networks.
        two_sided : bool
            Whether negative weights count. The sign of a component is arbitrary, so one side alone can lose half of a
            network.

        Returns
        -------
        list of NeuronMask
            ``masks[k]`` is network ``k``, named ``network-k``. It is empty if no neuron is above the threshold.
            ``info`` has the hash of the networks and whether the network is flagged.
        """
        from ..masks import masks_from_maps

        info = {k: self.info[k] for k in ("model", "corpus_hash", "method") if self.info.get(k)}
        documents = (self.info.get("corpus") or {}).get("document_hashes")
        info |= {"document_hashes": documents} if documents else {}
        info["networks"] = self.hash
        names = [f"network-{k:02d}" for k in range(len(self))]
        threshold = self.threshold if threshold is None else threshold
        masks = masks_from_maps(self.z, self.geometry, threshold, two_sided, names=names, info=info)
        for k, mask in enumerate(masks):
            mask.info["flagged"] = k in self.flagged
        return masks

    def set_threshold(self, threshold):
        r"""Recompute the metrics of neurons, layers and signs at another \|z\|, and store it in ``info``."""
        check_threshold(threshold)
        columns = {name: self.metrics[name].to_numpy() for name in ("variance", "stability")}
        fresh = describe_maps(self.maps, self.geometry, threshold=threshold, support=self.support, **columns)
        self.metrics = self.metrics.assign(**{name: fresh[name] for name in fresh})
        self.info["threshold"] = float(threshold)
        return self

    def save(self, study, name=None, *, tables=None, settings=None):
        """Write maps, masks, metrics and time courses into a study as one result.

        The maps are written as they are and in z. Each network has a mask, and a label image says which network is the
        strongest at each neuron.

        Networks of the same name are replaced. Results that were made from them, such as lesions, are then recognised
        as stale, unless the maps are the same.

        Parameters
        ----------
        study : Study or path
        name : str, optional
            Label in the file names; :attr:`name` by default.
        tables : dict of DataFrame, optional
            Further tables by their kind, see :meth:`llmbrain.networks.Evidence.save`.
        settings : dict, optional
            Settings by which a station recognises its own result, see :func:`llmbrain.dataset.is_done`.

        Returns
        -------
        list of Path
            The files, the maps first.
        """
        import pandas as pd

        study = as_study(study)
        info = {**self.info, "geometry": self.geometry.to_dict(), "n_networks": len(self), "flagged": self.flagged}
        info["hash"] = self.hash
        if self.support is not None:
            info["support"] = [[int(row.argmax()), int(len(row) - row[::-1].argmax())] for row in self.support]
        names = [f"network-{k:02d}" for k in range(len(self))]
        courses = self.time_courses or []
        runs = self.info.get("runs") or range(1, len(courses) + 1)
        mixing = {run: pd.DataFrame(course, columns=names) for run, course in zip(runs, courses)}
        parts = {"components": self.img, "metrics": self.metrics, "mixing": mixing, **(tables or {})}
        parts |= image_parts(self, self.threshold)
        info = {"Units": "arbitrary: maps of unit norm", **info}
        model, corpus = self.info.get("model") or {}, self.info.get("corpus_hash")
        sources = {"weights": model.get("weights_hash"), "text": corpus, "recording": self.info.get("recording")}
        name = bids_label(name or self.name)
        return write_result(study, "networks", name, parts, info, sources=sources, settings=settings).paths

    @classmethod
    def load(cls, study, name=None):
        """Read the files of :meth:`save`, and check that they belong together.

        Parameters
        ----------
        study : Study or path
        name : str, optional
            Needed if the study holds several sets of networks.

        Raises
        ------
        DatasetError
            If there are none, several and no name, or if a file is missing, damaged or of another write.

        Warns
        -----
        StaleResultWarning
            If the recording has changed since the networks were found.
        """
        return cls.of_result(open_result(as_study(study), "networks", name).warn_if_stale())

    @classmethod
    def of_result(cls, result):
        """Read an open result of a study."""
        from .inputs import geometry_from_dict

        info = {k: v for k, v in result.info.items() if k not in ("Units", "flagged", "n_networks", "hash")}
        geometry = geometry_from_dict(info.pop("geometry"))
        ranges, layers = info.pop("support", None), np.arange(geometry.n_layers)
        support = None if ranges is None else np.array([(layers >= a) & (layers < b) for a, b in ranges])
        courses = [result.read("mixing", run) for run in result.runs("mixing")]
        courses = [course.to_numpy(np.float32) for course in courses] or None
        maps = geometry.to_array(result.path("components"))
        if not np.isfinite(maps).all():  # also outside the layers that were searched
            raise DatasetError(f"{result.path('components')} holds NaN or infinite values. Find the networks again.")
        return cls(maps, geometry, result.read("metrics"), info, courses, support)


def networks_name(method, n_components, site="mlp"):
    """Default name of networks in a study.

    Examples
    --------
    >>> networks_name("CanICA", 20), networks_name("DictLearning", 8, "mlp_gate")
    ('canica20', 'dictlearning8mlpgate')
    """
    return bids_label(f"{method.lower()}{n_components}{'' if site == 'mlp' else site}")


def zscore_maps(maps, support=None, layer_of=None):
    """Z-scores of maps over their neurons, ``(n_networks, n_neurons)`` float32; a constant map gives zeros.

    With ``support`` ``(n_networks, n_layers)``, only these layers of each map count; neurons of the others are 0. It
    needs ``layer_of``, the layer of each neuron.
    """
    maps, z = np.asarray(maps), np.zeros(np.shape(maps), np.float32)

    def write(block):
        z[block] = _zscored(maps[block])

    with workers():
        run_blocks(write, _blocks(maps, support, layer_of))
    return z


def _blocks(maps, support, layer_of):
    """Yield (rows, neurons) of blocks of maps that were searched in the same neurons, a few megabytes each."""
    every = slice(0, np.shape(maps)[1])
    searched = [None] * len(maps) if support is None else [np.asarray(row, bool).tobytes() for row in support]
    for where, rows in groupby(range(len(maps)), searched.__getitem__):
        rows = list(rows)
        neurons = every if where is None else as_slice(np.flatnonzero(np.frombuffer(where, bool)[layer_of]))
        width = neurons.stop - neurons.start if isinstance(neurons, slice) else len(neurons)
        step = max(1, _BLOCK_VALUES // max(width, 1))
        for first in range(rows[0], rows[-1] + 1, step):
            yield slice(first, min(first + step, rows[-1] + 1)), neurons


def _zscored(maps):
    """Z-scores over the neurons of each map, float32; a constant map gives zeros."""
    if not maps.size:
        return np.array(maps, np.float32)
    z = maps - maps.mean(1, dtype=np.float64, keepdims=True).astype(np.float32)
    sd = np.sqrt(np.mean(np.square(z), 1, dtype=np.float64, keepdims=True)).astype(np.float32)
    z /= np.where(sd > 0, sd, 1)
    return z


def describe_maps(maps, geometry, *, threshold=THRESHOLD, variance=None, stability=None, support=None):
    """Summarise networks in a table, one row per network, from their z-scores.

    Columns: ``network``; ``n_neurons`` above the threshold and their ``share`` of all; ``variance``, the share of the
    variance of the data; ``peak_layer``, which holds most of the squared z of these neurons, and ``first_layer`` and
    ``last_layer``, between which 90 % of it lies (layer numbers of the model); ``positive``, the share of positive
    signs; excess ``kurtosis`` of the map; ``stability``, 0 to 1; ``flagged``, whether it is empty or its stability is
    below 0.7. ``support`` ``(n_networks, n_layers)`` marks the layers in which each network was searched.
    """
    import pandas as pd

    with workers():
        blocks = block_map(
            lambda block: _moments_of(maps, *block, geometry, threshold), _blocks(maps, support, geometry.layer_of)
        )
        n, n_positive, fourth, energy = (np.concatenate(part) for part in zip(*blocks))
    layers = np.asarray(geometry.layers)
    reached = np.cumsum(energy, 1) / np.maximum(energy.sum(1, keepdims=True), 1e-30)
    first, last = ((reached < share).sum(1).clip(max=len(layers) - 1) for share in (0.05, 0.95))
    known = np.full(len(n), np.nan) if stability is None else np.array(stability, float)
    return pd.DataFrame(
        {
            "network": np.arange(len(n)),
            "n_neurons": n,
            "share": n / geometry.n_neurons,
            "variance": np.nan if variance is None else np.asarray(variance, float),
            "peak_layer": layers[energy.argmax(1)],
            "first_layer": layers[first],
            "last_layer": layers[last],
            "positive": np.where(n > 0, n_positive / np.maximum(n, 1), np.nan),
            "kurtosis": fourth - 3,
            "stability": np.where(np.isfinite(known), known, np.nan),
            "flagged": (n == 0) | (known < STABLE),
        }
    )


def _moments_of(maps, rows, neurons, geometry, threshold):
    """Of some maps: neurons above the threshold, how many are positive, mean of z^4, energy of the layers."""
    z = _zscored(maps[rows, neurons])
    chosen = np.abs(z) > threshold
    n, n_positive = chosen.sum(1), (chosen & (z > 0)).sum(1)
    z *= z
    layer_of = geometry.layer_of[neurons]
    starts = np.flatnonzero(np.diff(layer_of, prepend=-1))
    energy = np.zeros((len(z), geometry.n_layers))
    if len(starts):
        counted = np.where(chosen | (n == 0)[:, None], z, 0)  # all neurons of a map that has none above the threshold
        energy[:, layer_of[starts]] = np.add.reduceat(counted, starts, 1, np.float64)
    z *= z
    return n, n_positive, z.mean(1, dtype=np.float64), energy
