"""`GET /metrics`: what the service counts, for Prometheus."""

from fastapi import APIRouter
from fastapi.responses import Response

from service.metrics import MEDIA_TYPE
from service.routes.query import Service

router = APIRouter(tags=["health"])


@router.get("/metrics", summary="Numbers for Prometheus", response_class=Response)
async def metrics(service: Service) -> Response:
    """How long requests take and where their time goes, in Prometheus's text format."""
    return Response(service.metrics.text(), media_type=MEDIA_TYPE)
