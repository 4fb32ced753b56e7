"""Sparse dictionaries of networks."""

import warnings

import numpy as np
from nilearn.decomposition import DictLearning as StockDictLearning

from ..exceptions import HarmfulOptionWarning, ParameterError, check_count, is_number
from .base import NetworkEstimator
from .engines.dictionary import group_dictionary
from .options import needs_nilearn, share_docs

_BATCH = (
    "batch_size={value} makes nilearn's online solver learn from a small part of the neurons: networks are found less "
    "well, and some maps become zero. Use at least 200."
)
_EPOCHS = (
    "n_epochs={value} has no effect in nilearn's online solver, which stops after some batches. With engine='torch' "
    "every epoch is a pass over all neurons."
)


@share_docs
class DictLearning(NetworkEstimator, StockDictLearning):
    """Sparse networks of neurons: nilearn's DictLearning with defaults that suit language models.

    The maps are sparse, so a network is where its map is not zero. In nilearn ``n_epochs`` has no effect, the default
    ``alpha=10``, whose meaning depends on the number of tokens, can set maps to zero, and the dictionary is learned
    from a few thousand neurons. Here ``alpha`` is scaled by the amount of data and, with the engine ``"torch"``, every
    epoch is a pass over all neurons.

    Parameters
    ----------
    n_components : int or "auto"
        Number of networks; ``"auto"`` as in :class:`CanICA`.
    engine : {"torch", "nilearn"}
        ``"torch"`` solves the same problem by full passes, starting from independent components; ``"nilearn"`` is the
        stock online solver with batches of 200 neurons.
    geometry : NeuronGeometry, optional
        Geometry of the neurons of arrays; a recording has its own.
    alpha : "auto" or float
        Weight of sparsity. ``"auto"`` is ``0.1 * sqrt(n_tokens)`` with the tokens of all runs. Weak signals need a
        smaller factor.
    n_epochs : int
        Largest number of passes over all neurons.
    dict_init : image, array (n_components, n_neurons) or NetworkSet, optional
        Initial maps. The engine ``"nilearn"`` z-scores them across maps, as if they were tokens.
    random_state : int, RandomState or None
        Seed.
    scope : "model", "layer" or int
        See :class:`CanICA`.
    solver_params : dict, optional
        Options of the fast engine: ``group``, ``rows_per_run``, ``tol``, ``device``; see
        :func:`~llmbrain.networks.engines.dictionary.group_dictionary`.
    batch_size : int
        Neurons of each batch of the engine ``"nilearn"``.
    method : {"cd", "lars"}
        Solver of the engine ``"nilearn"``.
    reduction_ratio : "auto"
        nilearn's parameter, which it never reads.
    {parameters of nilearn}

    Attributes
    ----------
    {shared attributes}
    alpha_ : float
        The weight of sparsity that was used.
    components_init_ : ndarray of shape (n_components, n_neurons)
        Initial maps, in their own order.
    converged_ : ndarray of shape (1,)
        Whether the objective converged.
    loadings_init_ : ndarray, or list of ndarray
        Loadings of the data on the initial maps; a list if there are several layers or windows.
    n_iter_ : ndarray of shape (1,)
        Number of passes.

    Notes
    -----
    ``components_img_``, ``masker_``, ``maps_masker_`` and ``mask_img_`` are as in nilearn, computed on first use.

    References
    ----------
    Mensch et al. (2016), ISBI, 1282-1285.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> maps = rng.laplace(size=(3, 400)) ** 3
    >>> run = rng.normal(size=(80, 3)) @ maps + rng.normal(size=(80, 400))
    >>> learned = DictLearning(n_components=3).fit([run])
    >>> learned.components_.shape, bool((learned.components_ == 0).any())
    ((3, 400), True)
    """

    def __init__(
        self,
        n_components=20,
        *,
        engine="torch",
        geometry=None,
        alpha="auto",
        n_epochs=100,
        dict_init=None,
        random_state=0,
        scope="model",
        solver_params=None,
        batch_size=200,
        method="cd",
        reduction_ratio="auto",
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
        if self.alpha != "auto" and (not isinstance(self.alpha, (int, float)) or not self.alpha > 0):
            raise ParameterError(f"alpha must be 'auto' or a positive number; got {self.alpha!r}.")
        check_count("batch_size", self.batch_size)
        if not is_number(self.n_epochs) or self.n_epochs < 1:
            raise ParameterError(f"n_epochs must be at least 1; got {self.n_epochs!r}.")
        if self.reduction_ratio != "auto":
            message = f"reduction_ratio={self.reduction_ratio!r} has no effect: nilearn never reads it."
            warnings.warn(message, HarmfulOptionWarning, stacklevel=4)
        if self.n_epochs != 100 and needs_nilearn(self):
            warnings.warn(_EPOCHS.format(value=self.n_epochs), HarmfulOptionWarning, stacklevel=4)
        if self.batch_size < 200 and needs_nilearn(self):
            warnings.warn(_BATCH.format(value=self.batch_size), HarmfulOptionWarning, stacklevel=4)
        self.alpha_ = 0.1 * sum(runs.n_tokens) ** 0.5 if self.alpha == "auto" else float(self.alpha)

    def _fit_torch(self, runs, confounds):
        solver = self._solver(group="auto", rows_per_run=2, tol=1e-4, device="auto")
        init = None if self.dict_init is None else self._init_maps(runs.geometry)

        def decompose(sources, neurons):
            given = {"alpha": self.alpha_, "init": None if init is None else init[:, neurons], "confounds": confounds}
            given |= {"n_epochs": int(self.n_epochs), "random_state": self.random_state}
            return group_dictionary(sources, self.n_components, **given, **self._cleaning, **solver)

        found = self._finish_parts(runs, decompose, {"alpha": self.alpha_})
        self._keep_start(found.initial, runs.geometry.n_neurons)

    def _keep_start(self, begun, n_neurons):
        """Store the initial maps and loadings of all parts under nilearn's names."""
        self.components_init_ = np.zeros((sum(len(maps) for _, maps, _ in begun), n_neurons), np.float32)
        first = 0
        for neurons, maps, _ in begun:
            self.components_init_[first : first + len(maps), neurons] = maps
            first += len(maps)
        loadings = [atoms for *_, atoms in begun]
        self.loadings_init_ = loadings[0] if len(loadings) == 1 else loadings

    def _init_maps(self, geometry):
        maps = getattr(self.dict_init, "maps", self.dict_init)
        maps = maps if isinstance(maps, np.ndarray) else geometry.to_array(maps)
        if maps.shape != (self.n_components, geometry.n_neurons):
            raise ParameterError(
                f"dict_init must hold n_components={self.n_components} maps of {geometry.n_neurons} neurons; "
                f"got {maps.shape}."
            )
        return maps

    def _fit_nilearn(self, runs, confounds):
        init = self.dict_init
        if init is not None:
            init = runs.geometry.to_img(self._init_maps(runs.geometry))
        info = {"alpha": self.alpha_}
        fitted = self._finish_stock(runs, confounds, StockDictLearning, info, alpha=self.alpha_, dict_init=init)
        neurons = np.flatnonzero(runs.geometry.to_array(fitted.masker_.mask_img_) > 0)
        self._keep_start([(neurons, fitted.components_init_, fitted.loadings_init_)], runs.geometry.n_neurons)
