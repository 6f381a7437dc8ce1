"""What happened, in numbers, in structured log events and in spans. No URL and no key value ever becomes a label."""

from __future__ import annotations

from .events import event, logger
from .histogram import LATENCY_BOUNDS, Histogram
from .statistics import OperationStatistics, StoreMetrics
from .tracing import Span, current_tracer

__all__ = [
    "LATENCY_BOUNDS",
    "Histogram",
    "OperationStatistics",
    "Span",
    "StoreMetrics",
    "current_tracer",
    "event",
    "logger",
]
