"""Counters, histograms, structured log events and spans. URLs and keys are never used as labels.

Imported by `config`, `memory`, `contract`, `foreign`, `managed`, `manager`, `oversight`, `compat`, `engines`,
`internal_api_server`, `cli`, `lmcache_connect_redis`, `lmcache_connect_s3` and `lmcache_connect_trials`. The packages
below `contract` report no events: they return or raise what happened. `memory` imports the counts of a hot cache.
"""

from __future__ import annotations

from .conditions import Condition, Conditions
from .events import event
from .histogram import Histogram
from .job_counts import JobCounts
from .job_statistics import JobKind, JobStatistics
from .repeated_event import RepeatedEvent
from .secret_file import read_secret_file, warn_if_open_to_others
from .statistics import HotCacheCounts, OperationStatistics, StoreMetrics
from .tracing import Span, current_tracer, mark_failed

__all__ = [
    "Condition",
    "Conditions",
    "Histogram",
    "HotCacheCounts",
    "JobCounts",
    "JobKind",
    "JobStatistics",
    "OperationStatistics",
    "RepeatedEvent",
    "Span",
    "StoreMetrics",
    "current_tracer",
    "event",
    "mark_failed",
    "read_secret_file",
    "warn_if_open_to_others",
]
