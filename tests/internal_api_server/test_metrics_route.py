"""`GET /metrics`: what `ManagerMetrics` renders, in the format that the client asks for."""

from __future__ import annotations

import pytest
from prometheus_client.openmetrics import parser as openmetrics

from ..oversight.test_metrics import Scrape
from .conftest import Served


@pytest.mark.asyncio
async def test_the_route_gives_text_or_openmetrics_as_it_is_asked(served: Served) -> None:
    await served.put("a")
    text = await served.client.get("/metrics")
    assert text.headers["content-type"].startswith("text/plain; version=")
    assert Scrape(text.text)("bytes_total", connector="redis-1", operation="put") == 64
    accept = {"accept": "application/openmetrics-text; version=1.0.0"}
    modern = await served.client.get("/metrics", headers=accept)
    assert modern.headers["content-type"].startswith("application/openmetrics-text")
    assert list(openmetrics.text_string_to_metric_families(modern.text))  # type: ignore[no-untyped-call]
