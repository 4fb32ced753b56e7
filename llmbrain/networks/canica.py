"""Canonical independent component analysis of a recording."""

import warnings

import numpy as np
from nilearn.decomposition import CanICA as StockCanICA

from ..exceptions import NumericalWarning, ParameterError
from .base import NetworkEstimator
from .engines.torch_engine import group_ica, order_maps
from .options import needs_nilearn

__all__ = ["CanICA"]


class CanICA(NetworkEstimator, StockCanICA):
    """Independent networks of neurons: nilearn's CanICA with the defaults that are right here.

    Every neuron is used (no brain mask), nothing is smoothed or detrended, each neuron is z-scored within each run, no
    threshold is laid on the maps, and the seed is fixed. Components are sorted by the variance they explain, with
    the peak positive.

    Parameters
    ----------
    n_components : int
        Number of networks. Too many cost time, too few merge networks.
    engine : {"torch", "nilearn"}
        ``"torch"`` computes the same model with exact, truncated decompositions, many times faster; ``"nilearn"`` is the
        stock estimator, the reference. Options that only nilearn knows (smoothing, filters) always run on it.
    geometry : NeuronGeometry, optional
        Where the neurons of arrays lie; a recording brings its own.
    threshold : None, "auto" or float
        nilearn's threshold: the maps together keep ``threshold`` times ``n_neurons`` values. None keeps all;
        :meth:`masks` has its own.
    n_init : int
        Random starts of FastICA. The sparsest result is taken; their agreement is the stability in the metrics.
    random_state : int, RandomState or None
        Seed.
    scope : "model", "layer" or int
        Whether all layers are decomposed at once, each by itself, or windows of so many consecutive layers, as in
        the studies of language models. Every layer or window gives ``n_components`` networks.
    solver_params : dict, optional
        Options of the fast engine: ``group`` (``"auto"``, ``"tokens"``, ``"runs"``), ``rows_per_run``,
        ``contrast`` (``"cube"``, ``"logcosh"``), ``max_iter``, ``tol``, ``device``; see
        :func:`~llmbrain.networks.group_ica`. ``dict(group="runs", rows_per_run=1)`` is nilearn's model step by step.
    mask, smoothing_fwhm, do_cca, standardize, standardize_confounds, detrend, low_pass, high_pass, t_r, dtype, \
target_affine, target_shape, mask_strategy, mask_args, memory, memory_level, n_jobs, verbose
        nilearn's parameters. ``mask`` restricts the networks to some neurons (an image or a ``NeuronMask``). Those that
        are harmful here say what they would do. ``n_jobs``, ``memory`` and ``verbose`` concern the engine
        ``"nilearn"``; results do not depend on them.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_neurons), float32
        Maps of unit norm, in the flat order of neurons.
    networks_ : NetworkSet
        Maps with metrics, time courses and settings.
    variance_ : ndarray of shape (n_components,)
        Share of the variance of the cleaned data that each map explains.
    n_iter_, converged_ : ndarray of shape (n_init,)
        Steps of each start, and whether it met the tolerance (unknown, hence a single value, with ``"nilearn"``).
    engine_ : str
        The engine that was used.
    geometry_ : NeuronGeometry
    components_img_, masker_, maps_masker_, mask_img_
        As in nilearn, made when they are asked for.

    References
    ----------
    Varoquaux et al. (2010), NeuroImage 51, 288-299.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> maps = rng.laplace(size=(3, 400)) ** 3
    >>> run = rng.normal(size=(80, 3)) @ maps + rng.normal(size=(80, 400))
    >>> canica = CanICA(n_components=3).fit([run])
    >>> canica.components_.shape, canica.transform([run])[0].shape
    ((3, 400), (80, 3))
    """

    def __init__(
        self,
        n_components=20,
        *,
        engine="torch",
        geometry=None,
        threshold=None,
        n_init=10,
        random_state=0,
        scope="model",
        solver_params=None,
        mask=None,
        smoothing_fwhm=None,
        do_cca=True,
        standardize="zscore_sample",
        standardize_confounds=True,
        detrend=False,
        low_pass=None,
        high_pass=None,
        t_r=None,
        dtype=None,
        target_affine=None,
        target_shape=None,
        mask_strategy=None,
        mask_args=None,
        memory=None,
        memory_level=0,
        n_jobs=1,
        verbose=0,
    ):
        super().__init__(
            mask=mask,
            n_components=n_components,
            smoothing_fwhm=smoothing_fwhm,
            do_cca=do_cca,
            threshold=threshold,
            n_init=n_init,
            random_state=random_state,
            standardize=standardize,
            standardize_confounds=standardize_confounds,
            detrend=detrend,
            low_pass=low_pass,
            high_pass=high_pass,
            t_r=t_r,
            dtype=dtype,
            target_affine=target_affine,
            target_shape=target_shape,
            mask_strategy=mask_strategy,
            mask_args=mask_args,
            memory=memory,
            memory_level=memory_level,
            n_jobs=n_jobs,
            verbose=verbose,
        )
        self.engine = engine
        self.geometry = geometry
        self.scope = scope
        self.solver_params = solver_params

    def _check(self, runs):
        ratio = self._ratio()
        if ratio is not None and not 0 < ratio <= self.n_components:
            raise ParameterError(
                f"threshold={self.threshold!r} must lie between 0 and n_components={self.n_components}, be 'auto' or None."
            )
        if not isinstance(self.n_init, (int, np.integer)) or self.n_init < 1:
            raise ParameterError(f"n_init must be a positive integer; got {self.n_init!r}.")

    def _ratio(self):
        if self.threshold is None:
            return None
        if self.threshold == "auto":
            return 1.0
        if isinstance(self.threshold, bool) or not isinstance(self.threshold, (int, float)):
            raise ParameterError(f"threshold must be None, 'auto' or a number; got {self.threshold!r}.")
        return float(self.threshold)

    def _decompose(self, runs, confounds):
        if needs_nilearn(self):
            self._decompose_stock(runs, confounds)
        else:
            self._decompose_fast(runs, confounds)

    def _decompose_fast(self, runs, confounds):
        from .scope import decompose_parts, parts_of

        solver = self._solver(group="auto", rows_per_run=3, contrast="cube", max_iter=200, tol=1e-4, device=None)
        self.engine_ = "torch"
        parts = parts_of(runs.geometry, self.scope, self.mask)
        found = decompose_parts(
            runs,
            parts,
            lambda sources: group_ica(
                sources,
                self.n_components,
                confounds=confounds,
                do_cca=self.do_cca,
                n_init=self.n_init,
                detrend=bool(self.detrend),
                standardize=self.standardize not in (None, False),
                random_state=self.random_state,
                **solver,
            ),
        )
        components = found.maps
        threshold_maps(components, self._ratio())
        self.n_iter_, self.converged_, self.dead_ = found.n_iter, found.converged, found.dead
        info = {
            "group": found.group,
            "n_iter": np.asarray(found.n_iter).tolist(),
            "converged": np.asarray(found.converged).tolist(),
            "n_dead": int(found.dead.sum()),
        }
        self._finish(
            runs,
            components,
            courses=found.time_courses,
            variance=found.variance,
            stability=found.stability,
            info=info,
            support=found.support,
        )

    def _decompose_stock(self, runs, confounds):
        from .engines.nilearn_engine import fit_stock
        from .scope import parts_of

        if self.solver_params:
            raise ParameterError("solver_params are options of engine='torch'; nilearn's chain has none of them.")
        self.engine_ = "nilearn"
        neurons = parts_of(runs.geometry, "model", self.mask)[0].neurons
        chosen = np.zeros(runs.geometry.n_neurons, bool)
        chosen[neurons] = True
        stock, converged = fit_stock(
            StockCanICA,
            self,
            [image() for image in runs.images],
            runs.geometry.to_img(chosen),
            confounds,
            do_cca=self.do_cca,
            threshold=float(self._ratio()) if self._ratio() is not None else None,
            n_init=self.n_init,
        )
        if not converged:
            warnings.warn("At least one start of FastICA did not converge.", NumericalWarning, stacklevel=4)
        self.n_iter_, self.converged_ = np.array([-1]), np.array([converged])
        maps = np.zeros((len(stock.components_), runs.geometry.n_neurons), np.float32)
        maps[:, neurons] = stock.components_
        data, _ = self._clean_runs(runs, confounds)
        components, courses, variance = order_maps(data, runs.read_order(maps))
        self._finish(
            runs,
            runs.flat_order(components),
            courses=courses,
            variance=variance,
            info={"group": "runs", "converged": [converged]},
        )


def threshold_maps(maps, ratio):
    """Set all but the largest values to zero, in place: ``ratio * n_neurons`` of all maps together are kept."""
    if ratio is None or ratio >= len(maps):
        return
    sizes = np.abs(maps).ravel()
    drop = sizes.size - round(ratio * maps.shape[1])
    maps[np.abs(maps) < np.partition(sizes, drop)[drop]] = 0
