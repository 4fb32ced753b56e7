"""Recording: a model and texts in, runs out."""

from .accumulate import Gram, Moments, Sketch, accumulate
from .forecast import Forecast, forecast
from .recorder import record
from .sources import Material, conversations, generated

__all__ = [
    "Forecast",
    "Gram",
    "Material",
    "Moments",
    "Sketch",
    "accumulate",
    "conversations",
    "forecast",
    "generated",
    "record",
]
