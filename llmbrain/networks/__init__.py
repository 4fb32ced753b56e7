"""Functional networks: independent components and dictionaries over neurons, and the evidence that they are real."""

from ..lazy import lazy_names

_WHERE = {
    "CanICA": "canica",
    "DictLearning": "dict_learning",
    "TemporalICA": "temporal_ica",
    "NetworkSet": "result",
    "write_tedana": "tedana",
    "group_ica": "engines.group",
    "GroupICA": "engines.group",
    "choose_n_components": "evidence.order",
    "functional_connectivity": "connectivity",
    "gather_evidence": "evidence.gather",
    "icasso": "evidence.stability",
    "interpret": "meaning.interpretation",
    "kind_engagement": "meaning.profiles",
    "layer_profile": "meaning.profiles",
    "localize": "localizer.localize",
    "match_maps": "evidence.matching",
    "regress_recording": "evidence.dual_regression",
    "resampled_networks": "evidence.resampling",
    "run_localizer": "localizer.localize",
    "show_progress": "engines.progress",
    "split_half": "evidence.stability",
}

__all__ = sorted(_WHERE)

__getattr__, __dir__ = lazy_names(__name__, _WHERE)
