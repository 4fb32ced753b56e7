"""Open models and find their neurons."""

from ..lazy import lazy_names

__all__, __getattr__, __dir__ = lazy_names(
    __name__,
    {
        "sites": ("SITES", "Site", "find_sites"),
        "anatomy": ("anatomy_of",),
        "identity": ("describe_model",),
        "loading": ("load_model",),
        "hooks": ("site_hooks",),
    },
)
