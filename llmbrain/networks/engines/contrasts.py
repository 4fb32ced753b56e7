"""Contrasts of FastICA: the function whose mean a rotation makes extreme, with its first two derivatives.

To add a contrast, write a class with the members of :class:`Cube`, register it, and call :func:`check_contrast` on it.
"""

import math

import numpy as np
import torch

from ...exceptions import ParameterError
from ...registry import Registry

# fourth_moments: whether the derivative is cubic, so that steps can be computed from the fourth moments of the data
CONTRASTS = Registry("contrast", fourth_moments=False)


@CONTRASTS.register("cube", fourth_moments=True)
class Cube:
    """The fourth power: fast, and sensitive to heavy tails."""

    gaussian = 0.75  # mean of the contrast for a standard normal variable

    def value(self, y):
        """Contrast of every element."""
        return y.square().square() / 4

    def derivatives(self, y, buffer):
        """First derivative of every element, and the sums of the second over the last axis; both inputs are lost."""
        torch.mul(y, y, out=buffer)
        slopes = 3 * buffer.sum(-1)
        return buffer.mul_(y), slopes


@CONTRASTS.register("logcosh")
class LogCosh:
    """The logarithm of the hyperbolic cosine: robust to a few very large values."""

    gaussian = 0.3745672

    def value(self, y):
        """Contrast of every element."""
        size = y.abs()
        return size + torch.log1p(torch.exp(-2 * size)) - math.log(2)

    def derivatives(self, y, buffer):
        """First derivative of every element, and the sums of the second over the last axis; both inputs are lost."""
        torch.tanh(y, out=y)
        torch.mul(y, y, out=buffer)
        return y, y.shape[-1] - buffer.sum(-1)


def check_contrast(contrast):
    """Compare the derivatives of a contrast with differences of its values, and its Gaussian mean with quadrature.

    Parameters
    ----------
    contrast : object
        An instance of a contrast.

    Raises
    ------
    ParameterError
        If the relative error of one of them reaches 1e-5; the message says which.

    Examples
    --------
    >>> check_contrast(LogCosh())
    """
    y, step = torch.linspace(-4, 4, 81, dtype=torch.float64)[:, None], 1e-5

    def first(at):
        return contrast.derivatives(at.clone(), torch.empty_like(at))[0].clone()

    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    mean = float((contrast.value(torch.from_numpy(nodes)) * torch.from_numpy(weights)).sum()) / math.sqrt(2 * math.pi)
    second = contrast.derivatives(y.clone(), torch.empty_like(y))[1][:, None]
    checks = {
        "first derivative": (first(y), (contrast.value(y + step) - contrast.value(y - step)) / (2 * step)),
        "second derivative": (second, (first(y + step) - first(y - step)) / (2 * step)),
        "mean for a Gaussian variable": (torch.tensor(contrast.gaussian), torch.tensor(mean)),
    }
    for what, (given, expected) in checks.items():
        error = float((given - expected).abs().max() / expected.abs().max())
        if not error < 1e-5:
            raise ParameterError(f"The {what} of {type(contrast).__name__} is wrong: relative error {error:.1e}.")
