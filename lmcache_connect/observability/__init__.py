"""Counters, histograms, structured log events and spans. URLs and keys are never used as labels.

Every other package reports here, so this one is near the bottom and imports only the version.
"""

from __future__ import annotations

from .events import event
from .histogram import Histogram
from .statistics import OperationStatistics, StoreMetrics
from .tracing import Span, current_tracer, mark_failed

__all__ = ["Histogram", "OperationStatistics", "Span", "StoreMetrics", "current_tracer", "event", "mark_failed"]
