"""Between models: aligned courses, what models share, matched networks, fingerprints."""

from ..lazy import lazy_names

_WHERE = {
    "AlignedCourses": "comparison",
    "Comparison": "comparison",
    "CourseMatching": "matching",
    "Fingerprint": "fingerprints",
    "FingerprintComparison": "descent",
    "ISC": "isc",
    "ModelTree": "similarity",
    "Units": "alignment",
    "align": "alignment",
    "align_studies": "comparison",
    "alignment_matrix": "alignment",
    "compare_fingerprints": "descent",
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

__getattr__, __dir__ = lazy_names(__name__, _WHERE)
