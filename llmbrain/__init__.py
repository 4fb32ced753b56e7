"""Neuroimaging-style analysis of language models.

The public names are imported when they are first used, so that ``import llmbrain`` stays fast.
"""

from .lazy import lazy_names

__version__ = "0.1.0"

_public, __getattr__, __dir__ = lazy_names(
    __name__,
    {
        "models": ("load_model", "describe_model", "find_sites"),
        "text": ("load_corpus",),
        "geometry": ("NeuronGeometry",),
        "masks": ("NeuronMask",),
        "dataset": ("Study", "open_recording"),
        "recording": ("record",),
        "networks": ("CanICA", "DictLearning", "NetworkSet"),
        "evaluation": ("perplexity",),
        "lesions": ("lesion", "LesionStudy"),
        "subjects": ("fingerprint", "compare_fingerprints", "compare_studies"),
        "pruning": ("prune", "Recipe", "run_grid"),
        "reporting": ("generate_report",),
        "pipeline": ("run_study",),
    },
)

__all__ = ["__version__", *_public]
