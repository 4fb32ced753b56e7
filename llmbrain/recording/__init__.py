"""Recording: a model and texts in, runs out."""

from .forecast import Forecast, forecast
from .recorder import record

__all__ = ["Forecast", "forecast", "record"]
