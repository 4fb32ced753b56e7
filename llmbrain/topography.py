"""Display order of neurons: give the sheets of a model a neighbourhood that the eye can read.

Neurons have no natural neighbours, so a thresholded map is a scatter of dots. A topography moves the neurons *within*
each layer's sheet so that those with similar network loadings lie side by side. It serves display only: files keep the
natural order, and nothing statistical may rely on it. Fit it on one half of the data and show maps of the other half;
then a blob is a finding and not a product of the sorting.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .exceptions import GeometryMismatchError, ParameterError
from .files import read_json, save_img, write_json
from .geometry import NeuronGeometry

__all__ = ["Topography", "assign_to_grid", "embed_features", "fit_topography", "hilbert_curve", "loadings_from_courses"]

METHODS = ("transport", "hilbert")
SAMPLE = 20_000  # neurons that the rotation is estimated on; all are then rotated


@dataclass(frozen=True, eq=False)
class Topography:
    """A display order of neurons, one permutation a layer.

    Parameters
    ----------
    cells : ndarray of shape (n_neurons,)
        Where each neuron is drawn: the cell, counted row by row, in the sheet of its layer.
    geometry : NeuronGeometry
        The neurons.
    info : dict
        How it was made: method, number of features, source of the features, seed.

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
        cells = np.asarray(self.cells).astype(np.int64)
        if cells.shape != (self.geometry.n_neurons,):
            raise GeometryMismatchError(
                f"A display order needs one cell for each of {self.geometry.n_neurons} neurons; got shape {cells.shape}."
            )
        place = cells + self.geometry.offsets[self.geometry.layer_of]
        if not np.array_equal(np.sort(place), np.arange(len(place))):
            raise ParameterError("A display order must be a permutation of the neurons within each layer.")
        cells.setflags(write=False)
        object.__setattr__(self, "cells", cells)
        object.__setattr__(self, "_place", place)

    @property
    def note(self):
        """One sentence for captions: that the order is for display, and where it comes from."""
        source = self.info.get("source")
        return "Display order of neurons" + (f", sorted on {source}" if source else ", sorted by similarity") + "."

    def arrange(self, values):
        """Put ``(..., n_neurons)`` values into display order (same shape)."""
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

        For pictures in which a layer is a line: neighbours on the sheet stay close on the line.
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
        path = Path(path)
        save_img(path, self.geometry.to_img(self.cells.astype(np.int32)))
        write_json(_json_beside(path), {**self.info, "Geometry": self.geometry.to_dict()})
        return path

    @classmethod
    def load(cls, path):
        """Load what :meth:`save` wrote."""
        info = read_json(_json_beside(Path(path)))
        geometry = NeuronGeometry.from_dict(info.pop("Geometry"))
        return cls(np.asarray(geometry.to_array(path)), geometry, info)

    def _check(self, values):
        if values.shape[-1:] != self.cells.shape:
            raise GeometryMismatchError(
                f"Expected {len(self.cells)} neurons on the last axis; got shape {values.shape}."
            )


def _json_beside(path):
    name = path.name
    for suffix in (".nii.gz", ".nii"):
        name = name.removesuffix(suffix)
    return path.with_name(name + ".json")


def fit_topography(features, geometry, method="transport", source=None, random_state=0):
    """Find a display order in which neurons with similar features lie side by side.

    Parameters
    ----------
    features : array of shape (n_features, n_neurons)
        Network loadings of one half of the data, e.g. maps; for raw time courses use
        :func:`loadings_from_courses` first.
    geometry : NeuronGeometry
        The neurons.
    method : {"transport", "hilbert"}
        ``"transport"`` puts the features' anchors on the plane, each neuron between the anchors it loads on, and
        assigns neurons to cells by optimal transport; equal places in two layers then mean equal networks.
        ``"hilbert"`` orders neurons by their dominant feature and lays them along a Hilbert curve.
    source : str, optional
        What the features were computed from, for captions, e.g. ``"runs 1, 3, 5"``.
    random_state : int
        Seed of the exchanges that refine the assignment.

    Returns
    -------
    Topography

    Raises
    ------
    ParameterError
        If the method is unknown, or features are not finite.
    GeometryMismatchError
        If features do not have one column a neuron.
    """
    features = np.atleast_2d(np.asarray(features, np.float32))
    if method not in METHODS:
        raise ParameterError(f"method={method!r} is unknown; choose one of {list(METHODS)}.")
    if features.shape[-1] != geometry.n_neurons:
        raise GeometryMismatchError(f"Expected {geometry.n_neurons} neurons on the last axis; got {features.shape}.")
    if not np.isfinite(features).all():
        raise ParameterError("The features of a display order must be finite; drop or fill neurons with NaN first.")
    rng = np.random.default_rng(random_state)
    rows, cols = geometry.shape[1:]
    halves, order = _half_features(features)
    cells = np.empty(geometry.n_neurons, np.int64)
    curve = hilbert_curve(rows, cols)
    for i, size in enumerate(geometry.sizes):
        where = geometry.layer_slice(i)
        if method == "hilbert":
            along = curve[:, 0] * cols + curve[:, 1]
            cells[where][np.argsort(_dominance(halves[:, where], order), kind="stable")] = along[along < size]
        else:
            points = embed_features(halves[:, where], order, aspect=cols / rows)
            cells[where] = assign_to_grid(points, rows, cols, rng)
    info = {"method": method, "n_features": len(features), "source": source, "seed": random_state}
    return Topography(cells, geometry, info)


def loadings_from_courses(courses, n_features=24, random_state=0):
    """Reduce time courses to independent loadings, the features of :func:`fit_topography`.

    Parameters
    ----------
    courses : array of shape (n_tokens, n_neurons)
        Activations of one half of the data.
    n_features : int
        How many loadings to keep.
    random_state : int
        Seed of the reduction.

    Returns
    -------
    ndarray of shape (n_features, n_neurons)
        Spatially independent maps of this half, z-scored over neurons.
    """
    import warnings

    from sklearn.decomposition import FastICA
    from sklearn.exceptions import ConvergenceWarning

    courses = np.asarray(courses, np.float32)
    scaled = courses - courses.mean(axis=0)
    scaled /= np.maximum(scaled.std(axis=0), 1e-6)
    n_features = int(min(n_features, *courses.shape))
    left = np.linalg.eigh(scaled @ scaled.T)[1][:, ::-1][:, :n_features]
    maps = (left.T @ scaled).astype(np.float64)  # float32 is too coarse for the fixed point
    sample = np.arange(maps.shape[1])
    if len(sample) > SAMPLE:
        sample = np.sort(np.random.default_rng(random_state).choice(len(sample), SAMPLE, replace=False))
    # Loose tolerances stop at saddle points, where networks are mixed; a rotation that goes on after 100 steps still sorts.
    ica = FastICA(whiten="unit-variance", max_iter=100, tol=1e-5, random_state=random_state)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        ica.fit(maps[:, sample].T)
    return ica.transform(maps.T).T.astype(np.float32)


def _half_features(features):
    """Split z-scored features into positive and negative parts; order them so that similar ones are neighbours."""
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    spread = features.std(axis=1, keepdims=True)
    z = (features - features.mean(axis=1, keepdims=True)) / np.where(spread > 0, spread, 1)
    halves = np.concatenate([np.maximum(z, 0), np.maximum(-z, 0)])
    # A half that never stands out is noise and would only take room on the sheet.
    strong = np.array([np.mean(half > 3) for half in halves])
    halves = halves[strong > 0.1 * strong.max()] if strong.max() > 0 else halves
    if len(halves) < 3:
        return halves, np.arange(len(halves))
    cut = np.where(halves > 1.5, halves, 0)
    norm = np.sqrt((cut**2).sum(axis=1))
    distance = 1 - (cut @ cut.T) / np.maximum(np.outer(norm, norm), 1e-9)
    np.fill_diagonal(distance, 0)
    tree = linkage(squareform(np.clip((distance + distance.T) / 2, 0, 1), checks=False), "average", optimal_ordering=True)
    return halves, leaves_list(tree)


def _dominance(halves, order):
    """Sort key of the Hilbert order: the dominant half's place, strongest in the middle of its stretch."""
    place = np.empty(len(order))
    place[order] = np.arange(len(order))
    best, second = _two_largest(halves)
    side = np.where(place[second] >= place[best], 1.0, -1.0)
    return place[best] + 0.5 * side / (1 + halves.max(axis=0))


def embed_features(halves, order, aspect=1.0, power=3):
    """Place neurons on the plane, between the anchors of the two features they load on most.

    Neurons that clearly belong to one feature gather around its anchor; undecided ones lie between anchors.

    Parameters
    ----------
    halves : array of shape (n_halves, n_neurons)
        Non-negative loadings.
    order : array of shape (n_halves,)
        The order in which anchors follow each other along a Hilbert curve through the plane.
    aspect : float
        Width of the plane over its height.
    power : float
        How fast the strongest loading wins over the others.

    Returns
    -------
    ndarray of shape (n_neurons, 2)
        Row and column coordinates, about in ``[0, 1] x [0, aspect]``.
    """
    n = len(halves)
    side = max(int(np.ceil(np.sqrt(n / max(aspect, 1e-6)))), 1)
    across = int(np.ceil(n / side))
    grid = hilbert_curve(side, across)
    spots = grid[np.round(np.linspace(0, len(grid) - 1, n)).astype(int)]
    anchors = np.empty((n, 2))
    anchors[order] = (spots + 0.5) / [side, across] * [1.0, aspect]
    first, second = _two_largest(halves)
    columns = np.arange(halves.shape[1])
    weight = np.stack([halves[first, columns], halves[second, columns]]) ** power + 1e-9
    places = weight[0][:, None] * anchors[first] + weight[1][:, None] * anchors[second]
    return places / weight.sum(axis=0)[:, None]


def _two_largest(halves):
    """Rows of the largest and second largest value of each column."""
    if len(halves) == 1:
        return np.zeros((2, halves.shape[1]), int)
    top = np.argpartition(halves, len(halves) - 2, axis=0)[-2:]
    swap = np.take_along_axis(halves, top, axis=0)
    return np.where(swap[1] >= swap[0], top[1], top[0]), np.where(swap[1] >= swap[0], top[0], top[1])


def assign_to_grid(points, rows, cols, random_state=0, n_rounds=300):
    """Assign points to the cells of a sheet so that the summed squared distance is small (optimal transport).

    Starts from the monotone (strip by strip) assignment and exchanges pairs of cells at random offsets wherever this
    shortens the transport; the exchanges of one round do not share cells.

    Parameters
    ----------
    points : array of shape (n_points, 2)
        Row and column coordinates in any unit.
    rows, cols : int
        The sheet; the first ``n_points`` cells, row by row, are filled.
    random_state : int or numpy.random.Generator
        Seed of the offsets.
    n_rounds : int
        Rounds of exchanges.

    Returns
    -------
    ndarray of shape (n_points,)
        The cell of each point, a permutation of ``0 .. n_points - 1``.
    """
    points = np.asarray(points, float)
    rng = np.random.default_rng(random_state)
    n = len(points)
    by_row = np.argsort(points[:, 0], kind="stable")
    owner = np.concatenate(
        [strip[np.argsort(points[strip, 1], kind="stable")] for strip in np.split(by_row, np.arange(cols, n, cols))]
    )
    row, col = np.divmod(np.arange(n), cols)
    scale = np.array([rows, cols]) / np.maximum(np.ptp(points, axis=0), 1e-9)
    scaled = (points - points.min(axis=0)) * scale
    reach = max(rows, cols) / 2
    for step in range(n_rounds):
        span = max(1, int(round(reach * (1 - step / n_rounds) ** 2)))
        dr, dc = rng.integers(-span, span + 1, 2)
        if dr == 0 and dc == 0:
            continue
        first = _disjoint_pairs(row, col, dr, dc, rows, cols, n)
        second = first + dr * cols + dc
        a, b = owner[first], owner[second]
        worse = (scaled[a] - scaled[b]) @ np.array([-dr, -dc], float) < 0
        owner[first[worse]], owner[second[worse]] = b[worse], a[worse]
    cells = np.empty(n, np.int64)
    cells[owner] = np.arange(n)
    return cells


def _disjoint_pairs(row, col, dr, dc, rows, cols, n):
    """Cells that may be exchanged with the cell at an offset, such that no cell is in two pairs."""
    inside = (row + dr >= 0) & (row + dr < rows) & (col + dc >= 0) & (col + dc < cols)
    block = row // abs(dr) if dr else col // abs(dc)
    first = np.flatnonzero(inside & (block % 2 == 0))
    return first[first + dr * cols + dc < n]


def hilbert_curve(rows, cols):
    """Walk through all cells of a rectangle so that neighbours in the walk are neighbours on the sheet.

    A Hilbert curve for any side lengths: the rectangle is split along its longer side, or into three parts around a
    turn, down to lines of single cells. At odd sides a step may be diagonal.

    Parameters
    ----------
    rows, cols : int
        Side lengths.

    Returns
    -------
    ndarray of shape (rows * cols, 2)
        Row and column of each step.

    Examples
    --------
    >>> hilbert_curve(2, 2).tolist()
    [[0, 0], [1, 0], [1, 1], [0, 1]]
    """
    major, minor = ((0, cols), (rows, 0)) if cols > rows else ((rows, 0), (0, cols))
    return np.array(list(_walk((0, 0), major, minor)), np.int64).reshape(-1, 2)


def _walk(start, a, b):
    """Walk the rectangle spanned by the vectors a (direction of travel) and b from its corner ``start``."""
    length, width = abs(a[0] + a[1]), abs(b[0] + b[1])
    da, db = _unit(a), _unit(b)
    if width == 1 or length == 1:
        steps, d = (length, da) if width == 1 else (width, db)
        yield from ((start[0] + d[0] * i, start[1] + d[1] * i) for i in range(steps))
        return
    half_a, half_b = (a[0] // 2, a[1] // 2), (b[0] // 2, b[1] // 2)
    if 2 * length > 3 * width:  # long: two rectangles one after the other
        if abs(half_a[0] + half_a[1]) % 2 and length > 2:
            half_a = _plus(half_a, da)
        yield from _walk(start, half_a, b)
        yield from _walk(_plus(start, half_a), _minus(a, half_a), b)
        return
    if abs(half_b[0] + half_b[1]) % 2 and width > 2:  # about square: up, across, down
        half_b = _plus(half_b, db)
    yield from _walk(start, half_b, half_a)
    yield from _walk(_plus(start, half_b), a, _minus(b, half_b))
    corner = _plus(start, _plus(_minus(a, da), _minus(half_b, db)))
    yield from _walk(corner, _minus((0, 0), half_b), _minus((0, 0), _minus(a, half_a)))


def _unit(v):
    return (int(np.sign(v[0])), int(np.sign(v[1])))


def _plus(u, v):
    return (u[0] + v[0], u[1] + v[1])


def _minus(u, v):
    return (u[0] - v[0], u[1] - v[1])
