"""Canonical independent component analysis of a recording."""

import warnings

import numpy as np
from nilearn.decomposition import CanICA as StockCanICA

from ..exceptions import LLMBrainWarning, ParameterError
from .base import NetworkEstimator, keep_largest
from .engines.group import group_ica
from .engines.layered import can_batch, group_ica_of_parts
from .engines.reduction import ROWS_PER_RUN
from .options import share_docs


@share_docs
class CanICA(NetworkEstimator, StockCanICA):
    """Independent networks of neurons: nilearn's CanICA with defaults that suit language models.

    All neurons are used (no brain mask), nothing is smoothed or detrended, each neuron is z-scored within each run, the
    maps are not thresholded, and the seed is fixed. Components are sorted by the variance they explain and their peaks
    are positive.

    Parameters
    ----------
    n_components : int or "auto"
        Number of networks. Too many cost time, too few merge networks. ``"auto"`` chooses the number with most networks
        that are found again in the other half of the text (:func:`~llmbrain.networks.choose_n_components`, whose result
        is stored in ``order_``).
    engine : {"torch", "nilearn"}
        ``"torch"`` computes the same model with exact, truncated decompositions, many times faster. ``"nilearn"`` is
        the stock estimator, as a reference; it is always used for options that only nilearn has (smoothing, filters).
    geometry : NeuronGeometry, optional
        Geometry of the neurons of arrays; a recording has its own.
    threshold : None, "auto" or float
        nilearn's threshold: all maps together keep ``threshold * n_neurons`` values. None keeps all. It does not
        affect :meth:`masks`.
    n_init : int
        Number of random starts of FastICA. The sparsest result is kept; the agreement of all starts is the stability in
        the metrics.
    random_state : int, RandomState or None
        Seed.
    scope : "model", "layer" or int
        Whether all layers are decomposed together, each layer separately, or all windows of this number of consecutive
        layers. Every layer or window gives ``n_components`` networks.
    solver_params : dict, optional
        Options of the fast engine: ``group`` (``"auto"``, ``"tokens"``, ``"runs"``), ``rows_per_run``,
        ``contrast`` (``"cube"``, ``"logcosh"``), ``max_iter``, ``tol``, ``device``; see
        :func:`~llmbrain.networks.group_ica`. ``dict(group="runs", rows_per_run=1)`` is nilearn's model step by step.
    do_cca : bool
        Whether every row of the reduced runs is scaled to unit norm, as in nilearn.
    {parameters of nilearn}

    Attributes
    ----------
    {shared attributes}
    converged_ : ndarray of shape (n_init,)
        Whether each start converged (a single value with ``"nilearn"``, which does not report them).
    n_iter_ : ndarray of shape (n_init,)
        Number of steps of each start.

    Notes
    -----
    ``components_img_``, ``masker_``, ``maps_masker_`` and ``mask_img_`` are as in nilearn, computed on first use.

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
        do_cca=True,
        mask=None,
        smoothing_fwhm=None,
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
        self._store(locals())

    def _check(self, runs):
        ratio = self._ratio()
        if ratio is not None and not 0 < ratio <= self.n_components:
            raise ParameterError(
                f"Threshold must not be higher than n_components={self.n_components}, and above 0; "
                f"got threshold={self.threshold!r}."
            )
        if ratio == self.n_components:
            message = (
                f"threshold={self.threshold!r} with n_components={self.n_components} obtained a critical threshold "
                "of 0: it keeps every value. Use a smaller one, or None."
            )
            warnings.warn(message, LLMBrainWarning, stacklevel=4)
        if not isinstance(self.n_init, (int, np.integer)) or self.n_init < 1:
            raise ParameterError(f"n_init must be a positive integer; got {self.n_init!r}.")

    def _ratio(self):
        if self.threshold is None:
            return None
        if isinstance(self.threshold, str) and self.threshold == "auto":
            return 1.0
        if isinstance(self.threshold, bool) or not isinstance(self.threshold, (int, float)):
            raise ParameterError(f"threshold must be None, 'auto' or a number; got {self.threshold!r}.")
        return float(self.threshold)

    def _fit_torch(self, runs, confounds):
        rows = ROWS_PER_RUN
        solver = self._solver(group="auto", rows_per_run=rows, contrast="cube", max_iter=200, tol=1e-4, device="auto")
        shared = {
            "confounds": confounds, "n_init": self.n_init, "random_state": self.random_state, **self._cleaning,
        }  # fmt: skip

        def decompose(sources, neurons):
            return group_ica(sources, self.n_components, do_cca=self.do_cca, **shared, **solver)

        def batch(parts, numbers):
            if not can_batch(parts, solver["device"], solver["group"]):
                return None
            search = {name: solver[name] for name in ("contrast", "max_iter", "tol", "device")}
            return group_ica_of_parts(parts, self.n_components, numbers=numbers, **shared, **search)

        self._finish_parts(runs, decompose, {"rows_per_run": solver["rows_per_run"]}, batch)

    def _threshold(self, maps):
        keep_largest(maps, self._ratio())

    def _fit_nilearn(self, runs, confounds):
        self._finish_stock(runs, confounds, StockCanICA, {}, threshold=self._ratio())
