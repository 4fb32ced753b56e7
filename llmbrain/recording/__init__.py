"""Recording: from a model and texts to runs on disk."""

from .forecast import Forecast
from .job import RecordingOptions
from .recorder import forecast, record
from .shares import check_shares
from .sources import Material, conversations, generated

__all__ = [
    "Forecast",
    "Material",
    "RecordingOptions",
    "check_shares",
    "conversations",
    "forecast",
    "generated",
    "record",
]
