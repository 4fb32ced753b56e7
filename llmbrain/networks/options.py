"""nilearn's options that suit brains and destroy the signal of neurons: what each of them would do."""

import warnings

import numpy as np

from ..exceptions import HarmfulOptionWarning, ParameterError

__all__ = ["NEEDS_NILEARN", "check_options"]

# Options that only nilearn's own chain knows; with them the estimators run on it whatever the engine.
NEEDS_NILEARN = ("smoothing_fwhm", "low_pass", "high_pass", "target_affine", "target_shape")

_SMOOTHING = (
    "smoothing_fwhm={value!r} averages neurons that merely lie side by side in the image, across layers as well: "
    "networks of scattered neurons are lost. Use None."
)
_STRATEGY = (
    "mask_strategy={value!r} takes neurons with a high mean for brain and the rest for air: few would be left, or "
    "none at all. It is ignored: all neurons of the geometry are used. To choose neurons give mask=."
)
_DETREND = (
    "detrend=True removes every network that follows the position in the text, and the drift of a scanner, which it "
    "is meant for, does not exist here. Use False, or position as a confound."
)
_PSC = (
    "standardize='psc' divides by means, which are near zero for most neurons: these drown all others, and networks "
    "are lost. Use 'zscore_sample'."
)
_RAW = (
    "standardize={value!r} leaves each neuron its own gain: gains differ widely in models, so a few loud neurons "
    "decide and networks are found far less well. Use 'zscore_sample'."
)
_TARGET = "{name} resamples the image, which mixes neurons that merely lie side by side. Use None."
_FILTER = (
    "{name}={value!r} filters time courses over tokens, across the ends of texts as well, and removes networks that "
    "are faster or slower. Use None."
)


def check_options(estimator):
    """Warn about harmful options of an estimator, and refuse what cannot work, before any work is done.

    Raises
    ------
    ParameterError
        For values that are not among those allowed.
    """
    for message in _complaints(estimator):
        warnings.warn(message, HarmfulOptionWarning, stacklevel=4)
    if estimator.standardize not in ("zscore_sample", "psc", True, False, None):
        raise ParameterError(
            f"standardize must be 'zscore_sample' (the right one for neurons), 'psc', None or a boolean; "
            f"got {estimator.standardize!r}."
        )
    if estimator.engine not in ("torch", "nilearn"):
        raise ParameterError(f"engine must be 'torch' (fast) or 'nilearn' (the reference); got {estimator.engine!r}.")
    seed = estimator.random_state
    if not (seed is None or isinstance(seed, (int, np.integer, np.random.RandomState))):
        raise ParameterError(
            f"random_state must be an integer, a numpy RandomState or None; got a {type(seed).__name__}."
        )
    check_solver(estimator.solver_params)
    if estimator.scope != "model" and needs_nilearn(estimator):
        raise ParameterError(
            f"scope={estimator.scope!r} needs engine='torch' without smoothing, filters and resampling, which only "
            "nilearn's own chain knows."
        )


def check_solver(params):
    """Refuse options of the fast engine that are no options, or a device that is not there."""
    if params is not None and not isinstance(params, dict):
        raise ParameterError(f"solver_params must be a dict of options of the fast engine; got {params!r}.")
    device = (params or {}).get("device")
    if device is not None:
        import torch

        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise ParameterError(f"The device {device!r} is not there: {str(error).splitlines()[0]}") from error


def needs_nilearn(estimator):
    """Whether the fit must run on nilearn's own chain."""
    return (
        estimator.engine == "nilearn"
        or estimator.standardize == "psc"
        or any(getattr(estimator, name) is not None for name in NEEDS_NILEARN)
    )


def _complaints(estimator):
    value = estimator.smoothing_fwhm
    if value:
        yield _SMOOTHING.format(value=value)
    if estimator.mask_strategy is not None:
        yield _STRATEGY.format(value=estimator.mask_strategy)
    if estimator.detrend:
        yield _DETREND
    if estimator.standardize == "psc":
        yield _PSC
    elif estimator.standardize in (None, False):
        yield _RAW.format(value=estimator.standardize)
    for name in ("target_affine", "target_shape"):
        if getattr(estimator, name) is not None:
            yield _TARGET.format(name=name)
    for name in ("low_pass", "high_pass"):
        if getattr(estimator, name) is not None:
            yield _FILTER.format(name=name, value=getattr(estimator, name))
