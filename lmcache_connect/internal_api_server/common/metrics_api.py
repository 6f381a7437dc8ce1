"""Metrics for Prometheus."""

from __future__ import annotations

from contextlib import suppress

from fastapi import APIRouter, Request, Response

from ...errors import LMCacheConnectError
from ..state import State

router = APIRouter(tags=["common"])


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "the metrics"}},
)
async def metrics(state: State, request: Request) -> Response:
    """Every metric, in Prometheus' text format, or in OpenMetrics where the request accepts it. No label holds a URL.

    Pings the stores, at most twice a second, and waits for them for `ready_timeout` seconds at most. None of that is in
    the counters. An answer may be a quarter of a second old.
    """
    with suppress(LMCacheConnectError):  # of a manager that is closed: its counters can be read
        await state.health.check(state.config.ready_timeout)
    body, media_type = await state.metrics.rendered(request.headers.get("accept", ""))
    return Response(body, media_type=media_type)
