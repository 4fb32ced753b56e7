"""Functional networks: independent components and dictionaries over neurons, and the evidence that they are real."""

from ..lazy import lazy_names

__all__, __getattr__, __dir__ = lazy_names(
    __name__,
    {
        "canica": ("CanICA",),
        "dict_learning": ("DictLearning",),
        "temporal_ica": ("TemporalICA",),
        "result": ("NetworkSet",),
        "tedana": ("write_tedana",),
        "engines.group": ("group_ica", "GroupICA"),
        "evidence.order": ("choose_n_components",),
        "connectivity": ("functional_connectivity",),
        "evidence.gather": ("gather_evidence",),
        "evidence.stability": ("icasso", "split_half"),
        "meaning.interpretation": ("interpret",),
        "meaning.profiles": ("kind_engagement", "layer_profile"),
        "localizer.localize": ("localize", "run_localizer"),
        "evidence.matching": ("match_maps",),
        "evidence.dual_regression": ("regress_recording",),
        "evidence.resampling": ("resampled_networks",),
        "engines.progress": ("show_progress",),
    },
)
