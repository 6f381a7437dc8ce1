"""Metrics for Prometheus."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from ..state import State

router = APIRouter(tags=["common"])


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "the metrics"}},
)
def metrics(state: State, request: Request) -> Response:
    """Every metric, in Prometheus' text format, or in OpenMetrics where it is asked for. No label holds a URL."""
    # Not a coroutine: rendering a large registry is work for a thread, not for an event loop.
    body, media_type = state.metrics.render(request.headers.get("accept", ""))
    return Response(body, media_type=media_type)
