"""Checks of the estimators' parameters: nilearn's options that suit brains but destroy the signal of neurons."""

import warnings

import numpy as np

from ..exceptions import HarmfulOptionWarning, ParameterError
from ..models.devices import as_device
from ..registry import Registry

__all__ = ["ENGINES", "NEEDS_NILEARN", "check_options", "engine_of"]

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
    seed = estimator.random_state
    if not (seed is None or isinstance(seed, (int, np.integer, np.random.RandomState))):
        raise ParameterError(
            f"random_state must be an integer, a numpy RandomState or None; got a {type(seed).__name__}."
        )
    check_solver(estimator.solver_params)
    if estimator.scope != "model" and needs_nilearn(estimator):
        raise ParameterError(
            f"scope={estimator.scope!r} needs engine='torch' without smoothing, filters and resampling, which run only "
            "on nilearn's own estimator."
        )


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
