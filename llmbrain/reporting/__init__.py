"""Reports: one HTML file that contains everything it shows."""

import importlib

_MODULE_OF = {
    "HTMLReport": "document",
    "generate_report": "report",
    "bibtex": "references",
    "methods_text": "stations.methods",
}

__all__ = sorted(_MODULE_OF)


def __getattr__(name):
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return __all__
