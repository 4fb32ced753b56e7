"""Figures: network maps, carpets, matrices, curves, lesions, pruning, and words shaded by engagement.

Every ``plot_*`` function returns a matplotlib figure; with ``output_file=`` it saves the figure, closes it and returns
None. There are no brain outlines, because neurons have no spatial neighbourhood.
"""

from ..lazy import lazy_names

__all__, __getattr__, __dir__ = lazy_names(
    __name__,
    {
        "maps": ("plot_network_map", "plot_network_maps", "plot_layer_profiles"),
        "atlas": ("plot_atlas", "plot_comparison", "plot_prob_atlas", "view_map"),
        "carpet": ("plot_carpet", "plot_time_courses"),
        "matrices": ("plot_connectivity", "plot_layer_graph", "plot_matching", "plot_coupling"),
        "curves": ("plot_stability", "plot_order", "plot_token_quality"),
        "models": ("plot_models",),
        "lesions": ("plot_lesion_effects", "plot_dose_response", "plot_selectivity"),
        "pruning": ("plot_pruning_grid", "plot_kept_neurons"),
        "text": ("plot_words", "words_html"),
    },
)
