"""Open models and find their neurons."""

from ..lazy import lazy_names

_WHERE = {
    "SITES": "sites",
    "Site": "sites",
    "anatomy_of": "anatomy",
    "describe_model": "identity",
    "find_sites": "sites",
    "load_model": "loading",
    "site_hooks": "hooks",
}

__all__ = sorted(_WHERE)

__getattr__, __dir__ = lazy_names(__name__, _WHERE)
