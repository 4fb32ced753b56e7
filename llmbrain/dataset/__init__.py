"""The study folder: the only place that names, writes, finds, checks and reads its files."""

from .checks import check_run
from .layout import FILES, bids_label
from .runs import Recording, Run, read_confounds
from .study import Study, as_study, check_study_folder, locate, open_recording, write_result

__all__ = [
    "FILES",
    "Recording",
    "Run",
    "Study",
    "as_study",
    "bids_label",
    "check_run",
    "check_study_folder",
    "locate",
    "open_recording",
    "read_confounds",
    "write_result",
]
