"""`GET /metrics`: the metrics of the service for Prometheus."""

import asyncio

from fastapi import APIRouter, Request
from fastapi.responses import Response

from percept.api.state import Service

router = APIRouter(tags=["health"])


@router.get("/metrics", summary="Prometheus metrics", response_class=Response)
async def metrics(request: Request, service: Service) -> Response:
    """Return durations of requests and of their stages, and the state of models, queues and the process.

    The format is Prometheus text, or OpenMetrics if `Accept` prefers it.
    """
    # Rendering thousands of lines would block the event loop, and the queue of the worker pool may be long.
    text, media_type = await asyncio.to_thread(service.metrics.render, request.headers.get("accept", ""))
    return Response(text, headers={"Content-Type": media_type, "Vary": "Accept"})
