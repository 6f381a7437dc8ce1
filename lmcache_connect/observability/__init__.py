"""Counters, histograms, structured log events and spans. URLs and keys are never used as labels.

Imported by `contract`, `foreign`, `managed`, `manager`, `oversight`, `compat`, `engines`, `internal_api_server`, `cli`,
`lmcache_connect_redis` and `lmcache_connect_trials`. The packages below `contract` report nothing: they return or raise what happened.
"""

from __future__ import annotations

from .events import event
from .histogram import Histogram
from .statistics import OperationStatistics, StoreMetrics
from .tracing import Span, current_tracer, mark_failed

__all__ = ["Histogram", "OperationStatistics", "Span", "StoreMetrics", "current_tracer", "event", "mark_failed"]
