"""Functional networks: independent components and dictionaries over neurons, and the evidence that they are real."""

from importlib import import_module

_WHERE = {
    "CanICA": "canica",
    "DictLearning": "dict_learning",
    "TemporalICA": "temporal_ica",
    "NetworkSet": "result",
    "group_ica": "engines.torch_engine",
    "GroupICA": "engines.torch_engine",
    "choose_n_components": "order",
    "functional_connectivity": "connectivity",
    "gather_evidence": "evidence",
    "icasso": "stability",
    "interpret": "interpretation",
    "kind_engagement": "profiles",
    "layer_profile": "profiles",
    "localize": "localizer",
    "match_maps": "matching",
    "regress_recording": "dual_regression",
    "resampled_networks": "resampling",
    "run_localizer": "localizer",
    "split_half": "stability",
}

__all__ = sorted(_WHERE)


def __getattr__(name):
    if name in _WHERE:
        return getattr(import_module(f".{_WHERE[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return __all__
