"""Observers: what a stream of arrays teaches about the range its quantized form needs."""

from .base import Observer
from .histogram import HistogramObserver
from .minmax import MinMaxObserver, MovingAverageMinMaxObserver

__all__ = ["HistogramObserver", "MinMaxObserver", "MovingAverageMinMaxObserver", "Observer"]
