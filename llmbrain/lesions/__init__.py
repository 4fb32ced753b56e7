"""Lesions: neurons silenced, clamped or amplified while a model runs, and the studies built on them."""

from .context import Lesion, lesion
from .dose import DoseResponse, dose_response
from .kinds import KINDS, Edit
from .positions import POSITIONS
from .result import LesionResult
from .selectivity import double_dissociations, selectivity
from .statistics import IMPORTANCES, NeuronStatistics, neuron_statistics
from .study import LesionStudy
from .tasks import CallableTask, LossTask, MinimalPairTask, MultipleChoiceTask
from .texts import answer_task, generation_task, harness_task, side_by_side

__all__ = [
    "IMPORTANCES",
    "KINDS",
    "POSITIONS",
    "CallableTask",
    "DoseResponse",
    "Edit",
    "Lesion",
    "LesionResult",
    "LesionStudy",
    "LossTask",
    "MinimalPairTask",
    "MultipleChoiceTask",
    "NeuronStatistics",
    "answer_task",
    "dose_response",
    "double_dissociations",
    "generation_task",
    "harness_task",
    "lesion",
    "neuron_statistics",
    "selectivity",
    "side_by_side",
]
