"""Observers: what a stream of arrays teaches about the range its quantized form needs."""

from .base import Observer, observer_for, observers_by_method
from .histogram import HistogramObserver
from .minmax import MinMaxObserver, MovingAverageMinMaxObserver

__all__ = [
    "HistogramObserver",
    "MinMaxObserver",
    "MovingAverageMinMaxObserver",
    "Observer",
    "observer_for",
    "observers_by_method",
]
