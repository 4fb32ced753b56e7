"""Temporal independent component analysis, as in the first studies of networks in language models."""

from pathlib import Path

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from ..exceptions import ParameterError, check_seed
from .base import settings_of
from .engines.group import check_n_components, check_search, warn_convergence, warn_dead
from .engines.ica import draw_rotations, extreme_start, fastica
from .engines.leading import leading
from .engines.linalg import product
from .engines.maps import least_squares_courses, run_products
from .engines.parallel import block_map, workers
from .engines.runs import CleanedRuns
from .engines.sources import ArraySource
from .evidence.stability import restart_stability
from .inputs import as_confounds, load_runs
from .result import NetworkSet, describe_maps


class TemporalICA(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Networks whose time courses, rather than maps, are independent.

    Tokens are the samples and neurons the features of FastICA, as in scikit-learn's ``FastICA`` applied to the
    concatenated texts; a map is a column of the mixing matrix. The decomposition is exact and reads neurons in blocks.

    Parameters
    ----------
    n_components : int
        Number of networks.
    geometry : NeuronGeometry, optional
        Geometry of the neurons of arrays; a recording has its own.
    standardize : None or "zscore_sample"
        Whether each neuron is z-scored over all tokens. The published method does not do this, so neurons of large
        variance dominate.
    contrast : {"logcosh", "cube"}
        Contrast of FastICA.
    n_init : int
        Number of random starts. The result whose courses are farthest from Gaussian is kept (largest squared deviation
        of the mean contrast from its Gaussian value).
    max_iter, tol : int, float
        End of the iteration: largest number of steps, and the criterion of convergence.
    random_state : int, RandomState or None
        Seed.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_neurons), float32
        Maps: columns of the mixing matrix, by falling share of variance, peak positive.
    mean_ : ndarray of shape (n_neurons,)
        Mean of each neuron over all tokens.
    variance_ : ndarray of shape (n_components,)
        Share of the variance that each network explains.
    networks_ : NetworkSet
        Maps with metrics and the time courses, which have unit variance over all tokens.
    n_iter_, converged_ : ndarray of shape (n_init,)
    n_features_in_ : int

    References
    ----------
    Hyvärinen (1999), IEEE Trans. Neural Networks 10(3), 626-634; used on language models by Liu et al. (2025), arXiv
    2502.20408.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> run = rng.laplace(size=(300, 3)) @ rng.normal(size=(3, 50))
    >>> ica = TemporalICA(3).fit(run)
    >>> ica.components_.shape, ica.transform(run).shape
    ((3, 50), (300, 3))
    """

    def __init__(
        self,
        n_components=10,
        *,
        geometry=None,
        standardize=None,
        contrast="logcosh",
        n_init=1,
        max_iter=200,
        tol=1e-4,
        random_state=0,
    ):
        self.n_components = n_components
        self.geometry = geometry
        self.standardize = standardize
        self.contrast = contrast
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state

    def fit(self, X, y=None, confounds=None):
        """Find the networks of a recording, whose runs are concatenated.

        Parameters
        ----------
        X : ndarray of shape (n_tokens, n_neurons), Recording, or list of runs, paths, images or arrays
        y : None
            Ignored.
        confounds : list of ndarray, DataFrame or path, optional
            For each run ``(n_tokens, n_confounds)``; removed from every neuron over all tokens.

        Returns
        -------
        self

        Raises
        ------
        ParameterError
            If a parameter is not allowed, or there are too few tokens for ``n_components``.
        """
        del y
        self._check_parameters()
        runs, _ = self._load(X, reset=True)
        confounds = as_confounds(confounds, len(runs.sources))
        check_n_components(self.n_components, [sum(runs.n_tokens)], runs.geometry.n_neurons)
        data = self._clean(runs, confounds)
        with workers():
            found = leading(data, self.n_components)
            vectors = found.left
            if vectors is None:  # of more tokens than neurons
                vectors = torch.cat(run_products(data, found.right)) / found.values.sqrt()
            z = (vectors.T * len(vectors) ** 0.5).float().contiguous()
            starts = draw_rotations(self.n_init, self.n_components, self.random_state)
            found = fastica(z, starts, contrast=self.contrast, max_iter=self.max_iter, tol=self.tol)
            chosen = extreme_start(found.w, z, self.contrast)
            courses = product(found.w[chosen].float(), z)
            maps = _mix(data, courses)
        self._store(runs, data, maps, courses, found, chosen)
        return self

    def fit_transform(self, X, y=None, confounds=None):
        """Fit and return the time courses of the same runs; see :meth:`fit` and :meth:`transform`."""
        return self.fit(X, y, confounds=confounds).transform(X, confounds=confounds)

    def transform(self, X, confounds=None):
        """Compute time courses ``(n_tokens, n_components)`` by least squares; for a list of runs a list of them."""
        check_is_fitted(self)
        runs, single = self._load(X, reset=False)
        if single and confounds is None and isinstance(X, np.ndarray):
            return self._transform_array(X)
        data = self._clean(runs, as_confounds(confounds, len(runs.sources)), fitted=True)
        courses = least_squares_courses(data, runs.read_order(self.components_))[0]
        parts = np.split(courses, np.cumsum(runs.n_tokens)[:-1])
        return parts[0].astype(np.result_type(getattr(X, "dtype", np.float32), np.float32)) if single else parts

    def _transform_array(self, X):
        """Time courses of an array in memory, computed in float64."""
        maps = self.components_.astype(np.float64)
        weights = np.linalg.pinv(maps @ maps.T, hermitian=True) @ maps * self.scale_
        step = max(1, (1 << 22) // X.shape[1])
        courses = np.empty((len(X), len(maps)))
        for start in range(0, len(X), step):
            part = X[start : start + step].astype(np.float64)
            part[:, self.dead_] = 0
            courses[start : start + step] = (part - np.where(self.dead_, 0, self.mean_)) @ weights.T
        return courses.astype(np.result_type(X.dtype, np.float32), copy=False)

    def masks(self, threshold=None, two_sided=True):
        """Networks as sets of neurons; see :meth:`NetworkSet.masks`."""
        check_is_fitted(self)
        return self.networks_.masks(threshold, two_sided)

    def _check_parameters(self):
        if self.standardize not in (None, "zscore_sample"):
            raise ParameterError(f"standardize must be None or 'zscore_sample'; got {self.standardize!r}.")
        if self.random_state is not None and not isinstance(self.random_state, np.random.RandomState):
            check_seed(self.random_state)
        check_search(self.n_init, self.contrast, self.max_iter, self.tol)

    def _load(self, X, reset):
        """Runs, and whether they came as one array."""
        single = not isinstance(X, (list, tuple)) or _is_table(X)
        plain = single and not hasattr(X, "runs") and not hasattr(X, "raw") and not hasattr(X, "dataobj")
        if plain and not hasattr(X, "__fspath__") and not isinstance(X, str):
            least = dict.fromkeys(("ensure_min_samples", "ensure_min_features"), 2 if reset else 1)
            X = validate_data(self, X, reset=reset, dtype=None, ensure_all_finite=False, **least)
            if X.dtype.kind not in "fiub":
                X = X.astype(np.float64)
        return load_runs(X, self.geometry if reset else self.geometry_), single

    def _clean(self, runs, confounds, fitted=False):
        """All runs as one, cleaned by their own mean and scale, or by those of the fit and without its dead neurons."""
        source = _Concatenated(runs.sources)
        if confounds is not None:
            if any(c is None for c in confounds) or len({c.reshape(len(c), -1).shape[1] for c in confounds}) > 1:
                raise ParameterError("Concatenated runs need the same confounds in each run.")
            confounds = [np.concatenate([c.reshape(len(c), -1) for c in confounds])]
        data = CleanedRuns([source], confounds, standardize=self.standardize is not None, min_tokens=1 if fitted else 2)
        if fitted:
            kept = (self.mean_, self.scale_, self.dead_)
            data.use(*(torch.from_numpy(runs.read_order(a)) for a in kept))
        return data

    def _store(self, runs, data, maps, courses, found, chosen):
        energy = maps.double().square().sum(1) * courses.shape[1]
        order = torch.argsort(energy, descending=True, stable=True)
        signs = torch.where(maps.amax(1) < -maps.amin(1), -1.0, 1.0)[order]
        dead = data.dead()
        maps = maps[order] * signs[:, None]
        maps[:, dead] = 0
        self.geometry_ = runs.geometry
        self.components_ = runs.flat_order(maps.numpy())
        self.mean_ = runs.flat_order(data.mean[0].numpy())
        self.scale_ = runs.flat_order(data.scale[0].numpy())
        self.dead_ = runs.flat_order(dead.numpy())
        self.variance_ = (energy[order] / data.total).numpy()
        self.n_iter_, self.converged_ = found.n_iter, found.converged
        self.n_features_in_ = runs.geometry.n_neurons
        self._n_features_out = self.n_components
        warn_dead(dead, data)
        warn_convergence(found.converged, found.change.max())
        courses = (courses[order] * signs[:, None]).T.contiguous().numpy()
        stability = restart_stability(found.w.numpy(), chosen)[order.numpy()]
        info = {"n_iter": found.n_iter.tolist(), "converged": found.converged.tolist(), "n_dead": int(dead.sum())}
        metrics = describe_maps(self.components_, runs.geometry, variance=self.variance_, stability=stability)
        courses = np.split(courses, np.cumsum(runs.n_tokens)[:-1])
        info = {**settings_of(self, runs), **info}
        self.networks_ = NetworkSet(self.components_, runs.geometry, metrics, info, courses)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True  # neurons that hold NaN are excluded with a warning
        return tags


def _is_table(rows):
    """Whether a list is one run as rows of numbers, rather than a list of runs."""
    return len(rows) > 0 and not isinstance(rows[0], (str, Path)) and np.ndim(rows[0]) == 1


class _Concatenated(ArraySource):
    """Concatenated runs."""

    def __init__(self, sources):
        super().__init__(None, sum(s.n_tokens for s in sources), sources[0].n_neurons)
        self.sources = sources

    def read(self, start, stop, out, first=0):
        """Read the neurons of every run, from token ``first`` of all runs on, into its rows of ``out``."""
        done = 0
        for source in self.sources:
            n = min(max(source.n_tokens - first, 0), len(out) - done)
            if n:
                source.read(start, stop, out[done : done + n], first)
            done, first = done + n, max(first - source.n_tokens, 0)


def _mix(data, courses):
    """Columns of the mixing matrix, ``(n_components, n_neurons)``; also stores the sum of squares of the data."""
    maps = torch.empty(len(courses), data.n_neurons)

    def part(block):
        x = data.block(0, *block)
        maps[:, block[0] : block[1]] = product(courses, x) / courses.shape[1]
        return float(x.square().sum(dtype=torch.float64))

    data.total = sum(block_map(part, data.blocks()))
    return maps
