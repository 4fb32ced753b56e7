"""Between models: aligned courses, what models share, matched networks, fingerprints."""

from ..lazy import lazy_names

__all__, __getattr__, __dir__ = lazy_names(
    __name__,
    {
        "comparison": ("AlignedCourses", "Comparison", "align_studies", "compare_studies"),
        "matching": ("CourseMatching", "match_courses"),
        "fingerprints": ("Fingerprint", "fingerprint"),
        "descent": ("FingerprintComparison", "compare_fingerprints"),
        "isc": ("ISC", "inter_subject_correlation", "inter_subject_functional_correlation", "isc_test"),
        "similarity": ("ModelTree", "linear_cka", "model_tree"),
        "alignment": ("Units", "align", "alignment_matrix", "find_units", "rebuild_text"),
        "confounds": ("regress_out", "word_confounds"),
    },
)
