"""Base class of the estimators: inputs, checks, sorted results, time courses, scores, nilearn's maskers."""

import warnings
from functools import cached_property

import numpy as np
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted, check_memory

from ..exceptions import NumericalWarning, ParameterError
from ..models.devices import as_device
from .engines.group import check_n_components, warn_dead
from .engines.leading import leading
from .engines.maps import least_squares_courses, order_maps
from .engines.nilearn_engine import fit_stock
from .engines.parallel import workers
from .engines.progress import show_progress
from .engines.runs import CleanedRuns
from .inputs import as_confounds, load_runs
from .options import CLEANING, check_options, engine_of, options_of_masker
from .result import THRESHOLD, NetworkSet, describe_maps
from .scope import decompose_parts, parts_of

_LAZY = ("components_img_", "masker_", "maps_masker_", "mask_img_", "memory_")


class NetworkEstimator:
    """Mixin of :class:`CanICA` and :class:`DictLearning` over nilearn's classes of the same names.

    A subclass names its parameters in its constructor, passes ``locals()`` to :meth:`_store`, and implements
    ``_fit_torch`` and ``_fit_nilearn`` (the engines), ``_check`` and ``_threshold``.
    """

    def _store(self, given):
        """Store the arguments of the constructor unchanged, as scikit-learn expects."""
        for name in self._get_param_names():
            setattr(self, name, given[name])

    def fit(self, imgs, y=None, confounds=None):
        """Find the networks of a recording.

        Parameters
        ----------
        imgs : Recording, Run, path of a study, or list of runs, images, paths or arrays (n_tokens, n_neurons)
            The runs, which are decomposed as a group.
        y : None
            Ignored.
        confounds : list of ndarray, DataFrame or path, optional
            For each run ``(n_tokens, n_confounds)``; removed from every neuron before it is scaled.

        Returns
        -------
        self

        Raises
        ------
        ParameterError
            If a parameter is not allowed, or the runs have too few tokens or neurons for ``n_components``.
        """
        del y
        options = options_of_masker(self)
        if options is not None:
            self._fit_as(imgs, confounds, **options)
            return self
        check_options(self)
        self._log("Loading data")
        runs = load_runs(imgs, self.geometry)
        confounds = as_confounds(confounds, len(runs.sources))
        self.cleaning_ = {name: getattr(self, name) for name in CLEANING}
        for k, n in enumerate(runs.n_tokens):
            self._log(f"Extracting region signals: run {k + 1}, {n} tokens", level=2)
        with show_progress(bool(self.verbose)):
            if isinstance(self.n_components, str) and self.n_components == "auto":
                return self._fit_auto(imgs, runs, confounds)
            check_n_components(self.n_components, runs.n_tokens, runs.geometry.n_neurons)
            self._check(runs)
            for name in _LAZY:
                self.__dict__.pop(name, None)
            self.geometry_ = runs.geometry
            engine = engine_of(self)
            self.engine_ = engine.name
            engine(self, runs, confounds)
        self._log(f"Found {self.networks_!r}")
        return self

    def _log(self, message, level=1):
        """Print a message in the form of nilearn's, if ``verbose`` is at least ``level``."""
        if self.verbose >= level:
            print(f"[{type(self).__name__}.fit] {message}")

    def _fit_as(self, imgs, confounds, **params):
        """Take over all results of a fit with other parameters."""
        fitted = clone(self).set_params(**params).fit(imgs, confounds=confounds)
        for name in _LAZY:
            self.__dict__.pop(name, None)
        self.__dict__.update({k: v for k, v in vars(fitted).items() if k.endswith("_") and not k.startswith("_")})

    def _fit_auto(self, imgs, runs, confounds):
        """Choose the number of components by their reproducibility, then fit with it."""
        from .evidence.order import choose_n_components

        if self.scope != "model":
            raise ParameterError(f'n_components="auto" needs scope="model"; got scope={self.scope!r}. Give a number.')
        seed = self.random_state if isinstance(self.random_state, (int, np.integer)) else 0
        sources = (
            runs.sources if self.mask is None else runs.part(parts_of(runs.geometry, "model", self.mask)[0].neurons)
        )
        order = choose_n_components(sources, random_state=seed, confounds=confounds, **self._cleaning)
        if runs.info.get("recording"):
            order.info["recording"] = runs.info["recording"]
        self._fit_as(imgs, confounds, n_components=order.n_components)
        self.n_components_, self.order_ = order.n_components, order
        return self

    @property
    def _cleaning(self):
        used = self.cleaning_
        return {"detrend": bool(used["detrend"]), "standardize": used["standardize"] not in (None, False)}

    def _check(self, runs):
        """Check the parameters that only this estimator has."""

    def _threshold(self, maps):
        """Threshold the maps in place."""

    def _finish_parts(self, runs, decompose, info, batch=None):
        """Decompose the parts of the scope on the fast engine, store the result and return it."""
        found = decompose_parts(runs, parts_of(runs.geometry, self.scope, self.mask), decompose, batch)
        self._threshold(found.maps)
        self.n_iter_, self.converged_, self.dead_ = found.n_iter, found.converged, found.dead
        info = {
            **info,
            "group": found.group,
            "flat_spectrum": found.flat,
            "tail_weights": found.tail_weights,
            "n_iter": np.asarray(found.n_iter).tolist(),
            "converged": np.asarray(found.converged).tolist(),
            "n_dead": int(found.dead.sum()),
        }
        self._finish(runs, found.maps, found.time_courses, found.variance, info, found.stability, found.support)
        return found

    def _finish_stock(self, runs, confounds, stock, info, **special):
        """Fit nilearn's own estimator, store its maps and return it."""
        neurons = self._living(runs, confounds)
        chosen = np.zeros(runs.geometry.n_neurons, bool)
        chosen[neurons] = True
        images = [image() for image in runs.images]
        fitted, converged = fit_stock(stock, self, images, runs.geometry.to_img(chosen), confounds, **special)
        if not converged:
            warnings.warn("At least one start of FastICA did not converge.", NumericalWarning, stacklevel=7)
        self.n_iter_, self.converged_ = np.array([-1]), np.array([converged])
        maps = np.zeros((len(fitted.components_), runs.geometry.n_neurons), np.float32)
        maps[:, neurons] = fitted.components_
        data = CleanedRuns(runs.sources, confounds, **self._cleaning)
        components, courses, variance = order_maps(data, runs.read_order(maps))
        info = {**info, "group": "runs", "rows_per_run": 1, "converged": [converged], "n_dead": int(self.dead_.sum())}
        self._finish(runs, runs.flat_order(components), courses, variance, info)
        return fitted

    def _living(self, runs, confounds):
        """Neurons for nilearn's estimator; inputs that it would silently ignore give a warning or an error."""
        neurons = parts_of(runs.geometry, "model", self.mask)[0].neurons
        data = CleanedRuns(runs.part(neurons), confounds, **self._cleaning)
        with workers(data.device):
            leading(data, self.n_components)  # raises if there are more components than directions
        dead = data.dead()
        warn_dead(dead, data, stacklevel=9)
        self.dead_ = np.zeros(runs.geometry.n_neurons, bool)
        self.dead_[neurons[dead.numpy()]] = True
        return neurons[~dead.numpy()]

    def _solver(self, **defaults):
        """Options of the fast engine: ``solver_params`` over the defaults."""
        given = dict(self.solver_params or {})
        unknown = sorted(set(given) - set(defaults))
        if unknown:
            raise ParameterError(f"Unknown solver_params {', '.join(unknown)}. Choose from {', '.join(defaults)}.")
        return {**defaults, **given, "device": as_device(given.get("device") or "auto")}

    def _finish(self, runs, components, courses, variance, info, stability=None, support=None):
        """Store a decomposition: sorted components in the flat order of neurons."""
        self.components_ = components
        self.variance_ = variance
        self.n_features_in_ = components.shape[1]
        metrics = describe_maps(components, runs.geometry, variance=variance, stability=stability, support=support)
        info = {**settings_of(self, runs), "engine": self.engine_, **info}
        self.networks_ = NetworkSet(components, runs.geometry, metrics, info, courses, support)
        empty = [k for k in self.networks_.flagged if not components[k].any()]
        if empty:
            message = f"{len(empty)} of {len(components)} networks are empty (numbers {empty}) and are flagged."
            warnings.warn(message, NumericalWarning, stacklevel=8)

    def _clean(self, imgs, confounds):
        runs = load_runs(imgs, self.geometry_)
        return CleanedRuns(runs.sources, as_confounds(confounds, len(runs.sources)), **self._cleaning), runs

    def transform(self, imgs, confounds=None):
        """Compute the time courses of the networks in any runs, a list of arrays ``(n_tokens, n_components)``.

        The runs are cleaned as in the fit (each neuron centred and z-scored within each run) and regressed on the maps
        by least squares. nilearn's own ``transform`` regresses the raw data. ``imgs`` and ``confounds`` are those of
        :meth:`fit`. The courses are float32, or of the type ``dtype`` if it is given.
        """
        check_is_fitted(self)
        data, runs = self._clean(imgs, confounds)
        courses = self._courses(data, runs)
        n_bad = int(data.bad.sum())
        if n_bad:
            message = f"{n_bad} of {len(data.bad)} neurons hold NaN or infinite values in a run; its courses lack them."
            warnings.warn(message, NumericalWarning, stacklevel=2)
        return [course.astype(kind, copy=False) for course, kind in zip(courses, self._dtypes(runs))]

    def _dtypes(self, runs):
        """Type of the courses of each run: as in nilearn, "auto" is int32 for integers and float32 for others."""
        dtype = self.cleaning_["dtype"]
        if dtype == "auto":
            return [np.int32 if kind.kind == "i" else np.float32 for kind in runs.dtypes]
        return [np.float32 if dtype is None else dtype] * len(runs.sources)

    def _courses(self, data, runs):
        maps, support = runs.read_order(self.components_), self.networks_.support
        if support is None:
            return least_squares_courses(data, maps)
        _, group = np.unique(support, axis=0, return_inverse=True)  # each layer or window has its own regression
        courses = [np.zeros((n, len(maps)), np.float32) for n in runs.n_tokens]
        for k in np.unique(group):
            rows = np.flatnonzero(group.ravel() == k)
            for course, part in zip(courses, least_squares_courses(data, maps[rows])):
                course[:, rows] = part
        return courses

    def score(self, imgs, y=None, confounds=None, per_component=False):
        """Compute the share of the variance of cleaned runs that the maps explain.

        Returns a float, or with ``per_component`` what each map explains alone, ``(n_components,)``. The other
        parameters are those of :meth:`fit`.
        """
        del y
        check_is_fitted(self)
        data, runs = self._clean(imgs, confounds)
        maps = runs.read_order(self.components_).astype(np.float64)
        courses = least_squares_courses(data, maps)
        table = sum(c.astype(np.float64).T @ c for c in courses)
        gram = maps @ maps.T
        if not per_component:
            return float(np.sum(table * gram) / data.sum_of_squares())
        norms = np.maximum(np.diag(gram), 1e-30)
        alone = np.einsum("ij,jk,ki->i", gram, table, gram) / norms
        return alone / data.sum_of_squares()

    def masks(self, threshold=None, two_sided=True):
        """Return the networks as sets of neurons; see :meth:`NetworkSet.masks`."""
        check_is_fitted(self)
        return self.networks_.masks(threshold, two_sided)

    def __sklearn_is_fitted__(self):
        return "components_" in self.__dict__

    # -- attributes of nilearn's estimators, computed on first use -------------------------------------------------
    @cached_property
    def components_img_(self):
        """The maps as a 4D NIfTI image."""
        check_is_fitted(self)
        return self.geometry_.to_img(self.components_)

    @cached_property
    def mask_img_(self):
        """Image of all neurons, also if ``mask`` restricted the networks to some of them."""
        return self.masker_.mask_img_

    @cached_property
    def memory_(self):
        """joblib's cache, as nilearn's estimators have it."""
        check_is_fitted(self)
        return check_memory(self.memory)

    @cached_property
    def masker_(self):
        """nilearn's masker of the neurons, fitted, with the cleaning of the fit."""
        from nilearn.maskers import MultiNiftiMasker

        check_is_fitted(self)
        options = dict(self.cleaning_)
        if options["standardize"] in (True, False):
            options["standardize"] = "zscore_sample" if options["standardize"] else None
        if options["dtype"] not in (None, "auto") and np.dtype(options["dtype"]).kind != "f":
            options["dtype"] = None  # integers would lose z-scores
        options |= {"memory": self.memory_, "memory_level": max(self.memory_level - 1, 0), "n_jobs": self.n_jobs}
        return MultiNiftiMasker(self.geometry_.mask_img, **options, verbose=max(int(self.verbose) - 1, 0)).fit()

    @cached_property
    def maps_masker_(self):
        """nilearn's masker of the maps, fitted."""
        from nilearn.maskers import NiftiMapsMasker

        check_is_fitted(self)
        options = {"dtype": self.cleaning_["dtype"], "memory": self.memory_, "memory_level": self.memory_level}
        images = self.components_img_, self.mask_img_
        return NiftiMapsMasker(*images, resampling_target="maps", standardize=None, **options).fit()


def settings_of(estimator, runs):
    """Settings of a fit, for the ``info`` of its result."""
    return {
        "method": type(estimator).__name__,
        "n_components": int(estimator.n_components),
        "n_tokens": runs.n_tokens,
        "threshold": THRESHOLD,
        "parameters": {k: v for k, v in estimator.get_params().items() if _is_plain(v)},
        **runs.info,
    }


def _is_plain(value):
    if isinstance(value, dict):
        return all(_is_plain(v) for v in value.values())
    return value is None or isinstance(value, (str, bool, int, float))


def keep_largest(maps, ratio):
    """Set all but the ``ratio * n_neurons`` largest values of all maps together to zero, in place."""
    if ratio is None or ratio >= len(maps):
        return
    sizes = np.abs(maps).ravel()
    drop = sizes.size - round(ratio * maps.shape[1])
    maps[np.abs(maps) < np.partition(sizes, drop)[drop]] = 0
