"""Opening models and finding their neurons."""

from .hooks import site_hooks
from .identity import describe_model
from .loading import load_model
from .sites import SITES, Site, find_decoder_layers, find_sites

__all__ = ["SITES", "Site", "describe_model", "find_decoder_layers", "find_sites", "load_model", "site_hooks"]
