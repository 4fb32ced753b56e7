"""Lesions: neurons silenced, clamped or amplified while a model runs, and the studies built on them."""

from .context import Lesion, lesion
from .families import parse_family
from .kinds import KINDS, Edit
from .positions import POSITIONS
from .result import LesionResult
from .statistics import IMPORTANCES, NeuronStatistics, neuron_statistics
from .study import LesionStudy
from .tasks import CallableTask, LossTask, MinimalPairTask, MultipleChoiceTask

__all__ = [
    "IMPORTANCES",
    "KINDS",
    "POSITIONS",
    "CallableTask",
    "Edit",
    "Lesion",
    "LesionResult",
    "LesionStudy",
    "LossTask",
    "MinimalPairTask",
    "MultipleChoiceTask",
    "NeuronStatistics",
    "lesion",
    "neuron_statistics",
    "parse_family",
]
