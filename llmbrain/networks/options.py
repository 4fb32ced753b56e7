"""Checks of the estimators' parameters: nilearn's options that suit brains but destroy the signal of neurons."""

import warnings

import numpy as np
from sklearn.utils.validation import check_memory

from ..exceptions import HarmfulOptionWarning, LLMBrainWarning, ParameterError, ParameterTypeError
from ..models.devices import as_device
from ..parallel import world_size
from ..registry import Registry

# Options of nilearn's maskers that say how a run is read; those of a masker that is given as mask= count.
CLEANING = (
    "smoothing_fwhm", "standardize", "standardize_confounds", "detrend", "low_pass", "high_pass", "t_r", "dtype",
    "target_affine", "target_shape",
)  # fmt: skip

# Options that only nilearn's own estimators have; with them the fit runs there, whatever the engine.
NEEDS_NILEARN = ("smoothing_fwhm", "low_pass", "high_pass", "target_affine", "target_shape")

ENGINES = Registry("engine")


@ENGINES.register("torch")
def _torch(estimator, runs, confounds):
    """Fast engine: exact, truncated decompositions of runs that are read in blocks."""
    estimator._fit_torch(runs, confounds)


@ENGINES.register("nilearn")
def _nilearn(estimator, runs, confounds):
    """Reference: nilearn's own estimator."""
    if estimator.solver_params:
        raise ParameterError("solver_params are options of engine='torch'; nilearn's estimators have none of them.")
    estimator._fit_nilearn(runs, confounds)


_STRATEGY = (
    "{name}={value!r} keeps neurons with a high mean, which would be few or none. It is ignored: all neurons of "
    "the geometry are used. To select neurons pass mask=."
)
_DETREND = (
    "{name}={value!r} removes every network that follows the position in the text. It is meant for the drift of a "
    "scanner, which does not exist here. Use False, or pass the position as a confound."
)
_SMOOTHING = (
    "{name}={value!r} averages neurons that happen to be adjacent in the image, also across layers: networks of "
    "scattered neurons are lost. Use None."
)
_PSC = (
    "{name}={value!r} divides by means that are near zero for most neurons: those neurons dominate and networks are "
    "lost. Use 'zscore_sample'."
)
_RAW = (
    "{name}={value!r} keeps the gain of each neuron. Gains differ widely in models, so a few loud neurons dominate and "
    "networks are found far less well. Use 'zscore_sample'."
)
_TARGET = "{name} resamples the image, which mixes neurons that happen to be adjacent. Use None."
_FILTER = (
    "{name}={value!r} filters time courses over tokens, also across the ends of texts, and removes networks that are "
    "faster or slower. Use None."
)


def _given(value):
    return value is not None


# parameter, test of a harmful value, message
_HARMFUL = (
    ("smoothing_fwhm", bool, _SMOOTHING),
    ("mask_strategy", _given, _STRATEGY),
    ("detrend", bool, _DETREND),
    ("standardize", lambda value: value == "psc", _PSC),
    ("standardize", lambda value: value in (None, False), _RAW),
    ("target_affine", _given, _TARGET),
    ("target_shape", _given, _TARGET),
    ("low_pass", _given, _FILTER),
    ("high_pass", _given, _FILTER),
)


def check_options(estimator):
    """Warn about harmful options of an estimator and refuse impossible ones, before any computation."""
    for name, is_harmful, message in _HARMFUL:
        value = getattr(estimator, name)
        if is_harmful(value):
            warnings.warn(message.format(name=name, value=value), HarmfulOptionWarning, stacklevel=4)
    if estimator.standardize not in ("zscore_sample", "psc", True, False, None):
        raise ParameterError(
            f"standardize must be 'zscore_sample' (recommended for neurons), 'psc', None or a boolean; "
            f"got {estimator.standardize!r}."
        )
    ENGINES.check(estimator.engine)
    if estimator.dtype is not None and estimator.dtype != "auto" and np.dtype(estimator.dtype) == bool:
        raise ParameterTypeError("'dtype' cannot be bool. Use a type of numbers, 'auto' or None.")
    if estimator.memory_level == 0 and check_memory(estimator.memory).location is not None:
        message = (
            "memory_level is currently set to 0 but a Memory object has been provided, so nothing is cached. "
            "Set memory_level=1."
        )
        warnings.warn(message, LLMBrainWarning, stacklevel=4)
    seed = estimator.random_state
    if not (seed is None or isinstance(seed, (int, np.integer, np.random.RandomState))):
        raise ParameterError(
            f"random_state must be an integer, a numpy RandomState or None; got a {type(seed).__name__}."
        )
    if isinstance(seed, (int, np.integer)) and not 0 <= seed < 2**32:
        raise ParameterError(f"random_state={seed}: it must be 0 to 2**32 - 1.")
    if isinstance(seed, np.random.RandomState) and world_size() > 1:
        raise ParameterError("Several processes need random_state as an integer: each would advance a RandomState.")
    check_solver(estimator.solver_params)
    if estimator.scope != "model" and needs_nilearn(estimator):
        raise ParameterError(
            f"scope={estimator.scope!r} needs engine='torch' without smoothing, filters and resampling, which run only "
            "on nilearn's own estimator."
        )


_SHARED_PARAMETERS = """mask : NeuronMask, image, path or nilearn masker, optional
        Neurons to which the networks are restricted. The options of a masker override those of the estimator.
    smoothing_fwhm : float, optional
        Width of nilearn's smoothing. Harmful: adjacent voxels are unrelated neurons.
    standardize : "zscore_sample", "psc" or None
        How each neuron is scaled within each run.
    standardize_confounds : bool
        Whether confounds are z-scored. Results do not depend on it.
    detrend : bool
        Whether the linear trend of each neuron is removed. Harmful to networks that follow the position in the text.
    low_pass : float, optional
        nilearn's filter of time courses. Harmful.
    high_pass : float, optional
        nilearn's filter of time courses. Harmful.
    t_r : float, optional
        Time between volumes, for the filters; a volume is one token.
    dtype : dtype or "auto", optional
        Type of the time courses that ``transform`` returns, and of the images of ``inverse_transform``. Everything is
        computed in float32.
    target_affine : ndarray, optional
        Affine to which nilearn resamples the images. Harmful: it mixes neurons.
    target_shape : tuple of int, optional
        Shape to which nilearn resamples the images. Harmful: it mixes neurons.
    mask_strategy : str, optional
        Ignored with a warning: without a mask, all neurons are used.
    mask_args : dict, optional
        Ignored.
    memory : str or joblib.Memory, optional
        Cache of the engine ``"nilearn"`` and of the maskers. Results do not depend on it.
    memory_level : int
        How much is cached.
    n_jobs : int
        Processes of the engine ``"nilearn"``. Results do not depend on it.
    verbose : int, default=0
        With 1, progress bars and a line for each step, with 2 also one for each run."""


_SHARED_ATTRIBUTES = """cleaning_ : dict
        nilearn's options with which the runs were cleaned: those of the estimator, or of the masker given as ``mask``.
    components_ : ndarray of shape (n_components, n_neurons), float32
        Maps of unit norm, in the flat order of neurons.
    dead_ : ndarray of bool, shape (n_neurons,)
        Neurons that are constant in every run; their maps are 0.
    engine_ : str
        The engine that was used.
    geometry_ : NeuronGeometry
        Geometry of the neurons.
    n_features_in_ : int
        Number of neurons.
    networks_ : NetworkSet
        Maps with metrics, time courses and settings.
    variance_ : ndarray of shape (n_components,)
        Share of the variance of the cleaned data that each map explains."""


def share_docs(cls):
    """Insert what the estimators have in common into the docstring of one: nilearn's parameters, and attributes."""
    text = cls.__doc__.replace("{parameters of nilearn}", _SHARED_PARAMETERS)
    cls.__doc__ = text.replace("{shared attributes}", _SHARED_ATTRIBUTES)
    return cls


def options_of_masker(estimator):
    """Return the options with which an estimator is fitted if its mask is a masker; None if it is not.

    As in nilearn, the options of the masker override those of the estimator, with a warning where they differ.
    """
    masker = estimator.mask
    if not hasattr(masker, "mask_strategy"):
        return None
    img = getattr(masker, "mask_img_", masker.mask_img)
    if img is None:
        raise ParameterTypeError(
            "'mask' must be of type NeuronMask, image or path, or a masker that has a mask image; "
            f"got {type(masker).__name__} without one. Pass mask_img= to the masker, or mask=None for all neurons."
        )
    given = {name: getattr(masker, name) for name in CLEANING if hasattr(masker, name)}
    differ = [name for name, value in given.items() if np.any(value != getattr(estimator, name))]
    if differ:
        lines = [
            f"{name}={given[name]!r}, overriding estimator parameter {getattr(estimator, name)!r}" for name in differ
        ]
        warnings.warn(f"The masker that is given as mask sets {'; '.join(lines)}.", LLMBrainWarning, stacklevel=4)
    return {**given, "mask": img}


def check_solver(params):
    """Refuse ``solver_params`` that are not a dict, and a device that is not available."""
    if params is not None and not isinstance(params, dict):
        raise ParameterError(f"solver_params must be a dict of options of the fast engine; got {params!r}.")
    as_device((params or {}).get("device") or "auto")


def needs_nilearn(estimator):
    """Whether the fit runs on nilearn's own estimator."""
    return engine_of(estimator) is ENGINES["nilearn"]


def engine_of(estimator):
    """Engine of the fit: the chosen one, or nilearn's if an option needs it."""
    special = estimator.standardize == "psc" or any(getattr(estimator, name) is not None for name in NEEDS_NILEARN)
    return ENGINES["nilearn" if special else estimator.engine]
