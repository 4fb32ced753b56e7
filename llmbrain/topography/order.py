"""Display orders of neurons."""

from dataclasses import dataclass, field

import numpy as np

from ..arguments import COMMON, checked, finite, numbers, whole
from ..dataset.described import read_description, write_described
from ..exceptions import DatasetError, GeometryMismatchError, ParameterError
from ..geometry import NeuronGeometry
from ..registry import Registry
from .layout import assign_to_grid, embed_features, hilbert_curve, two_largest

METHODS = Registry("method")
FORMAT = "llmbrain display order"


@dataclass(frozen=True, eq=False)
class Topography:
    """A display order of neurons, one permutation per layer.

    Parameters
    ----------
    cells : ndarray of shape (n_neurons,)
        Cell of each neuron in the sheet of its layer, counted row by row.
    geometry : NeuronGeometry
        The neurons.
    info : dict
        Method, number of features, source of the features, seed.

    Examples
    --------
    >>> geometry = NeuronGeometry.from_sizes([12, 12])
    >>> features = np.random.default_rng(0).normal(size=(3, 24))
    >>> topography = fit_topography(features, geometry)
    >>> shown = topography.arrange(features)
    >>> bool(np.allclose(topography.restore(shown), features))
    True
    """

    cells: np.ndarray
    geometry: NeuronGeometry
    info: dict = field(default_factory=dict)

    def __post_init__(self):
        COMMON["geometry"]("geometry", self.geometry)
        cells = whole("cells", self.cells).astype(np.int64)
        if cells.shape != (self.geometry.n_neurons,):
            raise GeometryMismatchError(
                f"A display order needs a cell for each of {self.geometry.n_neurons} neurons; got shape {cells.shape}."
            )
        place = cells + self.geometry.offsets[self.geometry.layer_of]
        if not np.array_equal(np.sort(place), np.arange(len(place))):
            raise ParameterError("A display order must be a permutation of the neurons within each layer.")
        cells.setflags(write=False)
        object.__setattr__(self, "cells", cells)
        object.__setattr__(self, "_place", place)

    @property
    def note(self):
        """Sentence for captions about the order and its source."""
        source = self.info.get("source")
        return "Display order of neurons" + (f", sorted on {source}" if source else ", sorted by similarity") + "."

    def arrange(self, values):
        """Reorder values ``(..., n_neurons)`` to the display order."""
        values = np.asarray(values)
        self._check(values)
        out = np.empty_like(values)
        out[..., self._place] = values
        return out

    def restore(self, shown):
        """Undo :meth:`arrange`."""
        shown = np.asarray(shown)
        self._check(shown)
        return shown[..., self._place]

    def rank(self):
        """Position of each neuron along a Hilbert curve through its sheet, shape ``(n_neurons,)``.

        For figures in which a layer is a line: neighbours on the sheet are close on the line.
        """
        rows, cols = self.geometry.shape[1:]
        curve = hilbert_curve(rows, cols)
        order = curve[:, 0] * cols + curve[:, 1]
        out = np.empty(self.geometry.n_neurons, np.int64)
        for i, size in enumerate(self.geometry.sizes):
            along = np.empty(rows * cols, np.int64)
            inside = order[order < size]
            along[inside] = np.arange(size)
            where = self.geometry.layer_slice(i)
            out[where] = along[self.cells[where]]
        return out

    def save(self, path):
        """Save as an image of cell numbers (``.nii.gz``) with a JSON file beside it."""
        return write_described(path, self.img, self.sidecar, key="Format")

    @property
    def img(self):
        """The cell number of each neuron as an image."""
        return self.geometry.to_img(self.cells.astype(np.int32))

    @property
    def sidecar(self):
        """Content of the JSON file beside the image."""
        return {**self.info, "Format": FORMAT, "Geometry": self.geometry.to_dict()}

    @classmethod
    def load(cls, path):
        """Load the files of :meth:`save`.

        Raises
        ------
        LLMBrainError
            If a file is damaged; the message names it.
        """
        info = read_description(path)
        if "Geometry" not in info:
            raise DatasetError(f"{path} has no JSON file with a Geometry. Restore it, or make the report again.")
        geometry = NeuronGeometry.from_dict(info.pop("Geometry"))
        for key in ("Format", "provenance"):  # provenance of a result in a study
            info.pop(key, None)
        return cls(np.asarray(geometry.to_array(path)), geometry, info)

    def _check(self, values):
        if values.shape[-1:] != self.cells.shape:
            raise GeometryMismatchError(
                f"Expected {len(self.cells)} neurons on the last axis; got shape {values.shape}."
            )


@checked(features=numbers)
def fit_topography(features, geometry, method="transport", source=None, random_state=0):
    """Find a display order in which neurons with similar features are neighbours.

    Parameters
    ----------
    features : array of shape (n_features, n_neurons)
        Network loadings of one half of the data, such as maps or :func:`loadings_from_maps`.
    geometry : NeuronGeometry
        The neurons.
    method : {"transport", "hilbert"}
        ``"transport"`` places anchors of the features on the plane and each neuron between the anchors of its features,
        and assigns neurons to cells by optimal transport, so that equal places in two layers mean equal networks.
        ``"hilbert"`` places neurons along a Hilbert curve in the order of their dominant feature.
    source : str, optional
        Data of the features for captions, such as ``"runs 1, 3, 5"``.
    random_state : int
        Seed of the refinement of the assignment.

    Returns
    -------
    Topography

    Raises
    ------
    ParameterError
        If the method is unknown, or features are not finite.
    GeometryMismatchError
        If features do not have one column per neuron.
    """
    features = np.atleast_2d(np.asarray(features, np.float32))
    METHODS.check(method)
    if features.shape[-1] != geometry.n_neurons:
        raise GeometryMismatchError(f"Expected {geometry.n_neurons} neurons on the last axis; got {features.shape}.")
    if not np.isfinite(features).all():
        raise ParameterError("The features of a display order must be finite. Remove or fill NaN first.")
    rng = np.random.default_rng(random_state)
    rows, cols = geometry.shape[1:]
    halves, order = _half_features(features)
    cells = np.empty(geometry.n_neurons, np.int64)
    for i in range(geometry.n_layers):
        where = geometry.layer_slice(i)
        cells[where] = METHODS[method](halves[:, where], order, rows, cols, rng)
    info = {"method": method, "n_features": len(features), "source": source, "seed": random_state}
    return Topography(cells, geometry, info)


@METHODS.register("transport")
def _transport(halves, order, rows, cols, rng):
    """Cells by optimal transport from places between the anchors of the features."""
    return assign_to_grid(embed_features(halves, order, aspect=cols / rows), rows, cols, rng)


@METHODS.register("hilbert")
def _along_a_curve(halves, order, rows, cols, rng):
    """Cells along a Hilbert curve, in the order of the dominant feature."""
    curve, cells = hilbert_curve(rows, cols), np.empty(halves.shape[1], np.int64)
    along = curve[:, 0] * cols + curve[:, 1]
    cells[np.argsort(_dominance(halves, order), kind="stable")] = along[along < len(cells)]
    return cells


@checked(courses=finite, maps=finite)
def loadings_from_maps(courses, maps):
    """Compute the loadings of known networks in one part of the data by dual regression.

    Parameters
    ----------
    courses : array of shape (n_tokens, n_neurons)
        Activations of one half of the data.
    maps : array of shape (n_features, n_neurons)
        Maps of the networks.

    Returns
    -------
    ndarray of shape (n_features, n_neurons)
        Weight of each network's time course in the activation of each neuron.
    """
    courses, maps = np.asarray(courses, np.float32), np.asarray(maps, np.float32)
    if courses.shape[-1] != maps.shape[-1]:
        raise GeometryMismatchError(f"Activations of {courses.shape[-1]} neurons do not fit maps of {maps.shape[-1]}.")
    scaled = courses - courses.mean(axis=0)
    scaled /= np.maximum(scaled.std(axis=0), 1e-6)
    maps = maps - maps.mean(axis=1, keepdims=True)
    ridge = 1e-3  # of the mean eigenvalue, so that collinear networks and few tokens do no harm
    found = _ridge_inverse(maps @ maps.T, ridge) @ (maps @ scaled.T)
    found -= found.mean(axis=1, keepdims=True)
    found /= np.maximum(found.std(axis=1, keepdims=True), 1e-9)
    return (_ridge_inverse(found @ found.T, ridge) @ found).astype(np.float32) @ scaled


def _ridge_inverse(gram, ridge):
    gram = np.asarray(gram, np.float64)
    return np.linalg.inv(gram + ridge * max(np.trace(gram) / len(gram), 1e-12) * np.eye(len(gram)))


def _half_features(features):
    """Split z-scored features into positive and negative parts; order them so that similar ones are neighbours."""
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    spread = features.std(axis=1, keepdims=True)
    z = (features - features.mean(axis=1, keepdims=True)) / np.where(spread > 0, spread, 1)
    halves = np.concatenate([np.maximum(z, 0), np.maximum(-z, 0)])
    # A half without large values is noise and would only take up space on the sheet.
    strong = np.array([np.mean(half > 3) for half in halves])
    halves = halves[strong > 0.1 * strong.max()] if strong.max() > 0 else halves
    if len(halves) < 3:
        return halves, np.arange(len(halves))
    cut = np.where(halves > 1.5, halves, 0)
    norm = np.sqrt((cut**2).sum(axis=1))
    distance = 1 - (cut @ cut.T) / np.maximum(np.outer(norm, norm), 1e-9)
    np.fill_diagonal(distance, 0)
    tree = linkage(
        squareform(np.clip((distance + distance.T) / 2, 0, 1), checks=False), "average", optimal_ordering=True
    )
    return halves, leaves_list(tree)


def _dominance(halves, order):
    """Sort key of the Hilbert order: the place of the dominant half, with its strongest neurons in the middle."""
    place = np.empty(len(order))
    place[order] = np.arange(len(order))
    best, second = two_largest(halves)
    side = np.where(place[second] >= place[best], 1.0, -1.0)
    return place[best] + 0.5 * side / (1 + halves.max(axis=0))
