"""Formats in which a pruned model can be saved."""

from . import gguf, hetero, padded, uniform  # noqa: F401 - registers the formats
from .base import FORMATS

__all__ = ["FORMATS"]
