"""The study folder: the only place that names, writes, finds, checks and reads its files."""

from .checks import check_content, check_run
from .folder import check_study_folder, holds_study
from .layout import FILES, bids_label
from .manifests import find_results, result_name
from .results import Result, is_done, open_result, write_result
from .runs import Recording, Run, read_confounds
from .study import Study, as_study, find_studies, open_recording

__all__ = [
    "FILES",
    "Recording",
    "Result",
    "Run",
    "Study",
    "as_study",
    "bids_label",
    "check_content",
    "check_run",
    "check_study_folder",
    "find_results",
    "find_studies",
    "holds_study",
    "is_done",
    "open_recording",
    "open_result",
    "read_confounds",
    "result_name",
    "write_result",
]
