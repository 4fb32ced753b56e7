"""The work of the commands, one function per station, and the whole path from a model to a report."""

from .environment import describe_environment, describe_sites
from .inspection import StudyState, inspect_study
from .stations import (
    compare_pruning,
    current_networks,
    find_networks,
    lesion_networks,
    load_study_model,
    merge_shares,
)
from .whole import RunPlan, run_study

__all__ = [
    "RunPlan",
    "StudyState",
    "compare_pruning",
    "current_networks",
    "describe_environment",
    "describe_sites",
    "find_networks",
    "inspect_study",
    "lesion_networks",
    "load_study_model",
    "merge_shares",
    "run_study",
]
