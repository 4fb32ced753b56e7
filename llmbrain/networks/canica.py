"""Canonical independent component analysis of a recording."""

import numpy as np
from nilearn.decomposition import CanICA as StockCanICA

from ..exceptions import ParameterError
from .base import NetworkEstimator, threshold_maps
from .engines.group import group_ica
from .engines.layers import can_batch, group_ica_of_parts

__all__ = ["CanICA"]


class CanICA(NetworkEstimator, StockCanICA):
    """Independent networks of neurons: nilearn's CanICA with the defaults that are right here.

    Every neuron is used (no brain mask), nothing is smoothed or detrended, each neuron is z-scored within each run, no
    threshold is laid on the maps, and the seed is fixed. Components are sorted by the variance they explain, with
    the peak positive.

    Parameters
    ----------
    n_components : int or "auto"
        Number of networks. Too many cost time, too few merge networks. ``"auto"`` takes the number with most networks
        found again in the other half of the text (:func:`~llmbrain.networks.choose_n_components`), kept in ``order_``.
    engine : {"torch", "nilearn"}
        ``"torch"`` computes the same model with exact, truncated decompositions, many times faster; ``"nilearn"`` is
        the stock estimator, the reference. Options that only nilearn knows (smoothing, filters) always run on it.
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
                f"threshold={self.threshold!r} must be None, 'auto', or lie between 0 and "
                f"n_components={self.n_components}."
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

    def _decompose_fast(self, runs, confounds):
        solver = self._solver(group="auto", rows_per_run=5, contrast="cube", max_iter=200, tol=1e-4, device=None)

        shared = {
            "confounds": confounds,
            "n_init": self.n_init,
            "detrend": bool(self.detrend),
            "standardize": self.standardize not in (None, False),
            "random_state": self.random_state,
        }

        def decompose(sources, neurons):
            return group_ica(sources, self.n_components, do_cca=self.do_cca, **shared, **solver)

        def batch(parts):
            if not can_batch(parts, solver["device"], solver["group"], solver["contrast"]):
                return None
            search = {name: solver[name] for name in ("max_iter", "tol", "device")}
            return group_ica_of_parts(parts, self.n_components, **shared, **search)

        self._finish_parts(runs, decompose, {}, batch)

    def _threshold(self, maps):
        threshold_maps(maps, self._ratio())

    def _decompose_stock(self, runs, confounds):
        ratio = self._ratio()
        self._finish_stock(runs, confounds, StockCanICA, {}, do_cca=self.do_cca, n_init=self.n_init, threshold=ratio)
