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
async def metrics(state: State, request: Request) -> Response:
    """Every metric, in Prometheus' text format, or in OpenMetrics where the request accepts it. No label holds a URL.

    An answer may be a quarter of a second old.
    """
    body, media_type = await state.metrics.rendered(request.headers.get("accept", ""))
    return Response(body, media_type=media_type)
