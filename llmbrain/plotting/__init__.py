"""Figures: network maps, carpets, matrices, curves, lesions, pruning, and words shaded by engagement.

Every ``plot_*`` function returns a matplotlib figure; with ``output_file=`` it saves the figure, closes it and returns
None. There are no brain outlines, because neurons have no spatial neighbourhood.
"""

from ..lazy import lazy_names

_MODULE_OF = {
    "plot_network_map": "maps",
    "plot_network_maps": "maps",
    "plot_layer_profiles": "maps",
    "plot_atlas": "atlas",
    "plot_comparison": "atlas",
    "plot_prob_atlas": "atlas",
    "view_map": "atlas",
    "plot_carpet": "carpet",
    "plot_time_courses": "carpet",
    "plot_connectivity": "matrices",
    "plot_layer_graph": "matrices",
    "plot_matching": "matrices",
    "plot_coupling": "matrices",
    "plot_stability": "curves",
    "plot_order": "curves",
    "plot_token_quality": "curves",
    "plot_models": "models",
    "plot_lesion_effects": "lesions",
    "plot_dose_response": "lesions",
    "plot_selectivity": "lesions",
    "plot_pruning_grid": "pruning",
    "plot_kept_neurons": "pruning",
    "plot_words": "text",
    "words_html": "text",
}

__all__ = list(_MODULE_OF)

__getattr__, __dir__ = lazy_names(__name__, _MODULE_OF)
