"""The errors and warnings of the package: what came, what is allowed, what to do."""

import math
from numbers import Integral, Real

MOST_NUMBERS = 100_000  # maximum length of a list such as 0,4,10-15


class LLMBrainError(Exception):
    """Base class of every error that llmbrain raises on purpose."""


class ParameterError(LLMBrainError, ValueError):
    """An argument is outside what is allowed."""


def check_count(name, value, least=1, optional=False):
    """Raise an error unless ``value`` is a whole number of at least ``least``, or None if that is allowed."""
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not (whole and value >= least) and not (optional and value is None):
        none = ", or None" if optional else ""
        raise ParameterError(f"{name}={value!r}: it must be a whole number of at least {least}{none}.")


def check_seed(value):
    """Raise an error unless ``value`` is a whole number that can be a seed."""
    if not isinstance(value, Integral) or isinstance(value, bool) or not 0 <= value < 2**32:
        raise ParameterError(f"random_state={value!r}: it must be a whole number from 0 to 2**32 - 1.")


def read_numbers(name, text):
    """Read a list of numbers and ranges such as ``0,4,10-15``; None for None."""
    if text is None:
        return None
    found = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or max(len(first), len(last)) > 18:
            raise ParameterError(f"{name} {text!r}: pass numbers and ranges separated by commas, e.g. 0,4,10-15.")
        first, last = int(first), int(last or first)
        if last - first >= MOST_NUMBERS or len(found) > MOST_NUMBERS:
            raise ParameterError(f"{name} {text!r} names more than {MOST_NUMBERS} numbers. Pass a smaller range.")
        if last < first:
            raise ParameterError(f"{name} {text!r}: the range {part.strip()} is empty. Write the smaller number first.")
        found += range(first, last + 1)
    return found


def is_number(value):
    """Whether a value is a finite number, and not True or False."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def check_threshold(value, two_sided=True):
    """Raise an error unless ``value`` is a finite number, and not negative where absolute values are compared."""
    if not is_number(value) or (two_sided and value < 0):
        least = " of at least 0" if two_sided else ""
        raise ParameterError(f"threshold={value!r}: it must be a finite number{least}.")


class ParameterTypeError(ParameterError, TypeError):
    """An argument is of a type that is not allowed."""


class UnsupportedArchitectureError(LLMBrainError, ValueError):
    """The neurons of a model could not be found with certainty."""


class ModelNotFoundError(LLMBrainError, FileNotFoundError):
    """A model name, folder or file leads to no model."""


class GeometryMismatchError(LLMBrainError, ValueError):
    """Two objects describe the neurons of different models or sites."""


class CorpusError(LLMBrainError, ValueError):
    """A text source is missing, empty or unreadable."""


class DatasetError(LLMBrainError, ValueError):
    """A study folder or one of its files is not what it should be."""


class RecordingError(LLMBrainError, ValueError):
    """Activations could not be recorded faithfully."""


class MaskError(LLMBrainError, ValueError):
    """A set of neurons is empty, malformed or cannot be matched."""


class NumericalError(LLMBrainError, ArithmeticError):
    """A model returned values that are not finite."""


class ParallelError(LLMBrainError, RuntimeError):
    """The processes that share a piece of work did not meet, or one of them ended."""


class UnusedLesionError(LLMBrainError, RuntimeError):
    """A lesion ended although no forward pass had reached its neurons."""


class LLMBrainWarning(UserWarning):
    """Base class of the warnings of llmbrain."""


class DoubleDippingWarning(LLMBrainWarning):
    """A result is tested on the very text it was chosen on."""


class StaleResultWarning(LLMBrainWarning):
    """A result was made from something that has changed since."""


class HarmfulOptionWarning(LLMBrainWarning):
    """An option that suits brains is known to destroy the signal of neurons."""


class NumericalWarning(LLMBrainWarning):
    """A computation ended, but not as well as it should have."""
