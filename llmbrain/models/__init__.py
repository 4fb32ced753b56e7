"""Open models and find their neurons."""

from .anatomy import anatomy_of
from .hooks import site_hooks
from .identity import describe_model
from .loading import load_model
from .sites import SITES, Site, find_sites

__all__ = ["SITES", "Site", "anatomy_of", "describe_model", "find_sites", "load_model", "site_hooks"]
