"""Checks of the arguments of plain functions: what a name means, it means everywhere.

A public function that works on arrays is decorated with :func:`checked`, which refuses values that numpy or torch would
read as something else: NaN in a whole number, text as a flag, complex numbers cut to their real part.
"""

import functools
import inspect
from numbers import Integral

import numpy as np

from .exceptions import ParameterError, ParameterTypeError, check_count, is_number

MOST = 10**9  # draws, starts or steps: more would not end


def count(name, value, least=1):
    """A whole number from ``least`` to a thousand million."""
    check_count(name, value, least)
    if value > MOST:
        raise ParameterError(f"{name}={value!r}: it must be at most {MOST}.")


def flag(name, value):
    """True or False."""
    if not isinstance(value, bool | np.bool_):
        raise ParameterTypeError(f"{name}={value!r}: it must be True or False.")


def seed(name, value):
    """What seeds a generator of numpy: whole numbers, or a generator; None draws a new seed."""
    kinds = np.random.Generator | np.random.BitGenerator | np.random.SeedSequence | np.random.RandomState
    if value is None or isinstance(value, kinds):
        return
    parts = value if isinstance(value, list | tuple | np.ndarray) and np.size(value) else [value]
    if not all(isinstance(part, Integral) and not isinstance(part, bool) and part >= 0 for part in parts):
        raise ParameterError(f"{name}={value!r}: it must be a whole number of at least 0, a numpy Generator or None.")


def optional(rule):
    """Make the rule of a value that may be None."""
    return lambda name, value: None if value is None else rule(name, value)


def texts(name, value):
    """A text, or a list of texts."""
    for part in [value] if isinstance(value, str) else value if isinstance(value, list | tuple) else [None]:
        if not isinstance(part, str):
            got = type(value).__name__
            raise ParameterTypeError(f"{name} must be a string or a list of at least one string; got {got}.")


def text(name, value):
    """A text."""
    if not isinstance(value, str):
        raise ParameterTypeError(f"{name}={value!r}: it must be a text.")


def between(low, high, ends=True):
    """Make the rule of a finite number within a range."""

    def rule(name, value):
        inside = is_number(value) and (low <= value <= high if ends else low < value < high)
        if not inside:
            span = f"from {low:g} to {high:g}" if ends else f"between {low:g} and {high:g}"
            raise ParameterError(f"{name}={value!r}: it must be a number {span}.")

    return rule


def holds(*attributes, what):
    """Make the rule of an object that has these attributes."""

    def rule(name, value):
        if isinstance(value, type) or not all(hasattr(value, attribute) for attribute in attributes):
            raise ParameterTypeError(f"{name} must be {what}; got {type(value).__name__}.")

    return rule


def numbers(name, value):
    """An array of real numbers, NaN among them; returned as an array."""
    try:
        values = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists, tensors on a device
        raise ParameterTypeError(f"{name} must be an array of numbers: {error}") from None
    if values.dtype.kind not in "biuf" and values.size:
        raise ParameterTypeError(f"{name} must be an array of real numbers; got {values.dtype} {values.shape}.")
    return values


def finite(name, value):
    """An array of real numbers, none of them NaN or infinite."""
    values = numbers(name, value)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ParameterError(f"{name} holds NaN or infinite values; every one must be finite.")
    return values


def whole(name, value):
    """An array of whole numbers; floats without a fraction are taken as such."""
    values = finite(name, value)
    if values.dtype.kind == "f" and (values != np.round(values)).any():
        raise ParameterError(f"{name} must hold whole numbers.")
    return values


def layers(name, value):
    """The layer of each neuron."""
    if whole(name, value).ndim != 1:
        raise ParameterError(f"{name} must hold the layer of each neuron, shape (n_neurons,).")


def tensor(*sizes):
    """Make the rule of a finite tensor; sizes are names, and equal names mean equal sizes."""

    def rule(name, value):
        import torch

        if not isinstance(value, torch.Tensor) or value.is_complex() or value.ndim != len(sizes) or not value.numel():
            got = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
            raise ParameterTypeError(f"{name} must be a tensor of real numbers ({', '.join(sizes)}); got {got}.")
        if not bool(torch.isfinite(value).all()):
            raise ParameterError(f"{name} holds NaN or infinite values; every one must be finite.")
        return dict(zip(sizes, value.shape))

    return rule


def tables(name, value):
    """A table, or a list of one for each run."""
    for part in value if isinstance(value, list | tuple) and value else [value]:
        holds("columns", "iloc", what="a table of tokens (a DataFrame), or a list of them")(name, part)


COMMON = {
    "random_state": seed,
    "n_draws": count,
    "n_init": count,
    "max_iter": count,
    "n_nearest": count,
    "n_top": count,
    "round_to": count,
    "tol": between(1e-300, 1e300),
    "two_sided": flag,
    "pairwise": flag,
    "layer_of": layers,
    "geometry": holds("n_neurons", "layer_of", what="a NeuronGeometry"),
    "events": tables,
}


def checked(**rules):
    """Check arguments before a function runs: those named here, and those whose name has a rule everywhere.

    A rule takes the name and the value. The default of an argument is never refused.

    Examples
    --------
    >>> @checked(values=finite)
    ... def mean(values, n_draws=9):
    ...     return sum(values) / len(values)
    >>> mean([1, 2], n_draws=0)
    Traceback (most recent call last):
    ...
    llmbrain.exceptions.ParameterError: n_draws=0: it must be a whole number of at least 1.
    """

    def decorate(function):
        signature = inspect.signature(function)
        known = {name: rules.get(name, COMMON.get(name)) for name in signature.parameters}
        own = {name: (rule, signature.parameters[name].default) for name, rule in known.items() if rule}

        @functools.wraps(function)
        def call(*args, **kwargs):
            try:
                given = signature.bind(*args, **kwargs).arguments
            except TypeError:
                return function(*args, **kwargs)  # with Python's own message
            sizes = {}
            for name, (rule, default) in own.items():
                if name in given and given[name] is not default:
                    found = rule(name, given[name])
                    if isinstance(found, dict):
                        _agree(name, found, sizes)
            return function(*args, **kwargs)

        return call

    return decorate


def _agree(name, found, sizes):
    """Refuse a tensor whose sizes are not those of the tensors before it."""
    for size, n in found.items():
        if sizes.setdefault(size, n) != n:
            raise ParameterError(f"{name} has {n} {size}; the other tensors have {sizes[size]}.")
