"""`GET /metrics`: what the service counts, for Prometheus."""

import asyncio

from fastapi import APIRouter, Request
from fastapi.responses import Response

from percept.api.params import Service

router = APIRouter(tags=["health"])


@router.get("/metrics", summary="Numbers for Prometheus", response_class=Response)
async def metrics(request: Request, service: Service) -> Response:
    """How long requests take, where their time goes, and how the models, their queues and the process are doing.

    In Prometheus's text format, or as OpenMetrics where `Accept` asks for it.
    """
    # Thousands of lines take longer than the event loop should be busy, and a crew may have a long queue.
    text, kind = await asyncio.to_thread(service.metrics.text, request.headers.get("accept", ""))
    return Response(text, headers={"Content-Type": kind, "Vary": "Accept"})
