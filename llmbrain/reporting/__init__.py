"""Reports: one HTML file that contains everything it shows."""

from ..lazy import lazy_names

_MODULE_OF = {
    "HTMLReport": "document",
    "generate_group_report": "report",
    "generate_report": "report",
    "bibtex": "references",
    "methods_text": "stations.methods",
}

__all__ = sorted(_MODULE_OF)

__getattr__, __dir__ = lazy_names(__name__, _MODULE_OF)
