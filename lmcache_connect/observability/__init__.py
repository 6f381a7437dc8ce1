"""What happened, in numbers, in structured log events and in spans. No URL and no key ever becomes a label.

Every other package reports here, so this one stands at the bottom and imports no other.
"""

from __future__ import annotations

from .events import event
from .histogram import Histogram
from .statistics import OperationStatistics, StoreMetrics
from .tracing import Span, current_tracer, mark_failed

__all__ = ["Histogram", "OperationStatistics", "Span", "StoreMetrics", "current_tracer", "event", "mark_failed"]
