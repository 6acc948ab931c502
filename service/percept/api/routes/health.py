"""`GET /health/live` and `GET /health/ready`: the liveness and readiness probes."""

from fastapi import APIRouter

from percept import errors
from percept.api.openapi import problem_responses
from percept.api.schemas.models import Health
from percept.api.state import AppState, Service

router = APIRouter(prefix="/health", tags=["health"])


@router.get("/live", summary="Liveness probe")
async def live(service: Service) -> Health:
    """Respond 200 while the process runs, even while it loads models."""
    return _health("live", service)


@router.get(
    "/ready",
    summary="Readiness probe",
    responses=problem_responses(errors.NotReady),
)
async def ready(service: Service) -> Health:
    """Respond 200 once every bundle is loaded or refused and the default model is served; else 503 with the reason."""
    service.check_ready()
    return _health("ready", service)


def _health(status: str, service: AppState) -> Health:
    repository = service.repository
    names = [f"{model.manifest.name}/{model.manifest.version}" for model in repository.models]
    return Health(status=status, models=names, refused=repository.refused)
