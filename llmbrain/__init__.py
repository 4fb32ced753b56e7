"""Neuroimaging-style analysis of language models.

The public names are imported when they are first used, so that ``import llmbrain`` stays fast.
"""

from .lazy import lazy_names

__version__ = "0.1.0"

_ROOM_OF = {
    "load_model": "models",
    "describe_model": "models",
    "find_sites": "models",
    "load_corpus": "text",
    "NeuronGeometry": "geometry",
    "NeuronMask": "masks",
    "Study": "dataset",
    "open_recording": "dataset",
    "record": "recording",
    "CanICA": "networks",
    "DictLearning": "networks",
    "NetworkSet": "networks",
    "perplexity": "evaluation",
    "lesion": "lesions",
    "LesionStudy": "lesions",
    "fingerprint": "subjects",
    "compare_fingerprints": "subjects",
    "compare_studies": "subjects",
    "prune": "pruning",
    "Recipe": "pruning",
    "run_grid": "pruning",
    "generate_report": "reporting",
    "run_study": "pipeline",
}

__all__ = ["__version__", *_ROOM_OF]

__getattr__, __dir__ = lazy_names(__name__, _ROOM_OF)
