"""Recording: from a model and texts to runs on disk."""

from .forecast import Forecast, forecast
from .recorder import record
from .sources import Material, conversations, generated

__all__ = [
    "Forecast",
    "Material",
    "conversations",
    "forecast",
    "generated",
    "record",
]
