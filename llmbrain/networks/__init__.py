"""Functional networks: independent components and dictionaries over neurons, and the evidence that they are real."""

from importlib import import_module

_WHERE = {
    "CanICA": "canica",
    "DictLearning": "dict_learning",
    "TemporalICA": "temporal_ica",
    "NetworkSet": "result",
    "group_ica": "engines.torch_engine",
    "GroupICA": "engines.torch_engine",
}

__all__ = sorted(_WHERE)


def __getattr__(name):
    if name in _WHERE:
        return getattr(import_module(f".{_WHERE[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return __all__
