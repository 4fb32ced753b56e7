"""Lesions: neurons silenced, clamped or amplified while a model runs, and studies of their effects."""

from ..models.lesioned import is_lesioned
from .checks import check_lesion_kind
from .context import Lesion, lesion
from .dose import DOSES, DoseResponse
from .generation import answer_task, generation_task, harness_task, side_by_side
from .kinds import KINDS, Edit, LesionKind
from .positions import POSITIONS
from .result import LesionResult
from .selectivity import double_dissociations, selectivity
from .statistics import IMPORTANCES, NeuronStatistics, neuron_statistics
from .study import LesionStudy, StudyOptions
from .tasks import TASKS, CallableTask, LossTask, MinimalPairTask, MultipleChoiceTask

__all__ = [
    "DOSES",
    "IMPORTANCES",
    "KINDS",
    "POSITIONS",
    "TASKS",
    "CallableTask",
    "DoseResponse",
    "Edit",
    "Lesion",
    "LesionKind",
    "LesionResult",
    "LesionStudy",
    "LossTask",
    "MinimalPairTask",
    "MultipleChoiceTask",
    "NeuronStatistics",
    "StudyOptions",
    "answer_task",
    "check_lesion_kind",
    "double_dissociations",
    "generation_task",
    "harness_task",
    "is_lesioned",
    "lesion",
    "neuron_statistics",
    "selectivity",
    "side_by_side",
]
