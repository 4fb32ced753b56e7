"""Between models: aligned courses, what models share, matched networks, fingerprints."""

from importlib import import_module

_WHERE = {
    "Comparison": "comparison",
    "CourseMatching": "matching",
    "Fingerprint": "fingerprints",
    "FingerprintComparison": "fingerprints",
    "ISC": "isc",
    "ModelTree": "similarity",
    "Units": "alignment",
    "align": "alignment",
    "alignment_matrix": "alignment",
    "compare_fingerprints": "fingerprints",
    "compare_studies": "comparison",
    "find_units": "alignment",
    "fingerprint": "fingerprints",
    "inter_subject_correlation": "isc",
    "inter_subject_functional_correlation": "isc",
    "isc_test": "isc",
    "linear_cka": "similarity",
    "match_courses": "matching",
    "model_tree": "similarity",
    "rebuild_text": "alignment",
    "regress_out": "confounds",
    "word_confounds": "confounds",
}

__all__ = sorted(_WHERE)


def __getattr__(name):
    if name in _WHERE:
        return getattr(import_module(f".{_WHERE[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return __all__
