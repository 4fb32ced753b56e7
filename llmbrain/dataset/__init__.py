"""The study folder: the only place that names, writes, checks and reads the files of a recording."""

from .checks import check_run
from .layout import FILES, bids_label
from .runs import Recording, Run, open_recording, read_confounds
from .study import Study

__all__ = [
    "FILES",
    "Recording",
    "Run",
    "Study",
    "bids_label",
    "check_run",
    "open_recording",
    "read_confounds",
]
