"""Observers: they read arrays one after the other and choose the range of the quantized form."""

from .base import Observer, observer_for, observers_by_method
from .histogram import HistogramObserver
from .mean import MeanObserver
from .minmax import MinMaxObserver, MovingAverageMinMaxObserver
from .moments import MomentsObserver

__all__ = [
    "HistogramObserver",
    "MeanObserver",
    "MinMaxObserver",
    "MomentsObserver",
    "MovingAverageMinMaxObserver",
    "Observer",
    "observer_for",
    "observers_by_method",
]
