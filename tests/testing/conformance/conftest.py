"""Leaves the suites out that another file runs on the same servers."""

from __future__ import annotations

import pytest

from lmcache_connect.testing.pytest_plugin import sources_of


def pytest_pycollect_makeitem(collector: pytest.Collector, obj: object) -> list[pytest.Item] | None:
    """No test of a class with `elsewhere` where its servers are embedded: hundreds of skips told nobody anything."""
    if not isinstance(obj, type) or not getattr(obj, "elsewhere", ""):
        return None
    topology: str = getattr(obj, "topology", "")
    return [] if topology and sources_of(collector.config).origin(topology) == "embedded" else None
