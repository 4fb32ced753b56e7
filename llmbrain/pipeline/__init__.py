"""The work of the commands, one function per station, and the whole path from a model to a report."""

from .environment import describe_environment, describe_sites
from .finding import find_networks
from .inspection import StudyState, inspect_study
from .lesioning import lesion_networks, merge_shares
from .pruning import compare_pruning
from .sources import current_networks, load_study_model
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
