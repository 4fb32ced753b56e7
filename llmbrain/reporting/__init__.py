"""Reports: one HTML file that contains everything it shows."""

from ..lazy import lazy_names

__all__, __getattr__, __dir__ = lazy_names(
    __name__,
    {
        "document": ("HTMLReport",),
        "report": ("generate_group_report", "generate_report"),
        "references": ("bibtex",),
        "stations.methods": ("methods_text",),
    },
)
